"""Start and stop child processes that end with their parent; check ports and logs.

Each child gets its own session, so Ctrl-C in the terminal reaches only the supervisor, which then stops the
children in order. On Linux the kernel signals a child when the thread that started it dies, so a supervisor
killed by SIGKILL leaves no children. Therefore only the main thread may start them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.request import ProxyHandler, build_opener

import psutil

LOOPBACK: Final = "127.0.0.1"
LOG_LIMIT_BYTES: Final = 5_000_000

_PR_SET_PDEATHSIG: Final = 1
# Ignores HTTP_PROXY: the addresses are on this machine.
_WITHOUT_PROXY: Final = build_opener(ProxyHandler({}))
_POLL_SECONDS: Final = 0.02
_RUN_SECONDS: Final = 120
_TAIL_LENGTH: Final = 400
_FULL_BELOW_BYTES: Final = (
    16 << 20
)  # PostgreSQL writes its log in files of 16 MB and ends when it can't create the next one

# Loaded before any fork: importing in the child could deadlock on the loader's lock.
_LIBC: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def spawn(
    arguments: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    before_exec: Callable[[], None] | None = None,
    signal_with_parent: int | None = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start a child process and append its output to ``log``.

    ``before_exec`` runs in the child before the program, for example to change the user.
    ``signal_with_parent`` is the signal that the child gets when this process dies; with None it survives.
    Raises OSError or SubprocessError.
    """
    if signal_with_parent is not None and threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "the kernel kills a child with the thread that started it: start it from the main thread"
        )
    parent = os.getpid()

    def prepare() -> None:
        if before_exec is not None:
            before_exec()
        # After the change of user, which resets this setting.
        if signal_with_parent is not None:
            _die_with(parent, signal_with_parent)

    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(argument) for argument in arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment) if environment is not None else None,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509 - calls nothing that takes a lock
        )


def run(
    arguments: Sequence[str | Path],
    *,
    before_exec: Callable[[], None] | None = None,
    stdin: str = "",
    within_seconds: float = _RUN_SECONDS,
    **more: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a program with ``stdin`` as its input until it ends; ``kill_runs`` in another thread kills it.

    Raises OSError or SubprocessError, such as TimeoutExpired when the time is up.
    """
    parent = os.getpid()

    def prepare() -> None:
        if before_exec is not None:
            before_exec()
        _die_with(parent, signal.SIGKILL)

    with subprocess.Popen(
        [str(argument) for argument in arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=prepare,  # noqa: PLW1509 - calls nothing that takes a lock
        **more,
    ) as started:
        _running.add(started)
        try:
            out, errors = started.communicate(stdin, timeout=within_seconds)
        finally:
            _running.discard(started)
            kill_group(started.pid)
    return subprocess.CompletedProcess(started.args, started.returncode, out, errors)


def kill_runs() -> None:
    """Kill the programs that ``run`` has started in any thread."""
    for started in list(_running):
        kill_group(started.pid)


_running: set[subprocess.Popen[str]] = set()


def _die_with(parent: int, with_signal: int) -> None:
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, with_signal, 0, 0, 0)
    if os.getppid() != parent:  # the parent died before the call
        os._exit(1)


def wait(process: subprocess.Popen[Any] | psutil.Process, within_seconds: float) -> bool:
    """Return whether the process ended within that time."""
    try:
        process.wait(timeout=max(0.0, within_seconds))
    except (subprocess.TimeoutExpired, psutil.TimeoutExpired):
        return False
    return True


def stop(process: subprocess.Popen[bytes], with_signal: int, within_seconds: float) -> None:
    """Send the process a signal; after the deadline kill it.

    Always kill what is left of its process group.
    """
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(with_signal)
        if not wait(process, within_seconds):
            kill_group(process.pid)
            process.wait()
            return
    kill_group(process.pid)


def kill_group(leader: int) -> None:
    """Kill all processes of the leader's process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def stop_leftover(pid: int, created_at: float, with_signal: int, within_seconds: float) -> bool:
    """Stop a process of an earlier run if the pid still belongs to it; return whether it did."""
    found = find_alive(pid, created_at)
    if found is not None:
        end(found, with_signal, within_seconds)
    return found is not None


def end(process: psutil.Process, with_signal: int, within_seconds: float) -> None:
    """Stop a process that isn't our child, like ``stop``."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(with_signal)
        if not wait(process, within_seconds):
            kill_group(process.pid)
            process.kill()
            wait(process, 5)


def kill_session(leader: int, created_at: float) -> None:
    """Kill what is left in the session of a process that has ended.

    The kernel doesn't reuse the pid while the session has processes.
    """
    if psutil.pid_exists(leader):
        return
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getsid(one.pid) == leader and one.create_time() > created_at - 1:
                one.kill()


def find_alive(pid: int, created_at: float) -> psutil.Process | None:
    """Return the process if it is alive and was created at that time; else None, as the pid was reused."""
    try:
        found = psutil.Process(pid)
        # psutil rounds the time to clock ticks. The kernel doesn't reuse a pid within a second.
        same = abs(found.create_time() - created_at) < 1
        return found if same and found.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def trim_log(log: Path, limit_bytes: int = LOG_LIMIT_BYTES) -> None:
    """Keep a log file bounded: above the limit, copy its end to ``<name>.1`` and truncate it.

    The children write in append mode, so truncating the file is safe while they write.
    """
    with contextlib.suppress(OSError):
        if log.stat().st_size > limit_bytes:
            log.with_name(f"{log.name}.1").write_bytes(log.read_bytes()[-limit_bytes:])
            os.truncate(log, 0)


def tail(log: Path, lines: int = 2) -> str:
    """Return the last non-empty lines of a log, joined by `` | ``; of a traceback only the last line.

    If the disk is full, the process could not log that, so the text starts with it.
    """
    try:
        text = log.read_bytes()[-8_192:].decode("utf-8", errors="replace")
        is_full = shutil.disk_usage(log.parent).free < _FULL_BELOW_BYTES
    except OSError:
        return ""
    written = [line.rstrip() for line in text.splitlines() if line.strip(" ^~|+-")]
    # An indented line belongs to a traceback, whose last line names the error.
    last = [line for line in written[-lines:] if not line.startswith((" ", "\t"))]
    notes = [f"no space is left on the disk of {log.parent}"] if is_full else []
    return " | ".join([*notes, " | ".join(last)[-_TAIL_LENGTH:]])


def free_port(host: str = LOOPBACK) -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def is_listening(port: int, host: str = LOOPBACK) -> bool:
    """Return whether something accepts connections at the port."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Return whether a server could listen at the port now.

    A port with connections in TIME_WAIT counts as free.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError:
        return False
    return True


def wait_for(condition: Callable[[], bool], within_seconds: float) -> bool:
    """Poll the condition and return whether it came true within that time."""
    deadline = time.monotonic() + within_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def answers(url: str) -> bool:
    """Return whether the URL of a local server answers 200 OK."""
    return not why_no_answer(url)


def why_no_answer(url: str) -> str:
    """Return why the URL of a local server doesn't answer 200 OK; "" if it does.

    Uses urllib, because importing httpx would add half a second to each start.
    """
    try:
        with _WITHOUT_PROXY.open(url, timeout=2) as answer:
            return "" if answer.status == HTTPStatus.OK else f"{url} answered {answer.status}"
    except (OSError, HTTPException) as error:
        return f"{url}: {error or type(error).__name__}"
