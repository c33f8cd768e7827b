"""A TCP proxy for one link, whose faults are called by name: what a network can do to a connection.

It forwards real bytes between real sockets, in an event loop and a thread of its own, so that a test calls it
as it would any object. Nothing here knows what the bytes mean, but for what a test hands in to watch them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self, TypeAlias, TypeVar

LOOPBACK: Final = "127.0.0.1"
_CHUNK_BYTES: Final = 65_536
_CHUNKS_KEPT: Final = 64
"""Of each direction so many chunks are in the proxy at most: past that its sender feels the fault."""
_CALL_SECONDS: Final = 10.0
_LINGER_NOT: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: a close becomes a reset, and what was not yet sent is dropped (socket(7))."""

T = TypeVar("T")
Watch: TypeAlias = Callable[[bytes], int | None]
"""Sees what a client sends, chunk by chunk; where in this chunk that begins which a cut waits for."""


class Direction(StrEnum):
    """A way along the link."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


@dataclass(slots=True)
class _Cut:
    """So many bytes more in a direction, then a cut, or a stall of the link; counted from where the watch
    says, if it is to.
    """

    after: int
    direction: Direction
    is_watched: bool
    only_stalls: bool


@dataclass(eq=False, slots=True)
class _Connection:
    """One client's connection and the one made for it to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    watch: Watch | None
    left: dict[Direction, int] = field(default_factory=dict)
    """Bytes until this connection is cut, or the link stalled."""
    only_stalls: bool = False
    ended: set[Direction] = field(default_factory=set)
    """Directions whose receiver was told of the end; what comes later is dropped."""

    def writers(self) -> tuple[asyncio.StreamWriter, asyncio.StreamWriter]:
        return self.client, self.server

    def towards(self, direction: Direction) -> asyncio.StreamWriter:
        return self.server if direction is Direction.TO_SERVER else self.client

    def end(self, direction: Direction) -> None:
        self.ended.add(direction)
        with contextlib.suppress(OSError):
            self.towards(direction).write_eof()

    def reset(self) -> None:
        for writer in self.writers():
            _reset(writer)


class Proxy:
    """Listens on ``port`` and forwards to ``server_port``; a context manager. Faults last until ``heal``.

    ``make_watch`` makes, for each connection, what a cut with ``when_watched`` waits for.
    """

    def __init__(self, server_port: int, make_watch: Callable[[], Watch] | None = None) -> None:
        self.port = 0
        self.cuts = 0
        """How often ``cut_after`` has cut, or stalled."""
        self._server_port = server_port
        self._make_watch = make_watch
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._listener: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._latency = 0.0
        self._bytes_per_second = 0.0
        self._cut: _Cut | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_SECONDS)
        self._loop.close()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    # Faults --------------------------------------------------------------------------------------------

    def delay(self, seconds: float) -> None:
        """Every byte comes so much later, in each direction."""
        self._set("_latency", seconds)

    def slow(self, bytes_per_second: float) -> None:
        """Each direction of each connection brings no more than so much."""
        self._set("_bytes_per_second", bytes_per_second)

    def stall(self) -> None:
        """Nothing more arrives, and nobody is told: connections stay, new ones are accepted."""
        self._run(self._flowing.clear)

    def refuse(self) -> None:
        """New connections are refused, as by a server that isn't there; those that are open stay."""
        self._run(self._stop_listening)

    def reset(self) -> None:
        """Every open connection is reset (RST) at both ends."""
        self._run(self._reset_all)

    def half_close(self, direction: Direction) -> None:
        """Whoever receives in this direction sees the end of the stream; the other direction flows on."""
        self._run(lambda: self._end_streams(direction))

    def cut_after(
        self,
        count: int,
        direction: Direction = Direction.TO_SERVER,
        *,
        when_watched: bool = False,
        only_stalls: bool = False,
    ) -> None:
        """Reset a connection when so many bytes more have gone in this direction, once.

        Of those open it is the one that gets there first. With ``when_watched`` the count begins where the
        connection's watch says that what it waits for begins. With ``only_stalls`` the link is stalled there
        instead, as by ``stall``.
        """
        self._run(lambda: self._plan_cut(_Cut(count, direction, when_watched, only_stalls)))

    def heal(self) -> None:
        """Undo all faults. What was held back goes on its way; what was cut stays cut."""
        self._call(self._heal())

    # In the loop ---------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._flowing.set()
        await self._listen()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, LOOPBACK, self.port, reuse_address=True)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._stop_listening()
        self._reset_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _heal(self) -> None:
        self._latency = self._bytes_per_second = 0.0
        self._plan_cut(None)
        self._flowing.set()
        if self._listener is None:
            await self._listen()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _reset_all(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    def _end_streams(self, direction: Direction) -> None:
        for connection in self._connections:
            connection.end(direction)

    def _plan_cut(self, cut: _Cut | None) -> None:
        self._cut = cut
        for connection in self._connections:
            connection.left.clear()
            if cut is not None and not cut.is_watched:
                self._count_down(connection, cut, cut.after)

    @staticmethod
    def _count_down(connection: _Connection, cut: _Cut, count: int) -> None:
        connection.left[cut.direction] = count
        connection.only_stalls = cut.only_stalls

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            _reset(writer)
        finally:
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        try:
            from_server, server = await asyncio.open_connection(LOOPBACK, self._server_port)
        except OSError:
            _reset(client)
            return
        connection = _Connection(client, server, self._make_watch() if self._make_watch else None)
        if self._cut is not None and not self._cut.is_watched:
            self._count_down(connection, self._cut, self._cut.after)
        self._connections.add(connection)
        try:
            await asyncio.gather(
                self._forward(connection, reader, Direction.TO_SERVER),
                self._forward(connection, from_server, Direction.TO_CLIENT),
            )
            for writer in connection.writers():
                writer.close()
        except BaseException:
            connection.reset()
            raise
        finally:
            self._connections.discard(connection)

    async def _forward(
        self, connection: _Connection, reader: asyncio.StreamReader, direction: Direction
    ) -> None:
        """Forward until the end of the stream; a connection that breaks on one side is reset on the other."""
        queue: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(_CHUNKS_KEPT)
        reading = asyncio.create_task(_read_into(queue, reader))
        try:
            while True:
                arrived_at, chunk = await queue.get()
                await asyncio.sleep(max(0.0, arrived_at + self._latency - time.monotonic()))
                await self._flowing.wait()
                if chunk is None:
                    raise ConnectionResetError("by the sender")
                if not chunk:
                    connection.end(direction)
                    return
                if direction not in connection.ended:
                    await self._write(connection, chunk, direction)
        except OSError:
            connection.reset()
        finally:
            reading.cancel()

    async def _write(self, connection: _Connection, chunk: bytes, direction: Direction) -> None:
        if direction is Direction.TO_SERVER and connection.watch is not None:
            self._begin_watched_cut(connection, connection.watch(chunk))
        writer = connection.towards(direction)
        left = connection.left.get(direction)
        if left is not None and len(chunk) >= left:
            writer.write(chunk[:left])
            await _drained(writer)
            self.cuts += 1
            self._plan_cut(None)
            if not connection.only_stalls:
                raise ConnectionAbortedError("cut as planned")
            self._flowing.clear()
            await self._flowing.wait()
            chunk = chunk[left:]
        elif left is not None:
            connection.left[direction] = left - len(chunk)
        await self._paced(writer, chunk)

    def _begin_watched_cut(self, connection: _Connection, begins: int | None) -> None:
        cut = self._cut
        if begins is None or cut is None or not cut.is_watched:
            return
        self._cut = None
        before = begins if cut.direction is Direction.TO_SERVER else 0
        self._count_down(connection, cut, before + cut.after)

    async def _paced(self, writer: asyncio.StreamWriter, chunk: bytes) -> None:
        while chunk:
            rate = self._bytes_per_second
            piece = chunk[: max(1, int(rate / 20))] if rate else chunk
            writer.write(piece)
            await writer.drain()
            chunk = chunk[len(piece) :]
            if rate:
                await asyncio.sleep(len(piece) / rate)

    # From the test's thread ----------------------------------------------------------------------------

    def _set(self, name: str, value: float) -> None:
        self._run(lambda: setattr(self, name, value))

    def _run(self, work: Callable[[], object]) -> None:
        async def in_loop() -> None:
            work()

        self._call(in_loop())

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_SECONDS)


async def _read_into(queue: asyncio.Queue[tuple[float, bytes | None]], reader: asyncio.StreamReader) -> None:
    """Put what arrives into the queue with when it did; empty at the end of the stream, None if it broke."""
    chunk: bytes | None = b"more to come"
    while chunk:
        try:
            chunk = await reader.read(_CHUNK_BYTES)
        except OSError:
            chunk = None
        await queue.put((time.monotonic(), chunk))


async def _drained(writer: asyncio.StreamWriter) -> None:
    """Wait until the kernel has all of it: what is still here would be dropped by a reset."""
    transport = writer.transport
    while transport.get_write_buffer_size() and not transport.is_closing():
        await asyncio.sleep(0.001)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset, at once."""
    connected: socket.socket | None = writer.get_extra_info("socket")
    if connected is not None:
        with contextlib.suppress(OSError):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()
