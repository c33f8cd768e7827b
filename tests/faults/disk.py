"""A small disk of its own for a folder, which a test fills and empties: a tmpfs, where one may be mounted."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import pytest

_BLOCKS: Final = (1 << 20, 4096, 1)
_BALLAST: Final = "ballast"


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """The folder is on a disk of that size; skips the test where nothing can be mounted."""
    if sys.platform != "linux":
        pytest.skip("a tmpfs is Linux's")
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        # Lazily: whoever has files open there is ended later.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """The folder's disk is full to the last byte, until the end."""
    ballast = folder / _BALLAST
    with ballast.open("wb", buffering=0) as file:
        for size in _BLOCKS:
            _write_until_full(file, bytes(size))
    try:
        yield
    finally:
        ballast.unlink()


def _write_until_full(file: BinaryIO, block: bytes) -> None:
    try:
        while file.write(block) == len(block):
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
