"""The simulator's clients: what each of them is sent, and what goes wrong with it."""

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
    """What goes wrong. May be changed while the simulator runs; live feed only, unless it says REST."""

    omit_ids: Mapping[str, Container[int]] = field(default_factory=dict)
    """By symbol, trades that are never sent; history has them."""
    duplicate_fraction: float = 0.0
    """Share of the trades that are sent twice, chosen by trade id."""
    disconnect_after: int | None = None
    """Number of messages after which each connection is cut, with no closing handshake."""
    refuse_connections: int = 0
    """Number of WebSocket connections to answer with HTTP 503 next."""
    is_silent: bool = False
    """Nothing is sent, though connections stay open; what would have been sent is lost."""
    throttle_requests: int = 0
    """Number of REST requests to answer with ``throttle_status`` and ``Retry-After`` next."""
    throttle_status: int = HTTPStatus.TOO_MANY_REQUESTS
    throttle_after: int = 0
    """Number of REST requests to answer before those."""
    retry_after_seconds: int = 1
    has_historical_trades: bool = True
    """False as at the hosts for market data only: that REST request is answered with HTTP 404."""


@dataclass(slots=True)
class SentLedger:
    """The events handed to at least one client's socket, each counted once."""

    by_stream: Counter[str] = field(default_factory=Counter)
    trade_ids: dict[str, TradeIds] = field(default_factory=dict)
    """By symbol."""

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
        """Bytes that were sent and that the client has not read yet."""
        return self.connection.transport.get_write_buffer_size()

    def write(self, texts: Iterable[str]) -> None:
        """Send all of ``texts`` without waiting; as ``websockets.broadcast`` does, but for many messages.

        One pass through the transport for a batch: with ``send`` each message would cost a task switch.
        """
        for text in texts:
            self.connection.protocol.send_text(text.encode(errors="surrogateescape"))
            self.sent += 1
        self.connection.send_data()

    def may_send(self, now: float) -> bool:
        """Note one incoming message; False if it is one too many within a second."""
        is_too_many = len(self._incoming) == _INCOMING_LIMIT and now - self._incoming[0] < 1.0
        self._incoming.append(now)
        return not is_too_many

    def cut(self) -> None:
        """End the connection as a broken cable would."""
        self.connection.transport.abort()


class Audience:
    """The clients, as a source sees them: who gets what, whatever ``faults`` does to it.

    A client that takes its messages too slowly is cut off once ``max_waiting_bytes`` wait for it, as Binance
    does.
    """

    def __init__(self, faults: Faults | None = None, max_waiting_bytes: int = 64 * 2**20) -> None:
        self.faults = faults or Faults()
        self.sent = SentLedger()
        self.streams: frozenset[str] = frozenset()
        """Every stream that some client is subscribed to."""
        self._max_waiting_bytes = max_waiting_bytes
        self._clients: set[Client] = set()
        self._changed = asyncio.Event()

    @property
    def clients(self) -> int:
        """How many connections are open."""
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
        """Wait until every client has taken most of what was sent to it."""
        waits = [client.connection.drain() for client in self._clients if client.is_open]
        # A connection lost meanwhile has nothing to wait for.
        await asyncio.gather(*waits, return_exceptions=True)
        await asyncio.sleep(0)  # a feed that never waits must let the others in

    async def subscribed(self, count: int = 1) -> None:
        """Wait until clients are subscribed to at least ``count`` streams of trades."""
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
        # Fibonacci hashing spreads consecutive ids evenly over 0 to 1, the same ones each time.
        share = event.trade_id * 0x9E3779B97F4A7C15 % 2**64 / 2**64
        return 2 if event.symbol and share < self.faults.duplicate_fraction else 1

    def _write(self, client: Client, texts: list[str]) -> int:
        """Send to one client; how many of the texts were handed to its socket."""
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
            _LOG.warning("a client was cut off: %d bytes wait for it", client.waiting_bytes)
            client.cut()
        return max(0, left)

    def _cut_soon(self, client: Client) -> None:
        """Cut the connection once what was sent is out: an abort would take back what is still buffered."""
        client.session.streams = {}
        self.note_streams()
        asyncio.get_running_loop().call_later(0.05, client.cut)

    def note_streams(self) -> None:
        self.streams = frozenset().union(*(client.session.streams for client in self._clients))
        self._changed.set()
