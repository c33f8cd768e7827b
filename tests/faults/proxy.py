"""A TCP proxy for one link, with a method for each network fault.

It forwards bytes between real sockets, in its own thread and event loop, so a test can call its methods
directly. The proxy doesn't interpret the bytes; only a test's ``Watch`` may do so.
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
"""Maximum number of chunks buffered in each direction. When it is reached, the sender has to wait."""
_CALL_SECONDS: Final = 10.0
_LINGER_NOT: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with time 0: closing resets the connection and drops unsent data (socket(7))."""

T = TypeVar("T")
Watch: TypeAlias = Callable[[bytes], int | None]
"""Gets each chunk that a client sends; returns the position of what a watched cut waits for, or None."""


class Direction(StrEnum):
    """A direction of the link."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


@dataclass(slots=True)
class _Cut:
    """A planned cut, or stall, after ``after`` more bytes in a direction.

    With ``is_watched`` the bytes are counted from the position that the watch returns.
    """

    after: int
    direction: Direction
    is_watched: bool
    only_stalls: bool


@dataclass(eq=False, slots=True)
class _Connection:
    """A client's connection and the matching one to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    watch: Watch | None
    left: dict[Direction, int] = field(default_factory=dict)
    """Bytes left in each direction until this connection is cut or the link stalls."""
    only_stalls: bool = False
    ended: set[Direction] = field(default_factory=set)
    """Directions whose stream was ended towards the receiver; later data is dropped."""

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

    ``make_watch`` makes a watch for each connection, which cuts with ``when_watched`` need.
    """

    def __init__(self, server_port: int, make_watch: Callable[[], Watch] | None = None) -> None:
        self.port = 0
        self.cuts = 0
        """How many planned cuts or stalls have happened."""
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
        """The number of open connections."""
        return len(self._connections)

    # Faults --------------------------------------------------------------------------------------------

    def delay(self, seconds: float) -> None:
        """Delay every byte by ``seconds`` in each direction."""
        self._set("_latency", seconds)

    def slow(self, bytes_per_second: float) -> None:
        """Limit the throughput of each direction of each connection."""
        self._set("_bytes_per_second", bytes_per_second)

    def stall(self) -> None:
        """Stop forwarding silently: connections stay open and new ones are accepted."""
        self._run(self._flowing.clear)

    def refuse(self) -> None:
        """Refuse new connections, as if no server were there; open connections stay."""
        self._run(self._stop_listening)

    def reset(self) -> None:
        """Reset (RST) every open connection at both ends."""
        self._run(self._reset_all)

    def half_close(self, direction: Direction) -> None:
        """End the stream for the receiver in this direction; the other direction goes on."""
        self._run(lambda: self._end_streams(direction))

    def cut_after(
        self,
        count: int,
        direction: Direction = Direction.TO_SERVER,
        *,
        when_watched: bool = False,
        only_stalls: bool = False,
    ) -> None:
        """Reset one connection, the first that has ``count`` more bytes in this direction.

        With ``when_watched`` the count begins at the position that the connection's watch returns. With
        ``only_stalls`` the link is stalled there, as by ``stall``, instead of the reset.
        """
        self._run(lambda: self._plan_cut(_Cut(count, direction, when_watched, only_stalls)))

    def heal(self) -> None:
        """Undo all faults. Delayed data is forwarded; connections that were cut stay closed."""
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
        """Forward until the end of the stream; if one side breaks, reset the other."""
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
    """Put (arrival time, chunk) into the queue; the last chunk is empty at the end, None after an error."""
    chunk: bytes | None = b"more to come"
    while chunk:
        try:
            chunk = await reader.read(_CHUNK_BYTES)
        except OSError:
            chunk = None
        await queue.put((time.monotonic(), chunk))


async def _drained(writer: asyncio.StreamWriter) -> None:
    """Wait until the kernel has all data, because a reset drops what is still in this process."""
    transport = writer.transport
    while transport.get_write_buffer_size() and not transport.is_closing():
        await asyncio.sleep(0.001)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a reset."""
    connected: socket.socket | None = writer.get_extra_info("socket")
    if connected is not None:
        with contextlib.suppress(OSError):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()
