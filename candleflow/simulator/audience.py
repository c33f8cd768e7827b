"""Sends the simulator's events to its connected clients, with injected faults."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from websockets.asyncio.server import ServerConnection
from websockets.protocol import State

from candleflow.exchange.messages import symbol_of
from candleflow.market.trade_ids import TradeIds
from candleflow.simulator.session import Event, Session

_LOG: Final = logging.getLogger(__name__)
_INCOMING_LIMIT: Final = 5
"""Maximum messages a second from a client; Binance disconnects a client that sends more."""


@dataclass(slots=True)
class Faults:
    """The faults to inject; they may be changed while the simulator runs.

    They affect the live feed only, except for those that mention REST.
    """

    omit_ids: Mapping[str, Container[int]] = field(default_factory=dict)
    """By symbol, the ids of trades that are never sent. History over REST has them."""
    duplicate_fraction: float = 0.0
    """The share of trades that are sent twice, chosen by trade id."""
    disconnect_after: int | None = None
    """The number of messages after which each connection is cut, without a closing handshake."""
    refuse_connections: int = 0
    """How many of the next WebSocket connections to answer with HTTP 503."""
    is_silent: bool = False
    """Send nothing, although connections stay open. The messages of that time are lost."""
    throttle_requests: int = 0
    """How many of the next REST requests to answer with ``throttle_status`` and ``Retry-After``."""
    throttle_status: int = HTTPStatus.TOO_MANY_REQUESTS
    throttle_after: int = 0
    """How many REST requests to answer normally before those."""
    retry_after_seconds: int = 1
    has_historical_trades: bool = True
    """If False, REST answers ``historicalTrades`` with HTTP 404, as Binance's market-data-only hosts do."""


@dataclass(slots=True)
class SentLedger:
    """The events that were written to at least one client's socket, each counted once."""

    by_stream: Counter[str] = field(default_factory=Counter)
    trade_ids: dict[str, TradeIds] = field(default_factory=dict)
    """By symbol, the ids of the trades that were sent."""

    @property
    def messages(self) -> int:
        return self.by_stream.total()

    def add(self, event: Event) -> None:
        self.by_stream[event.stream] += 1
        if event.symbol:
            self.trade_ids.setdefault(event.symbol, TradeIds()).add(event.trade_id)


class Client:
    """One open connection."""

    def __init__(self, connection: ServerConnection, session: Session) -> None:
        self.connection = connection
        self.session = session
        self.sent = 0
        self._incoming: deque[float] = deque(maxlen=_INCOMING_LIMIT)

    @property
    def is_open(self) -> bool:
        connection = self.connection
        return connection.protocol.state is State.OPEN and not connection.transport.is_closing()

    @property
    def waiting_bytes(self) -> int:
        """The number of sent bytes that the client has not read yet."""
        return self.connection.transport.get_write_buffer_size()

    def write(self, texts: Iterable[str]) -> None:
        """Send all of ``texts`` without waiting, as ``websockets.broadcast`` does for one message.

        A batch is written to the transport once. With ``send``, each message would cost a task switch.
        """
        for text in texts:
            self.connection.protocol.send_text(text.encode(errors="surrogateescape"))
            self.sent += 1
        self.connection.send_data()

    def may_send(self, now: float) -> bool:
        """Count one incoming message; return False if there were too many within a second."""
        is_too_many = len(self._incoming) == _INCOMING_LIMIT and now - self._incoming[0] < 1.0
        self._incoming.append(now)
        return not is_too_many

    def cut(self) -> None:
        """Drop the connection without a closing handshake, as a broken cable would."""
        self.connection.transport.abort()


class Audience:
    """The connected clients: sends each event to the clients that are subscribed to it, with ``faults``.

    A client that reads too slowly is disconnected once ``max_waiting_bytes`` are unread, as Binance does.
    """

    def __init__(self, faults: Faults | None = None, max_waiting_bytes: int = 64 * 2**20) -> None:
        self.faults = faults or Faults()
        self.sent = SentLedger()
        self.streams: frozenset[str] = frozenset()
        """All streams that at least one client is subscribed to."""
        self._max_waiting_bytes = max_waiting_bytes
        self._clients: set[Client] = set()
        self._changed = asyncio.Event()

    @property
    def clients(self) -> int:
        """The number of open connections."""
        return sum(client.is_open for client in self._clients)

    def publish(self, events: Sequence[Event]) -> None:
        """Send each event to the clients that are subscribed to its stream."""
        chosen = self._after_faults(events)
        reached: set[int] = set()
        for client in tuple(self._clients):
            mine = [number for number, event in enumerate(chosen) if client.session.wants(event)]
            written = self._write(client, [client.session.frame(chosen[number]) for number in mine])
            reached.update(mine[:written])
        for number in sorted(reached):
            self.sent.add(chosen[number])

    def drop_all(self, reason: str) -> None:
        """Cut every connection."""
        _LOG.warning("cut %d connections: %s", len(self._clients), reason)
        for client in tuple(self._clients):
            client.cut()

    async def drained(self) -> None:
        """Wait until every client has read most of what was sent to it."""
        waits = [client.connection.drain() for client in self._clients if client.is_open]
        # ``drain`` raises for a connection that is lost meanwhile, which needs no waiting.
        await asyncio.gather(*waits, return_exceptions=True)
        await asyncio.sleep(0)  # a feed that never waits must let other tasks run

    async def subscribed(self, count: int = 1) -> None:
        """Wait until clients are subscribed to at least ``count`` trade streams."""
        while sum(symbol_of(stream) is not None for stream in self.streams) < count:
            self._changed.clear()
            await self._changed.wait()

    def _after_faults(self, events: Sequence[Event]) -> Sequence[Event]:
        faults = self.faults
        if faults.is_silent:
            return ()
        if not faults.omit_ids and not faults.duplicate_fraction:
            return events
        return [event for event in events if not self._is_omitted(event) for _ in range(self._copies(event))]

    def _is_omitted(self, event: Event) -> bool:
        return event.trade_id in self.faults.omit_ids.get(event.symbol, ())

    def _copies(self, event: Event) -> int:
        # Fibonacci hashing spreads consecutive ids evenly over 0 to 1, and always selects the same ids.
        share = event.trade_id * 0x9E3779B97F4A7C15 % 2**64 / 2**64
        return 2 if event.symbol and share < self.faults.duplicate_fraction else 1

    def _write(self, client: Client, texts: list[str]) -> int:
        """Send the texts to one client, and return how many were written to its socket."""
        if not texts or not client.is_open:
            return 0
        left = len(texts)
        if self.faults.disconnect_after is not None:
            left = min(left, self.faults.disconnect_after - client.sent)
        if left > 0:
            client.write(texts[:left])
        if left < len(texts):
            self._cut_soon(client)
        elif client.waiting_bytes > self._max_waiting_bytes:
            _LOG.warning("disconnected a client that reads too slowly: %d bytes unread", client.waiting_bytes)
            client.cut()
        return max(0, left)

    def _cut_soon(self, client: Client) -> None:
        """Cut the connection shortly after; an immediate abort would discard messages in the buffer."""
        client.session.streams = {}
        self.note_streams()
        asyncio.get_running_loop().call_later(0.05, client.cut)

    def note_streams(self) -> None:
        self.streams = frozenset().union(*(client.session.streams for client in self._clients))
        self._changed.set()
