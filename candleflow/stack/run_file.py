"""The supervisor's lock on a data folder, and ``run/up.json``, which lists the processes that it started.

``status`` and ``down`` read ``up.json``. So does the next start, which stops what a killed supervisor left
running. The kernel reuses pids, so the file keeps with each pid the time at which the process was created,
and the time of the boot.
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
    """The content of ``up.json``: a supervisor and its processes. Times are in seconds since the epoch."""

    command: str
    """``up`` or ``services``."""
    pid: int
    created_at: float
    settings: Mapping[str, str | int]
    """The settings, without secrets, by which other commands find these processes."""
    dashboard_url: str = ""
    booted_at: float = field(default_factory=psutil.boot_time)
    is_ready: bool = False
    parts: tuple[RunningPart, ...] = ()

    def is_alive(self) -> bool:
        return _is_this_boot(self.booted_at) and process.find_alive(self.pid, self.created_at) is not None


def read_run(run_dir: Path) -> Run | None:
    """Read ``up.json``; None if it is missing or can't be parsed."""
    try:
        fields: dict[str, Any] = json.loads((run_dir / FILE).read_text())
        parts = tuple(RunningPart(**part) for part in fields.pop("parts"))
        return Run(**fields, parts=parts)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def write_run(run_dir: Path, run: Run) -> None:
    unfinished = run_dir / f"{FILE}.tmp"
    unfinished.write_text(json.dumps(asdict(run), indent=1))
    unfinished.replace(run_dir / FILE)


def remove_run(run_dir: Path) -> None:
    (run_dir / FILE).unlink(missing_ok=True)


@contextlib.contextmanager
def hold_run_lock(run_dir: Path) -> Iterator[None]:
    """Hold the data folder's lock. Raises HeldError, naming the holder, if another process has it.

    The kernel releases the lock of a process that dies, so a leftover lock file blocks no start.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = _try_lock(run_dir / LOCK)
    except OSError as error:
        raise StackError(
            f"{run_dir} can't be written: {error.strerror}; set CANDLEFLOW_DATA_DIR to another folder"
        ) from error
    if lock is None:
        raise HeldError(_already_running(run_dir))
    try:
        yield
    finally:
        (run_dir / LOCK).unlink(missing_ok=True)
        os.close(lock)


def _try_lock(path: Path) -> int | None:
    """Lock the file and return its descriptor; None if another process holds the lock."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        # The previous holder may have removed the file after we opened it and before we locked it.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(lock).st_ino:
                return lock
        os.close(lock)


def _already_running(run_dir: Path) -> str:
    run = read_run(run_dir)
    if run is None:
        return f"candleflow is already starting on {run_dir.parent}"
    page = f"; its page is {run.dashboard_url}" if run.dashboard_url else ""
    return (
        f"`candleflow {run.command}` is already running on {run_dir.parent} (pid {run.pid}){page}; "
        "stop it with: python -m candleflow down"
    )


def stop_leftovers(run_dir: Path) -> list[str]:
    """Stop the processes that a killed supervisor left running and return their names.

    The caller must hold the lock (``hold_run_lock``).
    """
    run = read_run(run_dir)
    stopped = []
    if run is not None and _is_this_boot(run.booted_at):
        # Stop in reverse order of the start, so that the servers stop after the processes that write to them.
        for part in reversed(run.parts):
            if process.stop_leftover(part.pid, part.created_at, part.stop_signal, _LEFTOVER_SECONDS):
                stopped.append(part.name)
            process.kill_session(part.pid, part.created_at)
            (run_dir / f"{part.name}.json").unlink(missing_ok=True)
    remove_run(run_dir)
    return stopped


def _is_this_boot(booted_at: float) -> bool:
    # psutil derives the boot time from the clock, which may have been corrected since. Less than 30 s is no
    # reboot.
    return abs(psutil.boot_time() - booted_at) < 30
