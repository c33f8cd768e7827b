"""Our programs as processes of their own, as a user starts them, and waiting for what they do."""

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
"""A stop may take 10 s; on a busy machine the interpreter's own end takes some more."""

T = TypeVar("T")


def environment(**settings: object) -> dict[str, str]:
    """This process's own, where these settings (``kafka_bootstrap=...``) stand in place of any of ours."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return others | {f"{PREFIX}{name.upper()}": str(value) for name, value in settings.items()}


@contextmanager
def started(
    command: Sequence[str | Path], variables: Mapping[str, str], log: Path, folder: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """A program, ended by SIGTERM, and by SIGKILL if that does nothing.

    What one leaves that has ended before, such as a killed processor's JVM, is left to end by itself.
    """
    process = spawn(command, log=log, environment=variables, cwd=folder)
    try:
        yield process
    finally:
        if process.poll() is None:
            stop(process, signal.SIGTERM, STOP_SECONDS)


@dataclass
class Running:
    """A running program of ours that keeps a heartbeat."""

    name: str
    process: subprocess.Popen[bytes]
    run_dir: Path
    log: Path

    def said(self) -> str:
        return self.log.read_text()[-8_000:]

    def heartbeat(self) -> Heartbeat | None:
        return read_heartbeat(self.run_dir, self.name)

    def running_counts(self) -> Mapping[str, int | float]:
        """What it tells while it runs; nothing where another process told last."""
        told = self.heartbeat()
        is_its_own = told is not None and told.state == "running" and told.pid == self.process.pid
        return told.counts if told is not None and is_its_own else {}

    def children(self) -> list[psutil.Process]:
        """The processor's JVM, and whatever else it started and that lives."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [one for one in found if one.status() != psutil.STATUS_ZOMBIE]

    def wait_for(self, what: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        """Fails with what the program said when the time is up, or when it has ended."""
        if not wait_for(lambda: what() or self.process.poll() is not None, seconds) or not what():
            has_ended = self.process.poll() is not None
            pytest.fail(f"{'ended' if has_ended else f'not within {seconds} s'}; it said:\n{self.said()}")

    def wait_until_it_reads(self) -> None:
        """Until the processor's query runs."""
        self.wait_for(lambda: "reading" in self.said())


def awaited(what: Callable[[], T], seconds: float, otherwise: Callable[[], str]) -> T:
    """The first true answer of ``what``; fails with ``otherwise`` when the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = what()
        if answer:
            return answer
        time.sleep(0.1)
    pytest.fail(f"not within {seconds:.0f} s: {otherwise()}")


@contextmanager
def lasting(seconds: float) -> Iterator[None]:
    """What is done within takes so long at least."""
    until = time.monotonic() + seconds
    yield
    assert wait_for(lambda: time.monotonic() >= until, seconds + 1)
