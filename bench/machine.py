"""Describe the machine and its current speed: the first line of every measurement.

On a shared host the same work took one to three times as long, depending on the hour. So a figure in
milliseconds means little without the speed of the machine at that moment.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Final

import psutil

_ROUNDS: Final = 1_000_000
_TRIES: Final = 3


def describe() -> str:
    """Describe system, processor, cores, memory, Python, load, and the time of a fixed Python loop."""
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{platform.platform()}, {_processor_name()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f}, "
        f"a million rounds of a loop in {fixed_work_ms():.0f} ms"
    )


def commit() -> str:
    """Return the measured commit, as ``git describe`` names it."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "an unknown commit"


def fixed_work_ms() -> float:
    """Return the processor time in ms of a million rounds of the same arithmetic: the best of three tries."""
    return min(_once() for _ in range(_TRIES))


def _once() -> float:
    began_at, total = time.process_time(), 0
    for number in range(_ROUNDS):
        total += number * number % 7
    return 1_000 * (time.process_time() - began_at)


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )
