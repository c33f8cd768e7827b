"""Read ``jars.lock``: each jar that Kafka and Spark need, with its path on Maven Central and its SHA-256.

Spark's jars must match the installed pyspark, so Spark 4.0, the version of Amazon EMR, has its own lock file.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata, resources
from typing import Final, Literal

LOCK: Final = "jars.lock"
LOCK_OF_SPARK_4_0: Final = "jars-spark-4.0.lock"

Bundle = Literal["kafka", "spark"]


@dataclass(frozen=True, slots=True)
class Jar:
    """One jar in the lock file."""

    path: str
    """Path in the repository: ``org/postgresql/postgresql/42.7.14/postgresql-42.7.14.jar``."""
    sha256: str
    size_bytes: int

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def locked(bundle: Bundle, lock: str | None = None) -> list[Jar]:
    """Return the jars of a bundle in the order of the lock file, which is the order of the class path."""
    text = _lock_of(bundle) if lock is None else lock
    rows = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return [Jar(path, sha256, int(size)) for name, size, sha256, path in rows if name == bundle]


def _lock_of(bundle: Bundle) -> str:
    """Return the text of the lock file for the bundle. Spark's connector must have the version of pyspark."""
    name = LOCK_OF_SPARK_4_0 if bundle == "spark" and _pyspark_version().startswith("4.0.") else LOCK
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _pyspark_version() -> str:
    """Return pyspark's version from its package metadata; "" if it isn't installed.

    Importing pyspark would take half a second.
    """
    try:
        return metadata.version("pyspark")
    except metadata.PackageNotFoundError:
        return ""
