"""``jars.lock``: every file that Kafka and Spark run on, by its path on Maven Central and its SHA-256.

Spark's are those of the pyspark that is installed: 4.0, which Amazon EMR runs, has a lock of its own.
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
    """One file of a bundle, as the lock names it."""

    path: str
    """Below the repository's base address: ``org/postgresql/postgresql/42.7.14/postgresql-42.7.14.jar``."""
    sha256: str
    size_bytes: int

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def locked(bundle: Bundle, lock: str | None = None) -> list[Jar]:
    """The jars of a bundle, in the lock's order, which is the class path's."""
    text = _lock_of(bundle) if lock is None else lock
    rows = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return [Jar(path, sha256, int(size)) for name, size, sha256, path in rows if name == bundle]


def _lock_of(bundle: Bundle) -> str:
    """The text of the lock that has the bundle: a connector and its Spark must be of one version."""
    name = LOCK_OF_SPARK_4_0 if bundle == "spark" and _pyspark_version().startswith("4.0.") else LOCK
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _pyspark_version() -> str:
    """As its package has it, as importing pyspark takes half a second; "" where it isn't installed."""
    try:
        return metadata.version("pyspark")
    except metadata.PackageNotFoundError:
        return ""
