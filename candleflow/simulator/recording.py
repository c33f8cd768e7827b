"""Replays a recorded feed: the same messages in the same order and spacing, and their history over REST.

A recording is a text file, gzipped or not, with one WebSocket message per line: combined frames, or bare
trade payloads. Any other line, such as a REST snapshot or a broken frame, belongs to no stream and is sent
only with ``every_line``. History has the trades that were played so far.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from candleflow.errors import ExchangeError
from candleflow.exchange.messages import TradeMessage, decode, stream_of, symbol_of
from candleflow.market.payload import decode_payload
from candleflow.market.trade import DECIMAL_PLACES, TIME_LIMIT_US, Trade, to_microseconds
from candleflow.market.window import SECOND_US
from candleflow.simulator.audience import Audience
from candleflow.simulator.session import Event
from candleflow.simulator.source import Listing

AS_FAST_AS_POSSIBLE: Final = 0.0
"""The speed at which only slow clients make the replay wait."""

_COMBINED: Final = re.compile(r'\{"stream":"([^"\\]+)","data":(.*)\}', re.DOTALL)
_EVENT_TIME: Final = re.compile(r'"E":([0-9]{13,17})\b')
_TIMES: Final = re.compile(r'"([ET])":([0-9]{13,17})\b')
_BATCH: Final = 256
"""Maximum number of messages to send at once while no waiting is needed."""


class Line(NamedTuple):
    """One recorded message: its line in the file, its stream, its data, and its event time if any."""

    text: str
    stream: str
    data: str
    event_time: int | None


class Played(NamedTuple):
    """The result of a finished replay: the number of messages in the file, and the time it took."""

    messages: int
    seconds: float


@dataclass(slots=True)
class _SymbolHistory:
    """The trades of one symbol that have been played, by id."""

    trades: list[Trade] = field(default_factory=list)
    aggregate_starts: list[int] = field(default_factory=list)
    """The first id of each aggregate."""

    def add(self, trade: Trade) -> None:
        trades = self.trades
        if not trades or trade.trade_id > trades[-1].trade_id:
            if not trades or not _belongs_to(trades[-1], trade):
                self.aggregate_starts.append(trade.trade_id)
            trades.append(trade)
            return
        at = self.index(trade.trade_id)
        if trades[at].trade_id != trade.trade_id:  # out of order; a repeated trade is ignored
            trades.insert(at, trade)
            self.aggregate_starts = [
                one.trade_id
                for before, one in zip([None, *trades], trades, strict=False)
                if before is None or not _belongs_to(before, one)
            ]

    def index(self, trade_id: int) -> int:
        return bisect_left(self.trades, trade_id, key=lambda trade: trade.trade_id)


class Recording:
    """A recorded feed; a ``Source`` for the simulator.

    ``speed`` is a multiple of real time; 0 means as fast as the clients read. With ``is_shifted``, the times
    ``T`` and ``E`` are moved by whole milliseconds to the present, and all else stays as recorded: the first
    message gets the time at which it is sent. If the speed is above real time, the last message does, so that
    none is dated in the future. With ``every_line``, each line goes to each client, whatever its
    subscriptions. Playing starts when clients are subscribed to ``wait_for`` trade streams; ``played`` is set
    when it has ended.

    Raises ExchangeError if the file can't be read or has no trade.
    """

    def __init__(
        self,
        file: Path,
        *,
        speed: float = 1.0,
        is_shifted: bool = False,
        every_line: bool = False,
        wait_for: int = 1,
    ) -> None:
        self._file = file
        self._speed = speed
        self._is_shifted = is_shifted
        self._every_line = every_line
        self._wait_for = wait_for
        self.played: Played | None = None
        self._history: dict[str, _SymbolHistory] = {}
        self._last_time = 0
        self._listings, self._first_time, self._end_time = self._scan()

    def listings(self) -> Sequence[Listing]:
        return list(self._listings.values())

    def listing(self, symbol: str) -> Listing | None:
        return self._listings.get(symbol)

    def present(self, now: int) -> int:
        return min(now, self._last_time)

    def id_range(self, symbol: str, now: int) -> tuple[int, int]:
        trades = self._of(symbol).trades
        return (trades[0].trade_id, trades[-1].trade_id + 1) if trades else (0, 0)

    def id_at(self, symbol: str, time: int) -> int:
        trades = self._of(symbol).trades
        at = bisect_left(trades, time, key=lambda trade: trade.trade_time)
        if at < len(trades):
            return trades[at].trade_id
        return trades[-1].trade_id + 1 if trades else 0

    def trades(self, symbol: str, ids: tuple[int, int]) -> Iterator[Trade]:
        history = self._of(symbol)
        lower, upper = ids
        return iter(history.trades[history.index(lower) : history.index(upper)])

    def aggregate_of(self, symbol: str, trade_id: int) -> int:
        return bisect_right(self._of(symbol).aggregate_starts, trade_id)

    def aggregate_start(self, symbol: str, aggregate_id: int) -> int:
        starts = self._of(symbol).aggregate_starts
        if aggregate_id <= len(starts):
            return starts[max(0, aggregate_id - 1)] if starts else 0
        return self.id_range(symbol, 0)[1]

    async def play(self, audience: Audience) -> None:
        """Send the whole recording once. At speed 0, it pauses while no client is subscribed."""
        await audience.subscribed(self._wait_for)
        started_at = time.time_ns() // 1_000
        shift_ms = self._shift_ms(started_at)
        count = 0
        batch: list[Line] = []
        ahead_of = self._first_time
        for line in self._lines():
            if line.event_time is not None:
                ahead_of = max(ahead_of, line.event_time)
            wait = self._seconds_until(ahead_of, started_at)
            if batch and (wait > 0 or len(batch) >= _BATCH):
                await self._send(audience, batch, shift_ms)
                batch.clear()
            if wait > 0:
                await asyncio.sleep(wait)
            batch.append(line)
            count += 1
        await self._send(audience, batch, shift_ms)
        seconds = (time.time_ns() // 1_000 - started_at) / SECOND_US
        self.played = Played(count, seconds)

    def _shift_ms(self, started_at: int) -> int:
        if not self._is_shifted:
            return 0
        lasts = self._end_time - self._first_time
        lasts_now = lasts / self._speed if self._speed != AS_FAST_AS_POSSIBLE else 0.0
        return int(started_at - self._first_time + min(0.0, lasts_now - lasts)) // 1_000

    def _seconds_until(self, event_time: int, started_at: int) -> float:
        if self._speed == AS_FAST_AS_POSSIBLE:
            return 0.0
        due = started_at + (event_time - self._first_time) / self._speed
        return (due - time.time_ns() // 1_000) / SECOND_US

    async def _send(self, audience: Audience, lines: Sequence[Line], shift_ms: int) -> None:
        if self._speed == AS_FAST_AS_POSSIBLE:
            await audience.subscribed(1)
        events = [self._event(line, shift_ms) for line in lines]
        audience.publish([event for event in events if event.stream or self._every_line])
        await audience.drained()

    def _event(self, line: Line, shift_ms: int) -> Event:
        """Return the message to send. If it is a trade, add it to the history."""
        text = _shifted(line.data, shift_ms)
        whole = _shifted(line.text, shift_ms) if self._every_line else None
        if symbol_of(line.stream) is None:
            return Event(line.stream, text, text, line=whole)
        message = decode(text.encode(errors="surrogateescape"), self._listings.keys(), TIME_LIMIT_US, 0)
        if not isinstance(
            message, TradeMessage
        ):  # a broken trade is sent unchanged, for the client to handle
            return Event(line.stream, text, text, line=whole)
        trade = message.trade
        self._of(trade.symbol).add(trade)
        self._last_time = max(self._last_time, trade.trade_time)
        return Event(line.stream, text, _in_microseconds(text), trade.symbol, trade.trade_id, whole)

    def _of(self, symbol: str) -> _SymbolHistory:
        return self._history.setdefault(symbol, _SymbolHistory())

    def _scan(self) -> tuple[dict[str, Listing], int, int]:
        """Return the symbols whose trades are in the file, the first message's time and the latest time."""
        listings: dict[str, Listing] = {}
        first_time: int | None = None
        end_time = 0
        streams: set[str] = set()
        for line in self._lines():
            streams.add(line.stream)
            if line.event_time is not None:
                first_time = line.event_time if first_time is None else first_time
                end_time = max(end_time, line.event_time)
        for stream in sorted(streams):
            symbol = symbol_of(stream)
            if symbol is not None:
                listings[symbol] = Listing(symbol, symbol, "", DECIMAL_PLACES, DECIMAL_PLACES)
        if first_time is None or not listings:
            raise ExchangeError(
                f"{self._file} has no trade: it must be a recording of Binance's trade streams"
            )
        return listings, first_time, end_time

    def _lines(self) -> Iterator[Line]:
        open_file = gzip.open if self._file.suffix == ".gz" else open
        try:
            with open_file(
                self._file, "rt", encoding="utf-8", errors="surrogateescape", newline="\n"
            ) as lines:
                for text in lines:
                    if not text.isspace():
                        yield _line(text.rstrip("\r\n"))
        except (OSError, EOFError) as error:  # gzip raises EOFError for a truncated file
            raise ExchangeError(f"the recording {self._file} can't be read: {error}") from error


def _line(text: str) -> Line:
    found = _COMBINED.fullmatch(text)
    stream, data = found.groups() if found else (_stream_of_payload(text), text)
    event_time = _EVENT_TIME.search(data)
    return Line(text, stream, data, to_microseconds(int(event_time[1])) if event_time else None)


def _stream_of_payload(text: str) -> str:
    """Return the stream of a bare trade payload, or an empty name."""
    if not text.startswith('{"e":"trade"'):
        return ""
    trade = decode_payload(text.encode(errors="surrogateescape"), TIME_LIMIT_US, 0)
    return stream_of(trade.symbol) if isinstance(trade, Trade) else ""


def _belongs_to(before: Trade, after: Trade) -> bool:
    """Return whether both trades are in one aggregate: consecutive ids, same time, price and side."""
    return (
        after.trade_id == before.trade_id + 1
        and after.trade_time // 1_000 == before.trade_time // 1_000
        and after.price == before.price
        and after.buyer_is_maker == before.buyer_is_maker
    )


def _shifted(text: str, shift_ms: int) -> str:
    def move(found: re.Match[str]) -> str:
        units = int(found[2])
        is_milliseconds = to_microseconds(units) != units
        return f'"{found[1]}":{units + (shift_ms if is_milliseconds else shift_ms * 1_000)}'

    return _TIMES.sub(move, text) if shift_ms else text


def _in_microseconds(text: str) -> str:
    return _TIMES.sub(lambda found: f'"{found[1]}":{to_microseconds(int(found[2]))}', text)
