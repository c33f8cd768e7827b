"""A temporary folder that is removed when the process ends, or at the next start if it was killed.

The process locks its folder. The kernel releases the lock when the process dies, so an unlocked folder is
abandoned and can be removed. systemd-tmpfiles, which deletes old files, also leaves locked folders alone.
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
    """Create a folder in ``parent``, or in the system's temporary folder, and remove it at the end.

    First remove folders with the same prefix and user that killed processes left. Raises StackError if the
    folder can't be created.
    """
    try:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        within = parent or _temporary_folder()
        for left in within.glob(f"{prefix}*"):
            with suppress(OSError):  # in use, another user's, or already removed by another process
                _remove_unless_locked(left)
        folder, lock = _create(prefix, within)
    except OSError as error:
        setting = "CANDLEFLOW_DATA_DIR" if parent else "TMPDIR"
        raise StackError(
            f"no temporary folder can be created: {error}; set {setting} to another folder"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _temporary_folder() -> Path:
    """Return the system's temporary folder, or /tmp if its path has spaces or special characters.

    Spark escapes a checkpoint's path twice, so it would create ``/a%20b`` for ``/a b`` and leave it behind.
    And it splits ``spark.local.dir`` at commas.
    """
    found = tempfile.gettempdir()
    return Path(found if re.fullmatch(r"[A-Za-z0-9._/+@=~-]+", found) else "/tmp")  # nosec B108 # noqa: S108 - made by mkdtemp


def _create(prefix: str, within: Path) -> tuple[Path, int]:
    """Create and lock a folder; return it with the lock's descriptor, which child processes don't inherit."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=within))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # else another process removed it as abandoned before we locked it
            return folder, lock
        os.close(lock)


def _remove_unless_locked(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(lock).st_uid == os.getuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    finally:
        os.close(lock)
