"""Mount a small disk (tmpfs) on a folder, which a test can fill up and empty."""

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
    """Mount a disk of that size on the folder; skip the test if mounting isn't possible."""
    if sys.platform != "linux":
        pytest.skip("tmpfs exists only on Linux")
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"can't mount a tmpfs: {done.stderr.strip()}")
    try:
        yield
    finally:
        # Lazily, because programs with open files there are stopped only later.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Fill the folder's disk to the last byte until the block ends."""
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
