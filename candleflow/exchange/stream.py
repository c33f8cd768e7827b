"""Follows the exchange's live trades over one or more WebSocket connections, and replaces them in time.

    wss://stream.binance.com:9443/stream?streams=btcusdt@trade/ethusdt@trade

``reconnect`` has the rules for connecting, replacing and waiting; ``messages`` decodes the frames. This
module handles the sockets.

A connection is replaced before its lifetime ends, when the exchange announces that it will close it, and when
it falls silent. The new connection is opened first. The old one is closed only after the new one has
delivered a message and both have overlapped for ``OVERLAP_SECONDS``. During the overlap trades arrive twice;
the receiver drops duplicates by trade id. Nothing is fetched again here: trades lost while no connection was
open are a gap in the ids.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import SystemRandom
from typing import Final, TypeAlias, TypeGuard
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus, PayloadTooBig, WebSocketException
from websockets.frames import CloseCode

from candleflow.backoff import Backoff
from candleflow.exchange.messages import (
    ControlReply,
    Message,
    OtherStream,
    ServerShutdown,
    TradeMessage,
    decode,
    stream_of,
)
from candleflow.exchange.probe import explain
from candleflow.exchange.reconnect import (
    AttemptLimit,
    Rotation,
    Why,
    ban_seconds,
    delay_after,
    split_evenly,
)
from candleflow.exchange.sockets import connect
from candleflow.market.payload import Rejected

_log = logging.getLogger(__name__)

MAX_FRAME_BYTES: Final = 2**20
OPEN_SECONDS: Final = 10.0
"""How long a handshake may take, and how long a new connection may take to deliver its first message."""
SHORTEST_WAIT_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 60.0
"""Bounds of the wait before a connection attempt."""
OVERLAP_SECONDS: Final = 1.0
"""How long the old and the new connection overlap, as the old one may be behind."""

_RANDOM: Final = SystemRandom()
_CLOSE_SECONDS: Final = 3.0
_MAX_QUEUE: Final = (256, 64)
"""Numbers of buffered frames at which websockets stops reading the socket, and at which it resumes."""
# Many servers, such as websockets', accept a request line of at most 8,192 bytes. The streams that don't fit
# are requested by SUBSCRIBE messages.
_PATH_BYTES: Final = 7_500
# A SUBSCRIBE message stays below 4 kB. At most four are sent a second: Binance closes a connection that sends
# more than five messages a second, and pongs count.
_SUBSCRIBE_BYTES: Final = 3_500
_SUBSCRIBE_PAUSE_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class TooLong:
    """A frame above MAX_FRAME_BYTES, which is not read and ends its connection.

    ``length`` is in bytes, None if unknown.
    """

    length: int | None


Received: TypeAlias = TradeMessage | Rejected | OtherStream | TooLong
OnMessage: TypeAlias = Callable[[Received], Awaitable[None]]
OnConnected: TypeAlias = Callable[[Sequence[str]], None]


class TradeStream:
    """Follows ``symbols`` at the first of ``base_urls`` that answers; passes messages to ``on_message``.

    ``on_message`` gets the messages of a connection one by one and in order. While it waits, reading from
    that connection waits too. ``now_us`` returns the exchange's time in microseconds since the epoch; a trade
    more than ``max_future_us`` ahead is passed on as Rejected. ``on_connected`` is called with the symbols
    that a new connection will deliver. ``advice`` is logged once in each outage in which no address can be
    reached.
    """

    def __init__(
        self,
        base_urls: Sequence[str],
        symbols: Collection[str],
        on_message: OnMessage,
        *,
        rotation: Rotation,
        max_streams: int,
        max_future_us: int,
        now_us: Callable[[], int],
        on_connected: OnConnected = lambda _: None,
        advice: str = "",
        random: Callable[[], float] = _RANDOM.random,
        backoff: Callable[[], Backoff] = lambda: Backoff(SHORTEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS),
    ) -> None:
        self._base_urls = tuple(base_urls)
        self._symbols = frozenset(symbols)
        self._on_message = on_message
        self._rotation = rotation
        self._max_future_us = max_future_us
        self._now_us = now_us
        self._on_connected = on_connected
        self._advice = advice
        self._random = random
        self._limit = AttemptLimit()
        self._feeds = [_Feed(self, lot, backoff()) for lot in split_evenly(tuple(symbols), max_streams)]
        self._failed_in_a_row = 0

    @property
    def wanted(self) -> int:
        """The number of connections needed to follow all symbols."""
        return len(self._feeds)

    @property
    def connected(self) -> int:
        """The number of open connections."""
        return sum(feed.is_connected for feed in self._feeds)

    @property
    def reconnects(self) -> int:
        """The number of connections replaced so far, for any reason."""
        return sum(feed.reconnects for feed in self._feeds)

    async def run(self) -> None:
        """Follow the symbols until cancelled.

        Raises SettingError if a proxy variable is wrong, and whatever ``on_message`` raises.
        """
        tasks = [asyncio.create_task(feed.run()) for feed in self._feeds]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def open(self, symbols: Sequence[str]) -> _Connection | None:
        """Try once to connect, when the limit on attempts allows it; log a failure and return None."""
        while wait := self._limit.wait_seconds(time.monotonic()):
            await asyncio.sleep(wait)
        self._limit.attempted(time.monotonic())
        base_url = self._base_urls[self._failed_in_a_row % len(self._base_urls)]
        in_path, subscribed = _split_by_path(list(map(stream_of, symbols)))
        try:
            socket = await connect(
                base_url,
                f"/stream?streams={_quoted(in_path)}",
                open_timeout=OPEN_SECONDS,
                close_timeout=_CLOSE_SECONDS,
                max_size=MAX_FRAME_BYTES,
                compression=None,
                max_queue=_MAX_QUEUE,
            )
        except (OSError, WebSocketException) as error:
            self._note_failure(base_url, error)
            return None
        self._failed_in_a_row = 0
        self._on_connected(symbols)
        return _Connection(socket, base_url, subscribed, self._decode, self._on_message)

    def _decode(self, frame: bytes) -> Message:
        return decode(frame, self._symbols, self._now_us(), self._max_future_us)

    @property
    def rotation(self) -> Rotation:
        """The rule for a new connection, with its lifetime shortened at random by up to 5 %."""
        return self._rotation.spread(self._random())

    def _note_failure(self, base_url: str, error: Exception) -> None:
        self._failed_in_a_row += 1
        _log.warning("%s can't be reached: %s", base_url, explain(error, OPEN_SECONDS))
        if isinstance(error, InvalidStatus):
            response = error.response
            seconds = ban_seconds(response.status_code, response.headers.get("Retry-After"), time.time())
            if seconds:
                self._limit.ban(time.monotonic(), seconds)
                _log.warning("exchange rate limit: reconnecting in %.0f s", seconds)
        if self._advice and self._failed_in_a_row == len(self._base_urls):
            _log.warning("%s", self._advice)


class _Feed:
    """Follows one group of symbols over one connection after another."""

    def __init__(self, stream: TradeStream, symbols: Sequence[str], backoff: Backoff) -> None:
        self._stream = stream
        self._symbols = symbols
        self._backoff = backoff
        self._current: _Connection | None = None
        self.reconnects = 0

    @property
    def is_connected(self) -> bool:
        return self._current is not None and not self._current.has_ended

    async def run(self) -> None:
        fresh: _Connection | None = None
        try:
            while True:
                fresh = await self._stream.open(self._symbols)
                if fresh is None:
                    await self._wait(self._backoff.next_delay())
                    continue
                fresh.start()
                if not await self._replace_current_by(fresh):
                    await fresh.close()
                    await self._wait(self._backoff.next_delay())
                    continue
                why = await fresh.wait_until_due(self._stream.rotation)
                delay = delay_after(self._backoff, why, fresh.useful_seconds)
                _log.info("replacing the connection to %s: %s%s", fresh.base_url, why, fresh.close_reason)
                await self._wait(delay)
        finally:
            for connection in (self._current, fresh):
                if connection is not None:
                    connection.abort()

    async def _wait(self, seconds: float) -> None:
        if seconds:
            _log.info("next connection attempt in %.1f s", seconds)
            await asyncio.sleep(seconds)

    async def _replace_current_by(self, fresh: _Connection) -> bool:
        """Close the current connection once the new one delivers; return False if it doesn't."""
        old = self._current
        if old is not None and not old.has_ended:
            opened_at = time.monotonic()
            is_ready = await fresh.wait_until_ready(OPEN_SECONDS)
            if fresh.has_ended:
                return False
            if not is_ready and old.has_delivered_since(opened_at):
                _log.warning(
                    "the new connection to %s delivers nothing, but the old one does: keeping the old one",
                    fresh.base_url,
                )
                return False
            await old.wait_until_ended(OVERLAP_SECONDS)
        self._current = fresh
        if old is None:
            _log.info("connected to %s: %d streams", fresh.base_url, len(self._symbols))
        else:
            self.reconnects += 1
            _log.info("reconnected to %s", fresh.base_url)
            await old.close()
        return True


class _Connection:
    """One WebSocket connection, read by its own task until it ends. Times are of ``time.monotonic``."""

    def __init__(
        self,
        socket: ClientConnection,
        base_url: str,
        to_subscribe: Sequence[str],
        decode_frame: Callable[[bytes], Message],
        on_message: OnMessage,
    ) -> None:
        self.base_url = base_url
        self.close_reason = ""
        self._socket = socket
        self._decode = decode_frame
        self._on_message = on_message
        self._requests = dict(enumerate(_lots(to_subscribe)))
        self._unanswered = set(self._requests)
        self._opened_at = time.monotonic()
        self._first_at: float | None = None
        self._last_at: float | None = None
        self._is_delivering = False
        self._is_ready = asyncio.Event()
        self._is_doomed = asyncio.Event()
        self._end_is_announced = False
        self._reader: asyncio.Task[None] | None = None
        self._subscriber: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._reader = asyncio.create_task(self._read())
        if self._requests:
            self._subscriber = asyncio.create_task(self._subscribe())

    @property
    def has_ended(self) -> bool:
        return self._reader is not None and self._reader.done()

    @property
    def useful_seconds(self) -> float:
        """The time from its first message to its last."""
        return 0.0 if self._first_at is None or self._last_at is None else self._last_at - self._first_at

    def has_delivered_since(self, time: float) -> bool:
        return self._last_at is not None and self._last_at >= time

    async def wait_until_ready(self, seconds: float) -> bool:
        """Wait for the first message after all streams are subscribed; return whether it came in time."""
        await self._wait_for(self._is_ready, seconds)
        return self._is_ready.is_set() and not self.has_ended

    async def wait_until_ended(self, seconds: float) -> None:
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=seconds)
            self._raise_defect()

    async def wait_until_due(self, rotation: Rotation) -> Why:
        """Wait until the connection must be replaced, and return why. Raises what ``on_message`` raised."""
        while True:
            if self.has_ended:
                self._raise_defect()
                return Why.CLOSED
            if self._end_is_announced:
                return Why.SHUTDOWN
            quiet_since = None if self._is_delivering else self._last_at or self._opened_at
            seconds, why = rotation.due_in(self._opened_at, quiet_since, time.monotonic())
            if seconds <= 0:
                return why
            await self._wait_for(self._is_doomed, seconds)

    async def close(self) -> None:
        """Close with a handshake, and deliver the messages that the exchange sent before it."""
        await self._socket.close()
        if self._reader is not None:
            await asyncio.wait({self._reader})
            self._raise_defect()

    def abort(self) -> None:
        """Close at once, without a handshake."""
        for task in (self._reader, self._subscriber):
            if task is not None:
                task.cancel()
        self._socket.transport.abort()

    async def _read(self) -> None:
        try:
            while True:
                message = self._decode(await self._socket.recv(decode=False))
                if self._is_for_receiver(message):
                    await self._deliver(message)
        except ConnectionClosed as closed:
            self.close_reason = self.close_reason or f" ({_words(closed)})"
            if closed.sent is not None and closed.sent.code == CloseCode.MESSAGE_TOO_BIG:
                await self._deliver(TooLong(_length(closed)))
        finally:
            self._is_doomed.set()
            self._is_ready.set()

    def _is_for_receiver(self, message: Message) -> TypeGuard[Received]:
        """Return whether to pass the message to ``on_message``; handle messages about this connection."""
        if isinstance(message, TradeMessage):  # first, as nearly every message is one
            return True
        if isinstance(message, ServerShutdown):
            self._end_is_announced = True
            self._is_doomed.set()
            return False
        if isinstance(message, ControlReply):
            self._take_reply(message)
            return False
        return True

    async def _deliver(self, message: Received) -> None:
        self._is_delivering = True
        self._last_at = time.monotonic()
        if self._first_at is None:
            self._first_at = self._last_at
        if not self._unanswered:
            self._is_ready.set()
        await self._on_message(message)
        self._last_at = time.monotonic()
        self._is_delivering = False

    def _take_reply(self, reply: ControlReply) -> None:
        """Note that streams were subscribed. If they were refused, close the connection: it lacks them."""
        if reply.error is None and isinstance(reply.request_id, int):
            self._unanswered.discard(reply.request_id)
        elif reply.error is not None:
            self.close_reason = f" (the exchange refuses streams: {reply.error})"
            self._socket.transport.abort()

    async def _subscribe(self) -> None:
        with suppress(ConnectionClosed):  # ``_read`` handles it
            for request_id, streams in self._requests.items():
                await asyncio.sleep(_SUBSCRIBE_PAUSE_SECONDS)
                request = {"method": "SUBSCRIBE", "params": streams, "id": request_id}
                await self._socket.send(json.dumps(request))

    def _raise_defect(self) -> None:
        if self._reader is not None and self._reader.done() and not self._reader.cancelled():
            self._reader.result()

    async def _wait_for(self, event: asyncio.Event, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()


def _split_by_path(streams: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return the streams that fit into the URL, and those to subscribe to once connected."""
    fitting = _fitting(streams, _PATH_BYTES, _quoted)
    return streams[:fitting], streams[fitting:]


def _quoted(streams: Sequence[str]) -> str:
    """Return the names for a URL, with non-ASCII characters percent-encoded."""
    return quote("/".join(streams), safe="/@")


def _fitting(streams: Sequence[str], most_bytes: int, written: Callable[[Sequence[str]], str]) -> int:
    """Return how many of the first streams fit; at least one, so that callers make progress."""
    length = 0
    for at, name in enumerate(streams):
        length += len(written([name]).encode()) + 1
        if at and length > most_bytes:
            return at
    return len(streams)


def _lots(streams: Sequence[str]) -> list[Sequence[str]]:
    """Split the streams into groups for messages of at most ``_SUBSCRIBE_BYTES``."""
    lots = []
    while streams:
        fitting = _fitting(streams, _SUBSCRIBE_BYTES, json.dumps)
        lots.append(streams[:fitting])
        streams = streams[fitting:]
    return lots


def _length(closed: ConnectionClosed) -> int | None:
    """Return the length of the frame that was too long, None if websockets doesn't know it."""
    cause = closed.__cause__
    return cause.size if isinstance(cause, PayloadTooBig) else None


def _words(closed: ConnectionClosed) -> str:
    """Return on one line why the connection ended."""
    return " ".join(str(closed).split())
