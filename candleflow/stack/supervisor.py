"""Start processes, restart those that end, and stop them in order.

The event loop runs in the main thread and starts the children there, because the kernel kills a child with
the thread that started it (see ``process``). Blocking work runs in other threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import psutil

from candleflow.backoff import Backoff
from candleflow.errors import CandleflowError, StackError
from candleflow.stack import process

T = TypeVar("T")

POLL_SECONDS: Final = 0.1
TRIM_EVERY_SECONDS: Final = 30.0
LATE_SECONDS: Final = 10.0
"""After this time the display says why a process isn't ready."""

_RESTARTS: Final = partial(Backoff, 1.0, 30.0)
STABLE_SECONDS: Final = 60.0
"""After running this long, a process that ends is restarted with the shortest delay again."""

BAD_SETTING_STATUS: Final = 2

Launch = Callable[[], subprocess.Popen[bytes]]


@dataclass(frozen=True, slots=True)
class Part:
    """How to start and check one process."""

    name: str
    launch: Launch
    log: Path
    prepare: Callable[[], None] | None = None
    """Blocking work before each start; runs in a thread."""
    is_ready: Callable[[], bool] | None = None
    """Called in a thread until it returns true; may raise StackError. None: ready once it has
    started."""
    not_ready: Callable[[], str] | None = None
    """Returns why ``is_ready`` last returned false."""
    ready_seconds: float = math.inf
    """How long the first start may take until it fails."""
    stop_signal: int = signal.SIGTERM
    why_it_ended: Callable[[], str] | None = None
    is_essential: bool = False
    """If true and the first start fails, the supervisor ends with that error."""

    def last_log_lines(self) -> str:
        return self.why_it_ended() if self.why_it_ended else f"{process.tail(self.log)} (log: {self.log})"


@dataclass(slots=True)
class SupervisedPart:
    """A part and the state of its process."""

    part: Part
    state: str = "starting"
    """``starting``, ``running``, ``restarting``, ``failed``, ``stopping`` or ``stopped``."""
    message: str = ""
    child: subprocess.Popen[bytes] | None = None
    created_at: float = 0.0
    restarts: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_alive(self) -> bool:
        return self.child is not None and self.child.poll() is None


class Supervisor:
    """Keeps processes running. Calls ``on_change`` in the event loop whenever the state of one changes."""

    def __init__(
        self,
        on_change: Callable[[SupervisedPart], None],
        *,
        restarts: Callable[[], Backoff] = _RESTARTS,
        stable_seconds: float = STABLE_SECONDS,
    ) -> None:
        self.parts: list[SupervisedPart] = []
        self._on_change = on_change
        self._restarts = restarts
        self._stable_seconds = stable_seconds
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopping = False

    def start(self, part: Part) -> SupervisedPart:
        """Start the part and restart it whenever it ends.

        ``ready`` raises the error if the first start fails.
        """
        supervised = SupervisedPart(part)
        self.parts.append(supervised)
        task = asyncio.create_task(self._supervise(supervised), name=part.name)
        self._tasks.append(task)
        return supervised

    async def ready(self, supervised: SupervisedPart) -> None:
        """Wait until the part is ready for the first time. Raises StackError if its first start fails."""
        task = self._tasks[self.parts.index(supervised)]
        waiting = asyncio.create_task(supervised.ready.wait())
        try:
            await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not supervised.ready.is_set():
            await task
            raise _not_started(supervised.part, supervised.part.last_log_lines())

    async def watch(self) -> None:
        """Keep the log files bounded until cancelled. Raises if an essential part's first start fails.

        A part that ends later is restarted, or marked as failed if a setting is wrong; neither is raised.
        """
        trimmed_at = time.monotonic()
        while True:
            for task in self._tasks:
                if task.done() and not task.cancelled():
                    task.result()
            if time.monotonic() - trimmed_at > TRIM_EVERY_SECONDS:
                trimmed_at = time.monotonic()
                for supervised in self.parts:
                    process.trim_log(supervised.part.log)
            await asyncio.sleep(POLL_SECONDS)

    async def stop(self, stages: Sequence[tuple[float, Sequence[str]]]) -> None:
        """Stop the named parts, stage after stage. A stage is the seconds allowed and the names of its parts.

        At the end of a stage, what still runs of its processes and their children is killed. A part in no
        stage is no longer restarted, but its process is not stopped.
        """
        self._is_stopping = True
        for task in self._tasks:
            task.cancel()
        process.kill_runs()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for within_seconds, names in stages:
            await self._stop_stage([one for one in self.parts if one.part.name in names], within_seconds)

    async def _stop_stage(self, parts: Sequence[SupervisedPart], within_seconds: float) -> None:
        deadline = time.monotonic() + within_seconds
        for supervised in parts:
            if supervised.child is not None and supervised.is_alive:
                self._set(supervised, "stopping")
                with contextlib.suppress(ProcessLookupError):
                    supervised.child.send_signal(supervised.part.stop_signal)
        while any(one.is_alive for one in parts) and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS / 4)
        for supervised in parts:
            if supervised.child is not None:
                was_killed = supervised.is_alive
                process.kill_group(supervised.child.pid)
                supervised.child.wait()
                self._set(supervised, "stopped", "killed: it didn't stop in time" if was_killed else "")

    async def _supervise(self, supervised: SupervisedPart) -> None:
        backoff = self._restarts()
        while True:
            began_at = time.monotonic()
            status = await self._run_once(supervised)
            if time.monotonic() - began_at >= self._stable_seconds:
                backoff.reset()
            if status == BAD_SETTING_STATUS:
                # Retrying can't help: the setting stays wrong.
                self._set(supervised, "failed", supervised.part.last_log_lines())
                return
            supervised.restarts += 1
            wait_seconds = backoff.next_delay()
            last_lines = supervised.part.last_log_lines()
            message = f"ended with status {status}; restarting in {wait_seconds:.0f} s: {last_lines}"
            self._set(supervised, "restarting", message)
            await asyncio.sleep(wait_seconds)

    async def _run_once(self, supervised: SupervisedPart) -> int:
        """Start the part, wait until it ends and return its exit status.

        Raises StackError if an essential part fails before it was ever ready.
        """
        part = supervised.part
        self._set(supervised, "starting")
        try:
            if part.prepare is not None:
                await in_thread(part.prepare)
            process.trim_log(part.log)
            supervised.child = part.launch()
            supervised.created_at = psutil.Process(supervised.child.pid).create_time()
            self._set(supervised, "starting")
            await self._wait_until_ready(supervised)
        except (CandleflowError, OSError, subprocess.SubprocessError, psutil.Error) as error:
            if part.is_essential and not supervised.ready.is_set():
                raise (
                    error if isinstance(error, CandleflowError) else _not_started(part, str(error))
                ) from error
            self._set(supervised, "starting", str(error))
        while supervised.is_alive:
            await asyncio.sleep(POLL_SECONDS)
        if part.is_essential and not supervised.ready.is_set():
            raise _not_started(part, part.last_log_lines())
        if supervised.child is None:
            return 1
        process.kill_group(supervised.child.pid)
        return supervised.child.returncode

    async def _wait_until_ready(self, supervised: SupervisedPart) -> None:
        began_at = time.monotonic()
        while supervised.part.is_ready is not None and supervised.is_alive:
            if await in_thread(supervised.part.is_ready):
                break
            self._report_late(supervised, time.monotonic() - began_at)
            await asyncio.sleep(POLL_SECONDS)
        if supervised.is_alive:
            self._set(supervised, "running")
            supervised.ready.set()

    def _report_late(self, supervised: SupervisedPart, waited_seconds: float) -> None:
        """Show why a part isn't ready. Raises StackError when ``ready_seconds`` are over."""
        if waited_seconds < min(LATE_SECONDS, supervised.part.ready_seconds):
            return
        part = supervised.part
        why = part.not_ready() if part.not_ready else ""
        if waited_seconds >= part.ready_seconds and not supervised.ready.is_set():
            logged = part.last_log_lines()
            raise _not_started(
                part, f"not ready after {waited_seconds:.0f} s: {why}; last log lines: {logged}"
            )
        if supervised.message != why:
            self._set(supervised, "starting", why)

    def _set(self, supervised: SupervisedPart, state: str, message: str = "") -> None:
        supervised.state, supervised.message = state, message
        self._on_change(supervised)


def _not_started(part: Part, why: str) -> StackError:
    return StackError(f"{part.name} could not be started: {why}")


async def in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a daemon thread, which, unlike an executor's, doesn't delay the exit."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # a T, as there was no error

    def body() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised in the coroutine that awaits it
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is already closed
            loop.call_soon_threadsafe(tell, result, failure)

    threading.Thread(target=body, daemon=True).start()
    return await done
