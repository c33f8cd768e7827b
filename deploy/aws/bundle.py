"""Collect what goes to S3: the brokers' files, and the processor's code and jars for the Spark cluster.

``python -m deploy.aws.bundle`` copies them to ``deploy/aws/build``. With ``--jars`` it adds the jars,
verified by the SHA-256 of their lock. A deployment needs the jars; a check of the template doesn't.
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
    """Copy all files but the jars."""
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
    """Write a dependency group of ``uv.lock``, with hashes, as a requirements file for pip on AWS."""
    command = [ROOT / ".venv" / "bin" / "uv", "export", "--quiet", "--frozen", "--only-group", group]
    command += ["--no-emit-project", "--no-header", "--no-annotate", "--output-file", target]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def _rows(lock: Path, kind: str) -> list[tuple[str, str]]:
    """Return SHA-256 and file name of each jar of a kind."""
    rows = (line.split() for line in lock.read_text("utf-8").splitlines() if line.startswith(f"{kind} "))
    return [(sha256, path.rpartition("/")[2]) for _, _, sha256, path in rows]


def _sums(lock: Path, kind: str) -> str:
    return "".join(f"{sha256}  {name}\n" for sha256, name in _rows(lock, kind))


def add_jars(cache: Path) -> None:
    """Download the jars with ``candleflow.stack.jars``, which verifies each. Needs ``.venv``."""
    from candleflow.stack import jar_lock, jars

    for folder, lock, kind in ((BROKER, KAFKA_LOCK, "kafka"), (SPARK, SPARK_LOCK, "spark")):
        wanted = jar_lock.locked(kind, lock.read_text("utf-8"))  # type: ignore[arg-type]  # a bundle's name
        (folder / "jars").mkdir()
        for path in jars.fetch(wanted, cache / "jars", maven_url=jars.MAVEN_CENTRAL, what=kind):
            shutil.copy(path, folder / "jars")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jars", action="store_true", help="add the jars, which a deployment needs")
    given = parser.parse_args()
    bundle()
    if given.jars:
        add_jars(Path("~/.cache/candleflow").expanduser())
    sys.stdout.write(f"made {BROKER} and {SPARK}{' with jars' if given.jars else ''}\n")


if __name__ == "__main__":
    main()
