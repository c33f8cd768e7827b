"""What goes to S3 beside the image: the brokers' files, and the processor's code and jars for the Spark
cluster.

``python -m deploy.aws.bundle`` copies them to ``deploy/aws/build``; with ``--jars`` the jars too, each with
its lock's SHA-256, which is what a deployment needs and a check doesn't.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
HERE: Final = Path(__file__).parent
BROKER: Final = HERE / "build" / "broker"
SPARK: Final = HERE / "build" / "spark"
KAFKA_LOCK: Final = ROOT / "candleflow" / "stack" / "jars.lock"
SPARK_LOCK: Final = ROOT / "candleflow" / "stack" / "jars-spark-4.0.lock"


def bundle() -> None:
    """Copy the files, all but the jars."""
    shutil.rmtree(HERE / "build", ignore_errors=True)
    for folder, names in (
        (
            BROKER,
            ("broker/users.py", "broker/server.properties", "broker/log4j2.xml"),
        ),
        (SPARK, ("emr/launch.py",)),
    ):
        folder.mkdir(parents=True)
        for name in names:
            shutil.copy(HERE / name, folder)
    for folder, group in ((BROKER, "aws-broker"), (SPARK, "aws-emr")):
        _export_packages(group, folder / "requirements.lock")
    for folder, lock, kind in ((BROKER, KAFKA_LOCK, "kafka"), (SPARK, SPARK_LOCK, "spark")):
        (folder / "jars.sha256").write_text(_sums(lock, kind))
    shutil.copytree(
        ROOT / "candleflow", SPARK / "candleflow", ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )


def _export_packages(group: str, target: Path) -> None:
    """Write what ``uv.lock`` has of a dependency group, with hashes, as pip reads it on a machine of AWS."""
    command = [ROOT / ".venv" / "bin" / "uv", "export", "--quiet", "--frozen", "--only-group", group]
    command += ["--no-emit-project", "--no-header", "--no-annotate", "--output-file", target]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def _rows(lock: Path, kind: str) -> list[tuple[str, str]]:
    """SHA-256 and file name of each jar of a kind."""
    rows = (line.split() for line in lock.read_text("utf-8").splitlines() if line.startswith(f"{kind} "))
    return [(sha256, path.rpartition("/")[2]) for _, _, sha256, path in rows]


def _sums(lock: Path, kind: str) -> str:
    return "".join(f"{sha256}  {name}\n" for sha256, name in _rows(lock, kind))


def add_jars(cache: Path) -> None:
    """Bring the jars by the program's own way, which verifies each. Needs the program's environment."""
    from candleflow.stack import jar_lock, jars

    for folder, lock, kind in ((BROKER, KAFKA_LOCK, "kafka"), (SPARK, SPARK_LOCK, "spark")):
        wanted = jar_lock.locked(kind, lock.read_text("utf-8"))  # type: ignore[arg-type]  # a bundle's name
        (folder / "jars").mkdir()
        for path in jars.fetch(wanted, cache / "jars", maven_url=jars.MAVEN_CENTRAL, what=kind):
            shutil.copy(path, folder / "jars")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jars", action="store_true", help="with the jars, which a deployment needs")
    given = parser.parse_args()
    bundle()
    if given.jars:
        add_jars(Path("~/.cache/candleflow").expanduser())
    sys.stdout.write(f"{BROKER} and {SPARK} are made{' with jars' if given.jars else ''}\n")


if __name__ == "__main__":
    main()
