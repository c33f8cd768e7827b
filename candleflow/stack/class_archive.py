"""Class-data archives (CDS), which make a JVM start faster: one for Spark's JVM and one for Kafka's.

If there is no archive, the JVM lists the classes that it loads. While it runs, a second JVM with low priority
makes the archive from that list, for the next start. A JVM ignores an archive that doesn't match it, but
crashes with SIGBUS or SIGSEGV on one that is truncated or altered (seen with 17.0.15). So the file's name
contains its SHA-256, and each start verifies it, which takes 0.14 s for Spark's archive.

``-XX:ArchiveClassesAtExit`` would be simpler, but it made Spark's stop 20 s longer and saved no more
(docs/explanation/performance.md).
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
"""Time limit for making an archive. It takes half a minute of processor time, at low priority."""

_KEPT: Final = 3
"""How many archives of a kind to keep: the last used ones, as each installation has its own. One takes 190 MB
for Spark and 60 MB for Kafka."""

# Ignore an unusable archive without a warning: the only effect is a slower start.
_USE: Final = ("-Xshare:auto", "-Xlog:cds=off", "-Xlog:cds+dynamic=off", "-Xlog:class+path=off")

# SerialGC leaves heap objects out of the archive: those fit one collector only and saved no measurable time.
_MAKE: Final = ("-Xshare:dump", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


@dataclass(frozen=True, slots=True)
class ClassArchive:
    """The archive of one kind of JVM.

    ``key`` identifies the JVM and the jars, so a change of these gives a new file.
    """

    folder: Path
    kind: Kind
    key: str
    java_home: Path

    def find(self) -> Path | None:
        """Return the archive's file if it exists and its SHA-256 is right, else None."""
        return next(filter(_is_intact, self._files()), None)

    def java_options(self, listing: Path) -> list[str]:
        """Return the JVM options that use the archive or, if there is none yet, list the classes."""
        listing.unlink(missing_ok=True)
        found = self.find()
        if found is None:
            return [f"-XX:DumpLoadedClassList={listing}"]
        with contextlib.suppress(OSError):  # the cache is read-only
            os.utime(found)
        return [f"-XX:SharedArchiveFile={found}", *_USE]

    def make(self, listing: Path, class_path: str) -> bool:
        """Make the archive from the classes that a JVM with this class path has listed.

        Returns false if the archive exists or another process is making it. Blocks for about a minute;
        ``process.kill_runs`` stops it. Raises StackError if it fails.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder / f"{self.kind}.lock") as is_ours:
                if not is_ours or self.find() is not None:
                    return False
                self._make(listing, class_path)
        except (OSError, subprocess.SubprocessError) as error:
            raise StackError(f"{self.kind}'s classes can't be archived in {self.folder}: {error}") from error
        return True

    def _files(self) -> Iterator[Path]:
        return self.folder.glob(f"{self.kind}-{self.key}-*.jsa")

    def _make(self, listing: Path, class_path: str) -> None:
        unfinished, classes = self.folder / f"{self.kind}.part", self.folder / f"{self.kind}.classes"
        try:
            # The JVM is still writing the list, so its last line may be incomplete.
            classes.write_bytes(listing.read_bytes().rpartition(b"\n")[0] + b"\n")
            files = (f"-XX:SharedClassListFile={classes}", f"-XX:SharedArchiveFile={unfinished}")
            done = process.run(
                (self.java_home / "bin" / "java", *_MAKE, *files, "-cp", class_path),
                before_exec=lower_priority,
                within_seconds=MAKING_SECONDS,
                cwd=self.folder,
            )
            if done.returncode:
                output = (done.stderr or done.stdout).strip()[-400:]
                raise StackError(
                    f"{self.kind}'s classes can't be archived: java ended with {done.returncode}: {output}"
                )
            for broken in self._files():
                broken.unlink()
            unfinished.replace(self.folder / f"{self.kind}-{self.key}-{_digest(unfinished)}.jsa")
        finally:
            unfinished.unlink(missing_ok=True)
            classes.unlink(missing_ok=True)
        self._remove_old()

    def _remove_old(self) -> None:
        found = sorted(self.folder.glob(f"{self.kind}-*.jsa"), key=lambda one: -one.stat().st_mtime)
        for old in found[_KEPT:]:
            old.unlink(missing_ok=True)


def kafka_archive(cache_dir: Path, java_home: Path, jars: Sequence[Path]) -> ClassArchive:
    """Return the archive of a Kafka broker with these jars."""
    return _archive("kafka", cache_dir, java_home, jars)


def spark_archive(cache_dir: Path, java_home: Path, jars: Sequence[Path]) -> ClassArchive:
    """Return the archive of a Spark driver with these jars and pyspark's own."""
    spec = util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise StackError("the package pyspark is not installed: pip install -r requirements.txt")
    shipped = Path(spec.origin).parent / "jars"
    # Don't sort: java takes the jars in the folder's order, and the archive is valid for one class path
    # order.
    return _archive("spark", cache_dir, java_home, [*jars, *shipped.iterdir()])


def _archive(kind: Kind, cache_dir: Path, java_home: Path, jars: Sequence[Path]) -> ClassArchive:
    return ClassArchive(cache_dir / "cds", kind, _key(java_home, jars), java_home)


def _key(java_home: Path, jars: Sequence[Path]) -> str:
    """Hash what a JVM compares with its archive: its build, and each jar's path, size and change time."""
    digest = hashlib.sha256()
    for one in (java_home / "release", java_home / "lib" / "modules", *jars):
        with contextlib.suppress(OSError):  # a missing file must not prevent the start
            stat = one.stat()
            digest.update(f"{one}\0{stat.st_size}\0{int(stat.st_mtime)}\n".encode())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[bool]:
    """Yield whether we got the lock, so that no other process is making this archive."""
    with os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)) as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def lower_priority() -> None:
    """Give this process less processor time, and let the kernel kill it first if memory runs out.

    It takes up to 0.93 GB. In a container, the kernel would else kill the larger JVM that it is made for.
    """
    os.nice(10)
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text("1000")


def _is_intact(path: Path) -> bool:
    try:
        return path.stem.endswith(_digest(path))
    except OSError:
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
