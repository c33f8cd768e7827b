"""Measure the resources that processes and folders use."""

from __future__ import annotations

import contextlib
from dataclasses import astuple, dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources of a process and its descendants."""

    memory_mb: float
    """Proportional memory (PSS), in which shared pages count once."""
    descriptors: float
    threads: float


def usage_of(pid: int) -> Usage:
    """Measure a process and its descendants. Raises psutil.NoSuchProcess if it has ended."""
    first = psutil.Process(pid)
    taken = [_usage_of_one(first)]
    for one in first.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # e.g. a database backend that has just ended
            taken.append(_usage_of_one(one))
    return Usage(*map(sum, zip(*map(astuple, taken), strict=True)))


def _usage_of_one(process: psutil.Process) -> Usage:
    return Usage(process.memory_full_info().pss / 1e6, process.num_fds(), process.num_threads())


def size_mb(*files: Path) -> float:
    """Return the total size of files and folders; files that vanish meanwhile are ignored."""
    found = 0
    for file in (below for one in files for below in (one, *one.rglob("*"))):
        with contextlib.suppress(OSError):
            found += file.stat().st_size if file.is_file() else 0
    return found / 1e6
