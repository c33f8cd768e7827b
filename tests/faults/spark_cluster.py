"""A Spark standalone cluster on this machine: a master and workers, which a test may kill."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyspark

from candleflow.stack.process import LOOPBACK, free_port, is_listening
from tests.faults.programs import Program
from tests.processes import ROOT, awaited

GUIDE = ROOT / "docs" / "guides" / "spark-cluster.md"
_SPARK_HOME = Path(pyspark.__file__).parent
_DEPLOY = "org.apache.spark.deploy"
_START_SECONDS = 180


class SparkCluster:
    """A master and ``workers`` workers of one core; ``master_url`` is for ``CANDLEFLOW_SPARK_MASTER``."""

    def __init__(self, folder: Path, workers: int, java_home: Path, faults: Counter[str]) -> None:
        self._port = free_port()
        self.master_url = f"spark://{LOOPBACK}:{self._port}"
        variables = {
            "PATH": os.environ["PATH"],
            "JAVA_HOME": str(java_home),
            "SPARK_HOME": str(_SPARK_HOME),
            "SPARK_LOCAL_IP": LOOPBACK,
            "SPARK_DAEMON_MEMORY": "256m",
        }
        self._master = Program(
            "Spark's master",
            _daemon("master.Master", "--port", str(self._port)),
            folder, Counter(), variables,
        )  # fmt: skip
        self.workers = [
            Program(
                f"Spark's worker {number}",
                _daemon("worker.Worker", "--cores", "1", "--memory", "1g",
                        "--work-dir", folder / f"worker-{number}", self.master_url),
                folder, faults, variables,
            )
            for number in range(1, workers + 1)
        ]  # fmt: skip

    def start(self) -> None:
        self._master.start()
        awaited(lambda: is_listening(self._port), _START_SECONDS, self._master.said)
        for worker in self.workers:
            worker.start()
        for worker in self.workers:
            self.wait_for(worker)

    def wait_for(self, worker: Program, times: int = 1) -> None:
        """Wait until the worker has registered with the master ``times`` times."""
        words = "Successfully registered with master"
        awaited(lambda: worker.output().count(words) >= times, _START_SECONDS, worker.said)

    def submitted(self) -> list[str]:
        """Return the spark-submit command from the guide, changed to this cluster's master.

        It needs this Python's folder first in ``PATH``, as in an activated virtual environment.
        """
        blocks = re.findall(r"(?ms)^```bash\n(.*?)^```", GUIDE.read_text())
        (lines,) = (block for block in blocks if "spark-submit --master" in block)
        (master,) = re.findall(r"--master (\S+)", lines)
        return ["bash", "-euc", lines.replace(master, self.master_url)]

    def close(self) -> None:
        for program in (*self.workers, self._master):
            program.faults = Counter()
            program.kill(with_children=True)


@contextmanager
def spark_cluster(
    folder: Path, workers: int, java_home: Path, faults: Counter[str]
) -> Iterator[SparkCluster]:
    """Run a cluster until the block ends."""
    folder.mkdir()
    cluster = SparkCluster(folder, workers, java_home, faults)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


def _daemon(name: str, *arguments: str | Path) -> list[str | Path]:
    script = _SPARK_HOME / "bin" / "spark-class"
    return [script, f"{_DEPLOY}.{name}", "--host", LOOPBACK, "--webui-port", "0", *arguments]
