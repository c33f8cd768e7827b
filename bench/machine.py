"""What the figures were taken on, and how quick it was at that moment: the first line of every measurement.

The same two cores were seen to take from one to three times as long for the same work, by the hour: what
others do on the machine that ours is a part of. So a figure in milliseconds means little without this one.
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
    """System, processor, cores, memory, Python, load, and how long a fixed piece of Python takes."""
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{platform.platform()}, {_processor_name()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f}, "
        f"a million rounds of a loop in {fixed_work_ms():.0f} ms"
    )


def commit() -> str:
    """What is measured, as git describes it."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "an unknown commit"


def fixed_work_ms() -> float:
    """Processor time in ms, the least of some tries, for a million rounds of the same arithmetic."""
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
