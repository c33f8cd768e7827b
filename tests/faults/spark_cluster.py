"""Spark's own cluster on this machine: a master and workers, each a process that a test may kill."""

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
    """``workers`` of one core each; a master of Spark's for ``CANDLEFLOW_SPARK_MASTER`` at ``master_url``."""

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
        """Until the master has taken the worker in, for the first time or once more."""
        words = "Successfully registered with master"
        awaited(lambda: worker.told().count(words) >= times, _START_SECONDS, worker.said)

    def submitted(self) -> list[str]:
        """The command that has spark-submit start the processor on the cluster: the guide's own lines.

        It is for a shell whose ``PATH`` begins with this Python's folder, as an activated environment's does.
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
    """A cluster that is up."""
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
