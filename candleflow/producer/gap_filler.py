"""Fills gaps: fetches missing trades from the exchange's history and publishes them like live trades.

The topic of gaps is the only record of what is missing. The filler writes each outcome to that topic, and
changes its own state only by what it reads back from it. So a restarted filler resumes where the last one
stopped, and another process requests missing trades by writing a gap to the topic.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from candleflow.backoff import Backoff
from candleflow.broker.publisher import Receipt
from candleflow.broker.trade_log import TradeLog
from candleflow.errors import ExchangeError
from candleflow.exchange.history import TradeHistory
from candleflow.exchange.past_trades import Origin
from candleflow.exchange.rest import MAX_LIMIT
from candleflow.market.gap import (
    JUMP,
    OVERLOAD,
    RECONNECT,
    RESTART,
    GapEvent,
    GapEventKind,
    GapState,
    events_of,
)
from candleflow.market.trade import Trade
from candleflow.market.trade_ids import Ranges, TradeIds
from candleflow.producer.intake import Intake

_log = logging.getLogger(__name__)

GRACE_SECONDS: Final = 2.0
"""How long to wait before filling a new gap. During a reconnect, the old connection often still delivers its
trades."""
STREAM: Final = "stream"
"""The recorded source of missing trades that the stream delivered late."""
NO_SUCH_TRADES: Final = "the exchange has no such trades"
ONLY_AGGREGATES: Final = "the exchange has only aggregates of these trades"

_OWN_REASONS: Final = frozenset((RESTART, RECONNECT, JUMP, OVERLOAD))
_CHECK_EVERY_SECONDS: Final = 1.0
_SHORTEST_PAUSE_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
_READ_BACK_SECONDS: Final = 30.0
_COMPARED: Final = 64
"""How many of a symbol's newest gaps to search for the smallest one. The search runs on the event loop beside
the live trades, so it must stay short even with 100,000 gaps."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request for history: missing ids of one symbol that fit into one page.

    Either all ids are forced (see ``_is_forced``) or none is. Unless forced, trades older than ``oldest``,
    in microseconds since the epoch, are given up.
    """

    symbol: str
    ids: TradeIds
    is_forced: bool
    oldest: int

    @property
    def lower(self) -> int:
        return self.ids.ranges[0][0]

    @property
    def upper(self) -> int:
        return self.ids.ranges[-1][1]


class GapFiller:
    """Fills the gaps in the events given to ``replace`` and ``add``, while ``run`` runs.

    All methods belong to one event loop. ``write`` returns once Kafka has acknowledged the event.
    ``fill_us``: how far back to fill, and ``now_us``: the time by the exchange's clock, in microseconds.
    """

    def __init__(
        self,
        history: TradeHistory,
        trade_log: TradeLog,
        intake: Intake,
        symbols: Collection[str],
        *,
        write: Callable[[GapEvent], Awaitable[None]],
        now_us: Callable[[], int],
        fill_us: int,
    ) -> None:
        self._history = history
        self._trade_log = trade_log
        self._intake = intake
        self._symbols = frozenset(symbols)
        self._write_event = write
        self._now_us = now_us
        self._fill_us = fill_us
        self._gaps = GapState()
        self._forced: dict[str, TradeIds] = {}
        self._paused_until: dict[str, float] = {}
        self._backoffs: dict[str, Backoff] = {}
        self._oldest: dict[str, int] = {}
        self._read_back: dict[GapEvent, asyncio.Event] = {}

    @property
    def open_trades(self) -> int:
        """The number of missing trades, including those that were given up."""
        return self._gaps.open_trades

    @property
    def open_gaps(self) -> int:
        """The number of gaps, including those that were given up."""
        return self._gaps.open_gaps

    def replace(self, events: Sequence[GapEvent]) -> None:
        """Rebuild the state from ``events``, which are all events of the topic."""
        self._gaps = GapState()
        self._forced.clear()
        self._oldest.clear()
        self.add(events)
        self._paused_until.clear()

    async def run(self) -> None:
        """Fill gaps until cancelled."""
        while True:
            asked = self._next_due()
            if asked is None:
                await asyncio.sleep(_CHECK_EVERY_SECONDS)
                continue
            symbol = asked.symbol
            try:
                await self._fill_some(asked)
            except ExchangeError as error:
                # Only this symbol waits: other symbols' gaps can be filled in the meantime.
                backoff = self._backoffs.setdefault(
                    symbol, Backoff(_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
                )
                pause = backoff.next_delay()
                self._paused_until[symbol] = time.monotonic() + pause
                _log.warning(
                    "%s: a gap can't be filled now, next attempt in %.0f s: %s", symbol, pause, error
                )
            else:
                self._backoffs.pop(symbol, None)

    def add(self, events: Sequence[GapEvent]) -> None:
        """Apply later events to the state."""
        for event in events:
            self._gaps.apply(event)
            # Both times count from the symbol's first open gap. If each new gap reset them, a steady flow of
            # gaps would postpone filling for ever, and its trades could pass the age limit meanwhile.
            if event.kind is GapEventKind.SEEN and event.symbol not in self._oldest:
                self._paused_until[event.symbol] = time.monotonic() + GRACE_SECONDS
                self._oldest[event.symbol] = self._now_us() - self._fill_us
            self._force(event)
            if self._read_back and (waiting := self._read_back.get(event)) is not None:
                waiting.set()

    def _force(self, event: GapEvent) -> None:
        """Update the set of ids that another process misses and that are still to be fetched."""
        ids = self._forced.get(event.symbol)
        for lower, upper in event.ranges:
            if event.kind is not GapEventKind.SEEN:
                if ids:
                    ids.remove_range(lower, upper)
            elif event.why not in _OWN_REASONS:
                ids = self._forced.setdefault(event.symbol, TradeIds())
                ids.add_range(lower, upper)

    def _next_due(self) -> _Asked | None:
        """Return the smallest gap that may be filled now, with the gaps that fit into the same page.

        The smallest goes first, so that small gaps don't wait for a large one. Only each symbol's newest gaps
        are searched, as some hosts have single trades only for the latest ids.
        """
        wanted = self._gaps.wanted()
        self._oldest = {symbol: oldest for symbol, oldest in self._oldest.items() if symbol in wanted}
        now = time.monotonic()
        due = [
            (upper - lower, symbol, lower, upper)
            for symbol, ids in wanted.items()
            if symbol in self._symbols and now >= self._paused_until.get(symbol, 0)
            for lower, upper in ids.last_ranges(_COMPARED)
        ]
        return self._asked(wanted, *min(due)[1:]) if due else None

    def _asked(self, wanted: Mapping[str, TradeIds], symbol: str, lower: int, upper: int) -> _Asked:
        """Return the request for the gap ``[lower, upper)`` and the gaps within a page after it.

        If the first id is forced, only forced ids are included; otherwise only ids that aren't.
        """
        forced = self._forced.get(symbol, TradeIds())
        ids = TradeIds.of_ranges(wanted[symbol].within(lower, max(upper, lower + MAX_LIMIT)))
        is_forced = lower in forced
        among = forced.within(lower, ids.ranges[-1][1])
        if is_forced:
            ids = TradeIds.of_ranges(part for begin, end in among for part in ids.within(begin, end))
        else:
            _remove(ids, among)
        return _Asked(symbol, ids, is_forced, self._oldest[symbol])

    async def _fill_some(self, asked: _Asked) -> None:
        """Fill one page; or, if the stream has delivered some of the ids late, record those as filled."""
        here = () if asked.is_forced else self._published(asked)
        if not here:
            await self._fill_page(asked)
            return
        await self._intake.out_of_order.wait()
        await self._note(GapEventKind.FILLED, asked.symbol, here, STREAM)

    def _published(self, asked: _Asked) -> Ranges:
        among = self._intake.published.among(asked.symbol, asked.lower, asked.upper)
        return tuple(part for begin, end in among for part in asked.ids.within(begin, end))

    async def _fill_page(self, asked: _Asked) -> None:
        symbol, lower = asked.symbol, asked.lower
        page = await self._history.page(symbol, lower, asked.upper - lower)
        if page.end <= lower:
            raise ExchangeError(f"the exchange returns no trade of {symbol} from id {lower} on yet")
        if page.begins_at < asked.oldest and not asked.is_forced:
            since = await self._history.first_id_since(symbol, asked.oldest)
            end = asked.upper if since is None else max(since, lower + 1)
            why = f"older than {self._fill_us / 3_600_000_000:g} h"
            await self._note(GapEventKind.GIVEN_UP, symbol, asked.ids.within(lower, end), why)
            return
        absent = TradeIds.of_ranges(asked.ids.within(lower, page.end))
        trades = [trade for trade in page.trades if trade.trade_id in absent]
        found = TradeIds(trade.trade_id for trade in trades)
        await self._publish(trades, page.origin)
        await self._note(GapEventKind.FILLED, symbol, found.ranges, page.origin)
        _remove(absent, found.ranges)
        why = ONLY_AGGREGATES if page.origin is Origin.AGGREGATE else NO_SUCH_TRADES
        await self._note(GapEventKind.GIVEN_UP, symbol, absent.ranges, why)

    async def _publish(self, trades: Sequence[Trade], origin: Origin) -> None:
        """Publish the trades, and wait until Kafka has acknowledged them."""
        receipt = Receipt()
        for trade in trades:
            await self._trade_log.wait_for_room()
            is_forced = self._is_forced(trade.symbol, trade.trade_id)
            self._intake.fill_in(trade, origin, receipt, even_if_published=is_forced)
        await receipt.wait()

    def _is_forced(self, symbol: str, trade_id: int) -> bool:
        """Return whether another process reported this trade as missing.

        That process reads the topic, so the trade is published again even if it was published before.
        """
        return trade_id in self._forced.get(symbol, ())

    async def _note(self, kind: GapEventKind, symbol: str, ranges: Ranges, why: str) -> None:
        """Write the outcome for these ranges of ids, and wait until it was read back from the topic."""
        if not ranges:
            return
        trades = sum(upper - lower for lower, upper in ranges)
        place = f"{ranges[0][0]} to {ranges[-1][1] - 1}"
        _log.info("%s: %d trades %s, in %d ranges from %s: %s", symbol, trades, kind, len(ranges), place, why)
        events = events_of(kind, symbol, ranges, self._now_us(), why)
        await asyncio.gather(*map(self._note_one, events))

    async def _note_one(self, event: GapEvent) -> None:
        read_back = self._read_back[event] = asyncio.Event()
        try:
            await self._write_event(event)
            async with asyncio.timeout(_READ_BACK_SECONDS):
                await read_back.wait()
        except TimeoutError:
            _log.warning(
                "%s: the outcome of a gap was written to Kafka, but not read back within %.0f s; the gap "
                "may be filled again",
                event.symbol,
                _READ_BACK_SECONDS,
            )
        finally:
            del self._read_back[event]


def _remove(ids: TradeIds, ranges: Ranges) -> None:
    for lower, upper in ranges:
        ids.remove_range(lower, upper)
