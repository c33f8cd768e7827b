"""The trades after the last one that the stream has brought: asks the exchange whether there are any.

A missing trade shows by the next trade of its symbol (``intake``). A symbol that is traded while the
connection is away, and then falls silent, has no next trade: its last ones would be missing unseen. So the
exchange is asked for the id of a symbol's last trade, many symbols in one request: after each connect, for
those that have brought none since, and once a minute for those that have been silent for half a minute. Where
the stream hasn't brought that id within a short time after the answer, the ids up to it are a gap. The answer
also tells a quiet symbol from a deaf stream.
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
"""After a connect: a symbol that is traded meanwhile needs no question."""
GRACE_SECONDS: Final = 2.0
"""After an answer: the stream may be so far behind it."""
SILENT_SECONDS: Final = 30.0
ROUND_SECONDS: Final = 60.0
"""Seconds between questions about silent symbols: at most 80 of the 6,000 weight a minute."""
CONNECT_PAUSE_SECONDS: Final = 10.0
"""Least seconds between questions after connects: at most 480 weight a minute where connections flap."""
SHORTEST_PAUSE_SECONDS: Final = 20.0
LONGEST_PAUSE_SECONDS: Final = 300.0
"""Bounds of the wait after a question that failed."""
UNLISTED_SECONDS: Final = 3_600.0
"""How long to wait before asking again for a symbol that the exchange doesn't list."""
LOOK_SECONDS: Final = 0.5

_NEVER: Final = float("inf")


@dataclass(slots=True)
class _Answer:
    last_trade_id: int
    at: float
    ahead_by: int | None
    """Trades that the exchange had and the stream hadn't; None until the grace is over."""


class TailRule:
    """Which symbols to ask for and what the answers mean. Times are seconds of any monotonic clock.

    ``next_ids`` are the intake's: by symbol, the id that its next trade should have. A symbol has been heard
    when its next id has moved; what was answered for it then counts no more.
    """

    def __init__(self, symbols: Collection[str], now: float) -> None:
        self._next_ids: dict[str, int] = {}
        self._heard_at = dict.fromkeys(symbols, now)
        self._connected_at: dict[str, float] = {}
        self._answers: dict[str, _Answer] = {}
        self._rests_until: dict[str, float] = {}
        self._asked_at = self._round_at = self._may_ask_at = -_NEVER
        self.has_failed = False
        """Whether the last question failed."""
        self._backoff = Backoff(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)

    def follow(self, next_ids: Mapping[str, int], now: float) -> None:
        """Note which symbols have been heard since the last call."""
        for symbol, next_id in next_ids.items():
            if self._next_ids.get(symbol) != next_id:
                self._next_ids[symbol] = next_id
                self._heard_at[symbol] = now
                self._connected_at.pop(symbol, None)
                self._answers.pop(symbol, None)

    def connected(self, symbols: Iterable[str], now: float) -> None:
        """A connection opened: what was traded before it may be missing."""
        self._connected_at |= dict.fromkeys(symbols, now)

    def due(self, now: float) -> list[str]:
        """The symbols to ask for now."""
        if now < self._may_ask_at:
            return []
        found: set[str] = set()
        if now - self._asked_at >= CONNECT_PAUSE_SECONDS:
            found |= {one for one, at in self._connected_at.items() if now - at >= SETTLE_SECONDS}
        if now - self._round_at >= ROUND_SECONDS:
            silent = {one for one, at in self._heard_at.items() if now - at >= SILENT_SECONDS}
            self._round_at = now if silent else self._round_at
            found |= silent
        due = sorted(one for one in found if now >= self._rests_until.get(one, now))
        self._asked_at = now if due else self._asked_at
        return due

    def answered(self, asked: Iterable[str], last_trade_ids: Mapping[str, int], now: float) -> None:
        """Take the answer to the last question; -1 stands for no trade within 24 h."""
        self.has_failed = False
        self._backoff.reset()
        for symbol in asked:
            if self._connected_at.get(symbol, _NEVER) <= self._asked_at:
                del self._connected_at[symbol]
            last = last_trade_ids.get(symbol)
            if last is None:
                self._rests_until[symbol] = now + UNLISTED_SECONDS
                continue
            is_ahead = last >= self._next_ids.get(symbol, last + 1)
            self._answers[symbol] = _Answer(last, now, None if is_ahead else 0)

    def failed(self, now: float) -> float:
        """The exchange didn't answer: the seconds until it may be asked again."""
        self.has_failed = True
        pause = self._backoff.next_delay()
        self._may_ask_at = now + pause
        self._round_at = -_NEVER
        return pause

    def missing(self, now: float) -> list[tuple[str, int]]:
        """Symbols whose stream has had its time and lacks trades, and the last one's id; each answer once."""
        found = []
        for symbol, answer in self._answers.items():
            if answer.ahead_by is None and now - answer.at >= GRACE_SECONDS:
                answer.ahead_by = answer.last_trade_id + 1 - self._next_ids[symbol]
                # What we put on record ourselves isn't heard.
                self._next_ids[symbol] = answer.last_trade_id + 1
                found.append((symbol, answer.last_trade_id))
        return found

    def quiet(self, now: float) -> dict[str, float]:
        """By symbol that the exchange has no newer trade of either, how long ago it said so, in seconds."""
        return {symbol: now - one.at for symbol, one in self._answers.items() if one.ahead_by == 0}

    def behind(self) -> dict[str, int]:
        """By symbol that the exchange has newer trades of, how many; until the stream brings one."""
        return {symbol: one.ahead_by for symbol, one in self._answers.items() if one.ahead_by}


class TailWatch:
    """Asks for what ``TailRule`` says, and has the intake put on record what is missing.

    ``may_note``: whether this producer is the one that publishes now; while it isn't, nothing is asked.
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
        """A new connection is about to bring these symbols' trades."""
        self._rule.follow(self._intake.next_ids, self._now())
        self._rule.connected(symbols, self._now())

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Ask for what is due, and note what is missing."""
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
            words = "the exchange can't be asked for its last trade ids, next attempt in %.0f s: %s"
            _log.log(level, words, pause, error)
            return
        for symbol, last in found.items():
            if last >= 0:
                self._intake.count_from(symbol, last + 1)
        self._rule.follow(self._intake.next_ids, self._now())
        self._rule.answered(symbols, found, self._now())

    def counts(self) -> dict[str, int]:
        """For the heartbeat: how many symbols are quiet or behind."""
        return {"quiet": len(self._rule.quiet(self._now())), "behind": len(self._rule.behind())}

    def by_symbol(self, most: int) -> dict[str, dict[str, float]]:
        """For the heartbeat: ``most`` of the quiet symbols, and of those behind."""
        quiet, behind = self._rule.quiet(self._now()), self._rule.behind()
        return {
            "quiet_s": {symbol: round(age, 3) for symbol, age in islice(quiet.items(), most)},
            "behind": dict(islice(behind.items(), most)),
        }
