"""Archives of class data (CDS), with which a JVM starts quicker: one for Spark's JVM, one for Kafka's.

A JVM that finds no archive lists the classes it loads. From that list another JVM makes the archive while
the first one goes on, at a low priority, for the next start. Nothing but time rests on an archive. A JVM
passes over one that doesn't suit it, but dies by SIGBUS or SIGSEGV of one that is cut or altered (seen with
17.0.15), so the file's name holds its SHA-256, which each start verifies: 0.14 s for Spark's.

Made at exit in place of that (``-XX:ArchiveClassesAtExit``), Spark's took 20 s of a stop, 6 s more of
processor time at the start before it, and saved no more.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Final, Literal

from candleflow.errors import StackError
from candleflow.stack import process

Kind = Literal["kafka", "spark"]

MAKING_SECONDS: Final = 1_800.0
"""It takes half a minute of an idle processor, and may have to wait for one."""

_KEPT: Final = 3
"""So many of a kind, those used last: 190 MB each for Spark, 60 for Kafka. One for each installation."""

# What can't be used is passed over in silence: it costs time, and a line about it helps nobody.
_USE: Final = ("-Xshare:auto", "-Xlog:cds=off", "-Xlog:cds+dynamic=off", "-Xlog:class+path=off")

# Least work, and no objects of the heap in it: those suit one collector only, and saved nothing measurable.
_MAKE: Final = ("-Xshare:dump", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


@dataclass(frozen=True, slots=True)
class ClassArchive:
    """The archive of one kind of JVM; ``key`` names all that it depends on, so a change leads to another."""

    folder: Path
    kind: Kind
    key: str
    java_home: Path

    def find(self) -> Path | None:
        """The archive's file, whole and readable, or None."""
        return next(filter(_is_whole, self._files()), None)

    def java_options(self, listing: Path) -> list[str]:
        """For the JVM's command line: use the archive or, where there is none yet, list the classes."""
        listing.unlink(missing_ok=True)
        found = self.find()
        if found is None:
            return [f"-XX:DumpLoadedClassList={listing}"]
        with contextlib.suppress(OSError):  # a cache that may only be read
            os.utime(found)
        return [f"-XX:SharedArchiveFile={found}", *_USE]

    def make(self, listing: Path, class_path: str) -> bool:
        """Make it from what a JVM with this class path has listed; whether it was made here and now.

        Blocks for a minute; ``process.end_runs`` cuts it short. Raises StackError where it can't be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _alone(self.folder / f"{self.kind}.lock") as is_alone:
                if not is_alone or self.find() is not None:
                    return False
                self._make(listing, class_path)
        except (OSError, subprocess.SubprocessError) as error:
            raise StackError(f"{self.kind}'s classes can't be archived in {self.folder}: {error}") from error
        return True

    def _files(self) -> Iterator[Path]:
        return self.folder.glob(f"{self.kind}-{self.key}-*.jsa")

    def _make(self, listing: Path, class_path: str) -> None:
        beside, classes = self.folder / f"{self.kind}.part", self.folder / f"{self.kind}.classes"
        try:
            # The JVM goes on listing: its last line may be half written.
            classes.write_bytes(listing.read_bytes().rpartition(b"\n")[0] + b"\n")
            files = (f"-XX:SharedClassListFile={classes}", f"-XX:SharedArchiveFile={beside}")
            done = process.run(
                (self.java_home / "bin" / "java", *_MAKE, *files, "-cp", class_path),
                become=_give_way,
                within_seconds=MAKING_SECONDS,
                cwd=self.folder,
            )
            if done.returncode:
                said = (done.stderr or done.stdout).strip()[-400:]
                raise StackError(
                    f"{self.kind}'s classes can't be archived: java ended with {done.returncode}: {said}"
                )
            for broken in self._files():
                broken.unlink()
            beside.replace(self.folder / f"{self.kind}-{self.key}-{_digest(beside)}.jsa")
        finally:
            beside.unlink(missing_ok=True)
            classes.unlink(missing_ok=True)
        self._remove_old()

    def _remove_old(self) -> None:
        found = sorted(self.folder.glob(f"{self.kind}-*.jsa"), key=lambda one: -one.stat().st_mtime)
        for old in found[_KEPT:]:
            old.unlink(missing_ok=True)


def kafka_archive(cache_dir: Path, java_home: Path, jars: Sequence[Path]) -> ClassArchive:
    """That of a broker with these jars."""
    return _archive("kafka", cache_dir, java_home, jars)


def spark_archive(cache_dir: Path, java_home: Path, jars: Sequence[Path]) -> ClassArchive:
    """That of Spark's driver with these jars beside pyspark's own."""
    spec = util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise StackError("the package pyspark is not installed: pip install -r requirements.txt")
    shipped = Path(spec.origin).parent / "jars"
    # In the folder's own order, not sorted: java takes them so, and the class path's order must be the same.
    return _archive("spark", cache_dir, java_home, [*jars, *shipped.iterdir()])


def _archive(kind: Kind, cache_dir: Path, java_home: Path, jars: Sequence[Path]) -> ClassArchive:
    return ClassArchive(cache_dir / "cds", kind, _key(java_home, jars), java_home)


def _key(java_home: Path, jars: Sequence[Path]) -> str:
    """Names what a JVM compares with its archive: its own build, and each jar's path, size and time."""
    told = hashlib.sha256()
    for one in (java_home / "release", java_home / "lib" / "modules", *jars):
        with contextlib.suppress(OSError):  # what isn't there keeps nothing from starting
            stat = one.stat()
            told.update(f"{one}\0{stat.st_size}\0{int(stat.st_mtime)}\n".encode())
    return told.hexdigest()[:16]


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Whether no other process makes this archive; the kernel frees the lock of one that dies."""
    with os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)) as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _give_way() -> None:
    os.nice(10)


def _is_whole(path: Path) -> bool:
    try:
        return path.stem.endswith(_digest(path))
    except OSError:
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
