"""What runs on a data folder: one lock that only one supervisor holds, and a file that says what it started.

``<data_dir>/run/up.json`` is for ``status`` and ``down``, and for the next start, which stops what a killed
supervisor may have left. A pid alone proves nothing, as pids are used again: each goes with the time at
which its process was created, and with the boot that it belongs to.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from candleflow.errors import HeldError, StackError
from candleflow.stack import process

LOCK: Final = "up.lock"
FILE: Final = "up.json"

_LEFTOVER_SECONDS: Final = 8.0


@dataclass(frozen=True, slots=True)
class RunningPart:
    """One process that the supervisor started."""

    name: str
    pid: int
    created_at: float
    stop_signal: int
    state: str


@dataclass(frozen=True, slots=True)
class Run:
    """What a supervisor says of itself; times in seconds since the epoch."""

    command: str
    """``up`` or ``services``."""
    pid: int
    created_at: float
    settings: Mapping[str, str | int]
    """The settings in force that others need to find what runs, by their names; no secret among them."""
    dashboard_url: str = ""
    booted_at: float = field(default_factory=psutil.boot_time)
    is_ready: bool = False
    parts: tuple[RunningPart, ...] = ()

    def is_alive(self) -> bool:
        return _is_this_boot(self.booted_at) and process.living(self.pid, self.created_at) is not None


def read_run(run_dir: Path) -> Run | None:
    """What the file says, or None where there is none that can be read."""
    try:
        fields: dict[str, Any] = json.loads((run_dir / FILE).read_text())
        parts = tuple(RunningPart(**part) for part in fields.pop("parts"))
        return Run(**fields, parts=parts)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def write_run(run_dir: Path, run: Run) -> None:
    beside = run_dir / f"{FILE}.tmp"
    beside.write_text(json.dumps(asdict(run), indent=1))
    beside.replace(run_dir / FILE)


def remove_run(run_dir: Path) -> None:
    (run_dir / FILE).unlink(missing_ok=True)


@contextlib.contextmanager
def only_one(run_dir: Path) -> Iterator[None]:
    """Hold the data folder's lock; raises HeldError naming what holds it.

    The kernel frees the lock of a process that dies, so a stale file blocks no start.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = _take(run_dir / LOCK)
    except OSError as error:
        raise StackError(
            f"{run_dir} can't be written: {error.strerror}; CANDLEFLOW_DATA_DIR moves it"
        ) from error
    if lock is None:
        raise HeldError(_who_holds(run_dir))
    try:
        yield
    finally:
        (run_dir / LOCK).unlink(missing_ok=True)
        os.close(lock)


def _take(path: Path) -> int | None:
    """The locked file's descriptor, or None where another holds it."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        # The holder before may have removed the file between our opening and locking it.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(lock).st_ino:
                return lock
        os.close(lock)


def _who_holds(run_dir: Path) -> str:
    run = read_run(run_dir)
    if run is None:
        return f"candleflow is already starting on {run_dir.parent}"
    page = f", its page is {run.dashboard_url}" if run.dashboard_url else ""
    return (
        f"`candleflow {run.command}` is already running on {run_dir.parent} (pid {run.pid}){page}; "
        "stop it with: python -m candleflow down"
    )


def stop_leftovers(run_dir: Path) -> list[str]:
    """Stop what an earlier supervisor started and a kill -9 left; the names of what there was.

    To be called by who holds the lock.
    """
    run = read_run(run_dir)
    stopped = []
    if run is not None and _is_this_boot(run.booted_at):
        # In the order in which they were to be stopped: the servers, which were started first, last.
        for part in reversed(run.parts):
            if process.stop_leftover(part.pid, part.created_at, part.stop_signal, _LEFTOVER_SECONDS):
                stopped.append(part.name)
            process.kill_session(part.pid, part.created_at)
            (run_dir / f"{part.name}.json").unlink(missing_ok=True)
    remove_run(run_dir)
    return stopped


def _is_this_boot(booted_at: float) -> bool:
    # The boot time is reckoned from the clock, which may have been set meanwhile: half a minute is no reboot.
    return abs(psutil.boot_time() - booted_at) < 30
