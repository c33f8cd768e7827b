"""Simulated viewers without a browser: each is a real session of the page's server, over its own WebSocket.

They send the messages of Streamlit's browser client (protobuf, from the streamlit package) at its pace: the
server announces fragments with an interval, and the client requests each of them at that interval. Fifty
sessions need less memory and CPU time than one Chromium.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from streamlit.proto.AutoRerun_pb2 import AutoRerun
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

_ENDED_WELL = (ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY)
_MOST_BYTES = 50_000_000
_START_SECONDS = 60
_CHART = "candleflow_chart"


@dataclass
class Session:
    """One viewer, with measurements of its refreshes since the last ``forget``."""

    connection: ClientConnection
    query: str = ""
    seconds: list[float] = field(default_factory=list)
    """Duration of each refresh, from its tick until the chart's data arrived."""
    refreshes: int = 0
    """How often a chart's data arrived."""
    received_bytes: int = 0
    cut_short: int = 0
    _paces: dict[str, tuple[float, asyncio.Task[None]]] = field(default_factory=dict)
    """By fragment: the interval that the server announced, and the task that requests it."""
    _asked_at: dict[str, float] = field(default_factory=dict)
    _is_open: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)

    @property
    def fragments(self) -> int:
        """Number of fragments of the page that are refreshed."""
        return len(self._paces)

    async def live(self) -> None:
        """Open the page and refresh it until cancelled."""
        async with self._tasks:
            self._tasks.create_task(self._receive())
            await self._ask()
            async with asyncio.timeout(_START_SECONDS):
                await self._is_open.wait()
            assert self._paces, "the page asked for no refreshes"

    async def wait_until_open(self) -> None:
        """Wait until the whole page was received once."""
        await self._is_open.wait()

    def forget(self) -> None:
        self.seconds.clear()
        self.refreshes = self.received_bytes = 0

    def _keep_pace(self, announced: AutoRerun) -> None:
        """Start ticking for the fragment, unless it ticks at that interval: each run of the page repeats
        this."""
        interval, ticker = self._paces.get(announced.fragment_id, (None, None))
        if interval == announced.interval:
            return
        if ticker is not None:
            ticker.cancel()
        ticker = self._tasks.create_task(self._tick(announced.fragment_id, announced.interval))
        self._paces[announced.fragment_id] = (announced.interval, ticker)

    async def _tick(self, fragment: str, interval: float) -> None:
        tick = time.monotonic()
        while True:
            tick += interval
            await asyncio.sleep(tick - time.monotonic())
            # Like a browser, tick on even if an answer is late; the server then answers both ticks at once.
            self._asked_at.setdefault(fragment, time.perf_counter())
            await self._ask(fragment)

    async def _ask(self, fragment: str = "") -> None:
        message = BackMsg()
        message.rerun_script.query_string = self.query
        message.rerun_script.fragment_id = fragment
        message.rerun_script.is_auto_rerun = bool(fragment)
        await self.connection.send(message.SerializeToString())

    async def _receive(self) -> None:
        async for payload in self.connection:
            assert isinstance(payload, bytes)
            self.received_bytes += len(payload)
            self._take(ForwardMsg.FromString(payload))

    def _take(self, message: ForwardMsg) -> None:
        match message.WhichOneof("type"):
            case "auto_rerun":
                self._keep_pace(message.auto_rerun)
            case "delta" if message.delta.new_element.bidi_component.component_name == _CHART:
                self.refreshes += self._is_open.is_set()
                asked_at = self._asked_at.pop(message.delta.fragment_id, None)
                if asked_at is not None:
                    self.seconds.append(time.perf_counter() - asked_at)
            case "script_finished":
                if message.script_finished == ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                    self.cut_short += 1  # another run follows at once
                    return
                assert message.script_finished in _ENDED_WELL, message
                self._is_open.set()


class Sessions:
    """``count`` viewers of the same view, for the duration of the ``async with``."""

    def __init__(self, port: int, count: int, query: str = "") -> None:
        self._address = f"ws://127.0.0.1:{port}/_stcore/stream"
        self._count = count
        self._query = query
        self._exits = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self.all: list[Session] = []

    async def __aenter__(self) -> Sessions:
        for _ in range(self._count):  # one after another, as real viewers don't arrive all at once
            connection = await self._exits.enter_async_context(
                connect(self._address, subprotocols=[Subprotocol("streamlit")], max_size=_MOST_BYTES)
            )
            session = Session(connection, self._query)
            task = asyncio.create_task(session.live())
            await _first([task, asyncio.create_task(session.wait_until_open())])
            self._tasks.append(task)
            self.all.append(session)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._exits.aclose()

    async def look_on(self, seconds: float) -> None:
        """Let the sessions refresh for ``seconds``, with fresh measurements; raise if one fails."""
        for session in self.all:
            session.forget()
        await _first(self._tasks, seconds)

    @property
    def refresh_seconds(self) -> list[float]:
        return [one for session in self.all for one in session.seconds]

    @property
    def refreshes(self) -> int:
        return sum(session.refreshes for session in self.all)

    @property
    def received_bytes(self) -> int:
        return sum(session.received_bytes for session in self.all)


async def _first(tasks: Sequence[asyncio.Task[Any]], seconds: float | None = None) -> None:
    """Wait until one task ends or the time is up; raise if it failed."""
    ended, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in ended:
        task.result()
