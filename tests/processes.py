"""Run our programs as separate processes, as a user starts them, and wait for what they do."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from candleflow.settings import PREFIX
from candleflow.stack.process import spawn, stop, wait_for
from candleflow.telemetry import Heartbeat, read_heartbeat

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 120
STOP_SECONDS = 15
"""A stop may take 10 s; on a busy machine the interpreter needs a few more to exit."""

T = TypeVar("T")


def environment(**settings: object) -> dict[str, str]:
    """Return this process's environment with these settings (``kafka_bootstrap=...``) instead of its own."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return others | {f"{PREFIX}{name.upper()}": str(value) for name, value in settings.items()}


@contextmanager
def started(
    command: Sequence[str | Path], variables: Mapping[str, str], log: Path, folder: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends, then send SIGTERM, and SIGKILL if that has no effect.

    If the program has already ended, its children, such as a killed processor's JVM, are left to exit by
    themselves.
    """
    process = spawn(command, log=log, environment=variables, cwd=folder)
    try:
        yield process
    finally:
        if process.poll() is None:
            stop(process, signal.SIGTERM, STOP_SECONDS)


@dataclass
class Running:
    """A running program of ours that writes a heartbeat."""

    name: str
    process: subprocess.Popen[bytes]
    run_dir: Path
    log: Path

    def said(self) -> str:
        return self.log.read_text()[-8_000:]

    def heartbeat(self) -> Heartbeat | None:
        return read_heartbeat(self.run_dir, self.name)

    def running_counts(self) -> Mapping[str, int | float]:
        """Return the counts of its heartbeat; empty if it isn't running or another process wrote last."""
        beat = self.heartbeat()
        is_its_own = beat is not None and beat.state == "running" and beat.pid == self.process.pid
        return beat.counts if beat is not None and is_its_own else {}

    def children(self) -> list[psutil.Process]:
        """Return its running descendants, such as the processor's JVM."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [one for one in found if one.status() != psutil.STATUS_ZOMBIE]

    def wait_for(self, what: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        """Wait until ``what`` is true. On a timeout, or if the program ends, fail with its log."""
        if not wait_for(lambda: what() or self.process.poll() is not None, seconds) or not what():
            has_ended = self.process.poll() is not None
            pytest.fail(f"{'ended' if has_ended else f'not within {seconds} s'}; its log:\n{self.said()}")

    def wait_until_it_reads(self) -> None:
        """Wait until the processor's query runs."""
        self.wait_for(lambda: "reading" in self.said())


def awaited(what: Callable[[], T], seconds: float, otherwise: Callable[[], str]) -> T:
    """Poll ``what`` and return its first true answer; on a timeout, fail with the text of ``otherwise``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = what()
        if answer:
            return answer
        time.sleep(0.1)
    pytest.fail(f"not within {seconds:.0f} s: {otherwise()}")


@contextmanager
def lasting(seconds: float) -> Iterator[None]:
    """Make the block take at least ``seconds``."""
    until = time.monotonic() + seconds
    yield
    assert wait_for(lambda: time.monotonic() >= until, seconds + 1)
