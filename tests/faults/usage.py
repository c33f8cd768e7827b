"""What processes and folders take of a machine."""

from __future__ import annotations

import contextlib
from dataclasses import astuple, dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process and all that it started."""

    memory_mb: float
    """Proportional (PSS): what several share counts once."""
    descriptors: float
    threads: float


def usage_of(pid: int) -> Usage:
    """Raises psutil.NoSuchProcess where it has ended."""
    first = psutil.Process(pid)
    taken = [_usage_of_one(first)]
    for one in first.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # such as a backend whose client has just gone
            taken.append(_usage_of_one(one))
    return Usage(*map(sum, zip(*map(astuple, taken), strict=True)))


def _usage_of_one(process: psutil.Process) -> Usage:
    return Usage(process.memory_full_info().pss / 1e6, process.num_fds(), process.num_threads())


def size_mb(*files: Path) -> float:
    """Of files, and of all that is in folders; what goes away meanwhile counts as nothing."""
    found = 0
    for file in (below for one in files for below in (one, *one.rglob("*"))):
        with contextlib.suppress(OSError):
            found += file.stat().st_size if file.is_file() else 0
    return found / 1e6
