"""Keeps parts running: starts them, watches them, starts again one that died, and stops them in order.

One event loop in the main thread: children are started in that thread, as the kernel ties them to it (see
``process``); whatever blocks runs in a thread of its own beside.
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
SAY_SECONDS: Final = 5.0
"""A part that isn't ready after this says what it waits for."""

_RESTARTS: Final = partial(Backoff, 1.0, 30.0)
STABLE_SECONDS: Final = 60.0
"""A part that ran this long starts over with the shortest restart delay."""

BAD_SETTING_STATUS: Final = 2

Launch = Callable[[], subprocess.Popen[bytes]]


@dataclass(frozen=True, slots=True)
class Part:
    """One process to keep running."""

    name: str
    launch: Launch
    log: Path
    prepare: Callable[[], None] | None = None
    """Blocking work before each start, in a thread."""
    is_ready: Callable[[], bool] | None = None
    """Asked in a thread until true; may raise StackError. None: ready when started."""
    not_ready: Callable[[], str] | None = None
    """Why the last answer was no."""
    ready_seconds: float = math.inf
    """How long to wait for a part that was never ready."""
    stop_signal: int = signal.SIGTERM
    why_it_ended: Callable[[], str] | None = None
    is_essential: bool = False
    """Whether everything ends when this part can't be started the first time."""

    def last_words(self) -> str:
        return self.why_it_ended() if self.why_it_ended else f"{process.tail(self.log)} ({self.log})"


@dataclass(slots=True)
class Keeping:
    """A part and how it is."""

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
    """Keeps parts. ``on_change`` is called whenever a part's state changed, from the event loop."""

    def __init__(
        self,
        on_change: Callable[[Keeping], None],
        *,
        restarts: Callable[[], Backoff] = _RESTARTS,
        stable_seconds: float = STABLE_SECONDS,
    ) -> None:
        self.keepings: list[Keeping] = []
        self._on_change = on_change
        self._restarts = restarts
        self._stable_seconds = stable_seconds
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopping = False

    def keep(self, part: Part) -> Keeping:
        """Begin to keep a part running; what went wrong before it was ever ready comes from ``ready``."""
        keeping = Keeping(part)
        self.keepings.append(keeping)
        task = asyncio.create_task(self._keep(keeping), name=part.name)
        self._tasks.append(task)
        return keeping

    async def ready(self, keeping: Keeping) -> None:
        """Return once the part is ready for the first time; raises StackError if it can't be made so."""
        task = self._tasks[self.keepings.index(keeping)]
        waiting = asyncio.create_task(keeping.ready.wait())
        try:
            await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not keeping.ready.is_set():
            await task
            raise _not_started(keeping.part, keeping.part.last_words())

    async def watch(self) -> None:
        """Raise what a part could not be kept for; else runs until cancelled, keeping the logs bounded."""
        trimmed_at = time.monotonic()
        while True:
            for task in self._tasks:
                if task.done() and not task.cancelled():
                    task.result()
            if time.monotonic() - trimmed_at > TRIM_EVERY_SECONDS:
                trimmed_at = time.monotonic()
                for keeping in self.keepings:
                    process.trim_log(keeping.part.log)
            await asyncio.sleep(POLL_SECONDS)

    async def stop(self, stages: Sequence[tuple[float, Sequence[str]]]) -> None:
        """Stop every part: the named ones of each stage at once, each stage within its seconds.

        A part that hasn't ended by then is killed, with all that it started.
        """
        self._is_stopping = True
        for task in self._tasks:
            task.cancel()
        process.end_runs()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for within_seconds, names in stages:
            await self._stop_stage([one for one in self.keepings if one.part.name in names], within_seconds)

    async def _stop_stage(self, keepings: Sequence[Keeping], within_seconds: float) -> None:
        deadline = time.monotonic() + within_seconds
        for keeping in keepings:
            if keeping.child is not None and keeping.is_alive:
                self._set(keeping, "stopping")
                with contextlib.suppress(ProcessLookupError):
                    keeping.child.send_signal(keeping.part.stop_signal)
        while any(one.is_alive for one in keepings) and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS / 4)
        for keeping in keepings:
            if keeping.child is not None:
                was_killed = keeping.is_alive
                process.kill_group(keeping.child.pid)
                keeping.child.wait()
                self._set(keeping, "stopped", "killed: it didn't stop in time" if was_killed else "")

    async def _keep(self, keeping: Keeping) -> None:
        backoff = self._restarts()
        while True:
            began_at = time.monotonic()
            status = await self._run_once(keeping)
            if time.monotonic() - began_at >= self._stable_seconds:
                backoff.reset()
            if status == BAD_SETTING_STATUS:
                # Trying again would only say the same again.
                self._set(keeping, "failed", keeping.part.last_words())
                return
            keeping.restarts += 1
            wait_seconds = backoff.next_delay()
            words = f"ended with status {status}; again in {wait_seconds:.0f} s: {keeping.part.last_words()}"
            self._set(keeping, "restarting", words)
            await asyncio.sleep(wait_seconds)

    async def _run_once(self, keeping: Keeping) -> int:
        """Start the part and wait for its end; its status. An essential part's first failure is raised."""
        part = keeping.part
        self._set(keeping, "starting")
        try:
            if part.prepare is not None:
                await in_thread(part.prepare)
            process.trim_log(part.log)
            keeping.child = part.launch()
            keeping.created_at = psutil.Process(keeping.child.pid).create_time()
            self._set(keeping, "starting")
            await self._become_ready(keeping)
        except (CandleflowError, OSError, subprocess.SubprocessError, psutil.Error) as error:
            if part.is_essential and not keeping.ready.is_set():
                raise (
                    error if isinstance(error, CandleflowError) else _not_started(part, str(error))
                ) from error
            self._set(keeping, "starting", str(error))
        while keeping.is_alive:
            await asyncio.sleep(POLL_SECONDS)
        if part.is_essential and not keeping.ready.is_set():
            raise _not_started(part, part.last_words())
        if keeping.child is None:
            return 1
        process.kill_group(keeping.child.pid)
        return keeping.child.returncode

    async def _become_ready(self, keeping: Keeping) -> None:
        began_at = time.monotonic()
        while keeping.part.is_ready is not None and keeping.is_alive:
            if await in_thread(keeping.part.is_ready):
                break
            self._say_late(keeping, time.monotonic() - began_at)
            await asyncio.sleep(POLL_SECONDS)
        if keeping.is_alive:
            self._set(keeping, "running")
            keeping.ready.set()

    def _say_late(self, keeping: Keeping, waited_seconds: float) -> None:
        """Say why a part isn't ready; raises StackError once it has had its time."""
        if waited_seconds < min(SAY_SECONDS, keeping.part.ready_seconds):
            return
        why = keeping.part.not_ready() if keeping.part.not_ready else keeping.part.last_words()
        if waited_seconds >= keeping.part.ready_seconds and not keeping.ready.is_set():
            raise _not_started(keeping.part, f"not ready after {waited_seconds:.0f} s: {why}")
        if keeping.message != why:
            self._set(keeping, "starting", why)

    def _set(self, keeping: Keeping, state: str, message: str = "") -> None:
        keeping.state, keeping.message = state, message
        self._on_change(keeping)


def _not_started(part: Part, why: str) -> StackError:
    return StackError(f"{part.name} could not be started: {why}")


async def in_thread(work: Callable[[], T]) -> T:
    """Do blocking work in a thread that never delays the exit, unlike an executor's."""
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
        except BaseException as error:  # noqa: BLE001 - handed to who awaits it
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(tell, result, failure)

    threading.Thread(target=body, daemon=True).start()
    return await done
