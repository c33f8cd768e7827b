"""Detects missing trades at the end of a symbol's stream, by asking the exchange for the last trade id.

``intake`` detects a gap when the symbol's next trade arrives. If a symbol trades while the connection is down
and then falls silent, no next trade arrives, so this module asks the exchange, many symbols in one request:

- after each connect, for symbols that have had no trade since;
- once a minute, for symbols that have been silent for 30 s.

If the stream does not deliver the answered id within ``GRACE_SECONDS``, the ids up to it are a gap. The
answer also shows whether a silent symbol has no trades, or the stream fails to deliver them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from candleflow.backoff import Backoff
from candleflow.errors import ExchangeError
from candleflow.exchange.history import TradeHistory
from candleflow.producer.intake import Intake

_log = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 2.0
"""How long to wait after a connect before asking. A symbol that trades in the meantime needs no question."""
GRACE_SECONDS: Final = 2.0
"""How long to wait after an answer for the stream to deliver the same trades."""
SILENT_SECONDS: Final = 30.0
ROUND_SECONDS: Final = 60.0
"""How often to ask about silent symbols. Costs at most 80 of the rate limit's 6,000 weight a minute."""
CONNECT_PAUSE_SECONDS: Final = 10.0
"""Minimum time between questions after connects. Costs at most 480 weight a minute if connections flap."""
SHORTEST_PAUSE_SECONDS: Final = 20.0
LONGEST_PAUSE_SECONDS: Final = 300.0
"""Bounds of the wait after a failed question."""
UNLISTED_SECONDS: Final = 3_600.0
"""How long to wait before asking again for a symbol that the exchange doesn't list."""
CHECK_SECONDS: Final = 0.5

_NEVER: Final = float("inf")


@dataclass(slots=True)
class _Answer:
    last_trade_id: int
    at: float
    ahead_by: int | None
    """How many trades the exchange had and the stream hadn't; None until ``GRACE_SECONDS`` have passed."""


class TailRule:
    """Decides which symbols to ask for, and what the answers mean. Times: seconds of any monotonic clock.

    ``next_ids`` come from the intake: by symbol, the id expected of its next trade. When a symbol's next id
    changes, the symbol counts as heard, and the answer about it is discarded.
    """

    def __init__(self, symbols: Collection[str], now: float) -> None:
        self._next_ids: dict[str, int] = {}
        self._heard_at = dict.fromkeys(symbols, now)
        self._connected_at: dict[str, float] = {}
        self._answers: dict[str, _Answer] = {}
        self._paused_until: dict[str, float] = {}
        self._asked_at = self._round_at = self._may_ask_at = -_NEVER
        self.has_failed = False
        """Whether the last question failed."""
        self._backoff = Backoff(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)

    def follow(self, next_ids: Mapping[str, int], now: float) -> None:
        """Update which symbols have had trades since the last call."""
        for symbol, next_id in next_ids.items():
            if self._next_ids.get(symbol) != next_id:
                self._next_ids[symbol] = next_id
                self._heard_at[symbol] = now
                self._connected_at.pop(symbol, None)
                self._answers.pop(symbol, None)

    def connected(self, symbols: Iterable[str], now: float) -> None:
        """Note that a connection opened: trades made before it may be missing."""
        self._connected_at |= dict.fromkeys(symbols, now)

    def due(self, now: float) -> list[str]:
        """Return the symbols to ask for now."""
        if now < self._may_ask_at:
            return []
        found: set[str] = set()
        if now - self._asked_at >= CONNECT_PAUSE_SECONDS:
            found |= {one for one, at in self._connected_at.items() if now - at >= SETTLE_SECONDS}
        if now - self._round_at >= ROUND_SECONDS:
            silent = {one for one, at in self._heard_at.items() if now - at >= SILENT_SECONDS}
            self._round_at = now if silent else self._round_at
            found |= silent
        due = sorted(one for one in found if now >= self._paused_until.get(one, now))
        self._asked_at = now if due else self._asked_at
        return due

    def answered(self, asked: Iterable[str], last_trade_ids: Mapping[str, int], now: float) -> None:
        """Store the answer to the last question; an id of -1 means no trade within 24 h."""
        self.has_failed = False
        self._backoff.reset()
        for symbol in asked:
            if self._connected_at.get(symbol, _NEVER) <= self._asked_at:
                del self._connected_at[symbol]
            last = last_trade_ids.get(symbol)
            if last is None:
                self._paused_until[symbol] = now + UNLISTED_SECONDS
                continue
            is_ahead = last >= self._next_ids.get(symbol, last + 1)
            self._answers[symbol] = _Answer(last, now, None if is_ahead else 0)

    def failed(self, now: float) -> float:
        """Note that the exchange didn't answer; return the seconds to wait before asking again."""
        self.has_failed = True
        pause = self._backoff.next_delay()
        self._may_ask_at = now + pause
        self._round_at = -_NEVER
        return pause

    def missing(self, now: float) -> list[tuple[str, int]]:
        """Return symbols with missing trades, each with the last missing id; each answer is used once.

        A symbol is included if the stream hasn't caught up within ``GRACE_SECONDS`` after the answer.
        """
        found = []
        for symbol, answer in self._answers.items():
            if answer.ahead_by is None and now - answer.at >= GRACE_SECONDS:
                answer.ahead_by = answer.last_trade_id + 1 - self._next_ids[symbol]
                # The caller writes this gap, which moves the next id: that must not count as a trade heard.
                self._next_ids[symbol] = answer.last_trade_id + 1
                found.append((symbol, answer.last_trade_id))
        return found

    def quiet(self, now: float) -> dict[str, float]:
        """Return the symbols that have no newer trade, each with the seconds since the exchange said so."""
        return {symbol: now - one.at for symbol, one in self._answers.items() if one.ahead_by == 0}

    def behind(self) -> dict[str, int]:
        """Return the symbols with missing newer trades, and how many; until the stream delivers a trade."""
        return {symbol: one.ahead_by for symbol, one in self._answers.items() if one.ahead_by}


class TailWatch:
    """Asks the exchange as ``TailRule`` decides, and has the intake write the gaps.

    ``may_note``: whether this producer holds the lease; while it doesn't, nothing is asked.
    """

    def __init__(
        self,
        history: TradeHistory,
        intake: Intake,
        symbols: Collection[str],
        *,
        may_note: Callable[[], bool] = lambda: True,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._history = history
        self._intake = intake
        self._may_note = may_note
        self._now = now
        self._rule = TailRule(symbols, now())

    def on_connected(self, symbols: Iterable[str]) -> None:
        """Note that a new connection will deliver these symbols' trades."""
        self._rule.follow(self._intake.next_ids, self._now())
        self._rule.connected(symbols, self._now())

    async def run(self) -> None:
        """Check for missing trades until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(CHECK_SECONDS)

    async def look(self) -> None:
        """Have the missing trades written as gaps, then ask for the symbols that are due."""
        if not self._may_note():
            return
        self._rule.follow(self._intake.next_ids, self._now())
        missing = self._rule.missing(self._now())
        await asyncio.gather(*(self._intake.note_missing(symbol, last) for symbol, last in missing))
        if due := self._rule.due(self._now()):
            await self._ask(due)

    async def _ask(self, symbols: list[str]) -> None:
        try:
            found = await self._history.last_trade_ids(symbols)
        except ExchangeError as error:
            level = logging.INFO if self._rule.has_failed else logging.WARNING
            pause = self._rule.failed(self._now())
            words = "the exchange doesn't answer for its last trade ids, next attempt in %.0f s: %s"
            _log.log(level, words, pause, error)
            return
        for symbol, last in found.items():
            if last >= 0:
                self._intake.count_from(symbol, last + 1)
        self._rule.follow(self._intake.next_ids, self._now())
        self._rule.answered(symbols, found, self._now())

    def counts(self) -> dict[str, int]:
        """Return for the heartbeat how many symbols are quiet or behind."""
        return {"quiet": len(self._rule.quiet(self._now())), "behind": len(self._rule.behind())}

    def by_symbol(self, most: int) -> dict[str, dict[str, float]]:
        """Return for the heartbeat up to ``most`` of the quiet symbols, and of those behind."""
        quiet, behind = self._rule.quiet(self._now()), self._rule.behind()
        return {
            "quiet_s": {symbol: round(age, 3) for symbol, age in islice(quiet.items(), most)},
            "behind": dict(islice(behind.items(), most)),
        }
