"""A folder for what a process writes for itself: gone with it, and if it was killed, at the next start.

The kernel frees the lock of a process that dies, so a folder whose lock is free is nobody's. The lock also
keeps those who clear away what is old (systemd-tmpfiles) from a folder in use.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from candleflow.errors import StackError


@contextmanager
def work_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A folder of this process's own in ``parent``, or among the system's temporary ones; removed at the end.

    First it removes those of the same prefix and user that a killed process left. Raises StackError where it
    can't be made.
    """
    try:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        within = parent or _temporary_folder()
        for left in within.glob(f"{prefix}*"):
            with suppress(OSError):  # another's, or another process was quicker
                _remove_unless_held(left)
        folder, lock = _made(prefix, within)
    except OSError as error:
        setting = "CANDLEFLOW_DATA_DIR" if parent else "TMPDIR"
        raise StackError(f"no work folder can be made: {error}; {setting} names another place") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _temporary_folder() -> Path:
    """The system's folder for temporary files; /tmp where the path of that isn't plain.

    Spark escapes a checkpoint's path twice: ``/a b`` becomes ``/a%20b``, which nobody would clear. And it
    takes ``spark.local.dir`` for several folders, by commas.
    """
    found = tempfile.gettempdir()
    return Path(found if re.fullmatch(r"[A-Za-z0-9._/+@=~-]+", found) else "/tmp")  # nosec B108 # noqa: S108 - made by mkdtemp


def _made(prefix: str, within: Path) -> tuple[Path, int]:
    """A new folder and its lock's descriptor, which no child inherits."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=within))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # else another process took it for a dead one's before it was locked
            return folder, lock
        os.close(lock)


def _remove_unless_held(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(lock).st_uid == os.getuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    finally:
        os.close(lock)
