"""Which symbols the exchange is asked for, what its answers mean, and what the requests cost.

``python -m pytest tests/unit/producer/test_tail.py -k cost -s`` prints the table of
docs/explanation/performance.md.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candleflow.backoff import Backoff
from candleflow.errors import ExchangeError
from candleflow.exchange.history import TradeHistory
from candleflow.exchange.rest import ExchangeRest
from candleflow.producer import tail
from candleflow.producer.tail import GRACE_SECONDS, ROUND_SECONDS, SETTLE_SECONDS, TailRule, TailWatch
from candleflow.simulator.rest import weight

SYMBOL = "BTCUSDT"


@pytest.fixture(scope="module", autouse=True)
def no_chance() -> Iterator[None]:
    """Make each pause of the backoff as long as possible."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail, "Backoff", partial(Backoff, random=lambda: 1.0))
        yield


def asked(rule: TailRule, next_ids: Mapping[str, int], until: float, since: float = 0.0) -> float | None:
    """Return when the first question is due, checking every half second."""
    for half in range(int(since * 2), int(until * 2) + 1):
        rule.follow(next_ids, half / 2)
        if rule.due(half / 2):
            return half / 2
    return None


def test_after_a_connect_only_symbols_without_a_trade_are_asked_for() -> None:
    rule = TailRule(["BTCUSDT", "ETHUSDT"], 0.0)
    rule.follow({"BTCUSDT": 10, "ETHUSDT": 20}, 0.0)
    rule.connected(["BTCUSDT", "ETHUSDT"], 10.0)
    rule.follow({"BTCUSDT": 11, "ETHUSDT": 20}, 11.0)
    assert rule.due(10.0 + SETTLE_SECONDS - 0.1) == []
    assert rule.due(10.0 + SETTLE_SECONDS) == ["ETHUSDT"]


def test_trades_not_delivered_within_the_grace_time_are_missing_once() -> None:
    rule = TailRule([SYMBOL], 0.0)
    rule.follow({SYMBOL: 10}, 0.0)
    rule.connected([SYMBOL], 1.0)
    assert asked(rule, {SYMBOL: 10}, 9.0) == 3.0
    rule.answered([SYMBOL], {SYMBOL: 14}, 3.5)
    assert rule.missing(3.5 + GRACE_SECONDS - 0.1) == []
    rule.follow({SYMBOL: 10}, 3.5 + GRACE_SECONDS)
    assert rule.missing(3.5 + GRACE_SECONDS) == [(SYMBOL, 14)]
    assert rule.behind() == {SYMBOL: 5}
    rule.follow({SYMBOL: 15}, 6.0)  # the gap was written
    assert rule.missing(60.0) == []
    assert rule.behind() == {SYMBOL: 5}
    rule.follow({SYMBOL: 16}, 7.0)  # the stream has delivered one
    assert rule.behind() == {}


def test_trades_delivered_within_the_grace_time_are_not_missing() -> None:
    rule = TailRule([SYMBOL], 0.0)
    rule.follow({SYMBOL: 10}, 0.0)
    assert asked(rule, {SYMBOL: 10}, 40.0) == tail.SILENT_SECONDS
    rule.answered([SYMBOL], {SYMBOL: 10}, 31.0)
    rule.follow({SYMBOL: 11}, 32.0)
    assert rule.missing(40.0) == []
    assert rule.quiet(40.0) == rule.behind() == {}


@pytest.mark.parametrize("last", [-1, 3, 9])
def test_a_symbol_without_newer_trades_is_quiet_until_it_is_heard(last: int) -> None:
    rule = TailRule([SYMBOL], 0.0)
    rule.follow({SYMBOL: 10}, 0.0)
    assert asked(rule, {SYMBOL: 10}, 40.0) == 30.0
    rule.answered([SYMBOL], {SYMBOL: last}, 30.0)
    assert rule.missing(50.0) == []
    assert rule.quiet(42.0) == {SYMBOL: 12.0}
    assert asked(rule, {SYMBOL: 10}, 200.0, since=42.0) == 30.0 + ROUND_SECONDS
    rule.follow({SYMBOL: 11}, 201.0)
    assert rule.quiet(201.0) == {}


def test_a_connection_that_opens_while_the_question_is_out_is_asked_about_again() -> None:
    rule = TailRule([SYMBOL], 0.0)
    rule.connected([SYMBOL], 0.0)
    assert asked(rule, {}, 9.0) == 2.0
    rule.connected([SYMBOL], 3.0)
    rule.answered([SYMBOL], {SYMBOL: -1}, 4.0)
    assert asked(rule, {}, 29.0, since=4.0) == 2.0 + tail.CONNECT_PAUSE_SECONDS


def test_failures_are_followed_by_longer_and_longer_pauses_and_forget_no_question() -> None:
    rule = TailRule([SYMBOL], 0.0)
    now = 0.0
    rule.connected([SYMBOL], now)
    for pause in (20, 40, 80, 160, 300, 300):
        at = asked(rule, {}, now + 400, since=now)
        assert at is not None
        assert rule.failed(at) == pause
        assert rule.due(at + pause - 0.1) == []
        now = at + pause
    assert rule.due(now) == [SYMBOL]
    rule.answered([SYMBOL], {SYMBOL: -1}, now)
    assert not rule.has_failed


def test_a_symbol_that_is_not_listed_is_left_alone_for_an_hour() -> None:
    rule = TailRule([SYMBOL], 0.0)
    assert asked(rule, {}, 40.0) == 30.0
    rule.answered([SYMBOL], {}, 30.0)
    assert asked(rule, {}, 5_000.0, since=30.5) == 30.0 + tail.UNLISTED_SECONDS


@dataclass
class Exchange:
    """Symbols that trade when the test says so, over a stream that may be down. The test sets the time."""

    symbols: Sequence[str]
    now: float = 0.0
    last: dict[str, int] = field(default_factory=dict)
    next_ids: dict[str, int] = field(default_factory=dict)
    """The intake's ``next_ids``."""
    noted: dict[str, set[int]] = field(default_factory=dict)
    came: dict[str, set[int]] = field(default_factory=dict)
    is_connected: bool = False
    is_answering: bool = True
    requests: list[Sequence[str]] = field(default_factory=list)

    def trade(self, symbol: str) -> None:
        trade_id = self.last[symbol] = self.last.get(symbol, -1) + 1
        if self.is_connected:
            self.note(symbol, trade_id - 1)
            self.came.setdefault(symbol, set()).add(trade_id)
            self.next_ids[symbol] = trade_id + 1

    def note(self, symbol: str, last: int) -> None:
        first = self.next_ids.get(symbol, last + 1)
        self.noted.setdefault(symbol, set()).update(range(first, last + 1))
        self.next_ids[symbol] = max(last + 1, first)

    # The part of the intake that TailWatch uses.

    async def note_missing(self, symbol: str, last_trade_id: int) -> None:
        self.note(symbol, last_trade_id)

    def count_from(self, symbol: str, trade_id: int) -> None:
        self.next_ids.setdefault(symbol, trade_id)

    # The part of the history that TailWatch uses; the cost tests use the real one, with a counting client.

    async def last_trade_ids(self, symbols: Sequence[str]) -> dict[str, int]:
        self.requests.append(symbols)
        if not self.is_answering:
            raise ExchangeError("away")
        return {symbol: self.last.get(symbol, -1) for symbol in symbols or self.symbols}


def watch_of(exchange: Any, history: Any = None) -> TailWatch:
    return TailWatch(history or exchange, exchange, exchange.symbols, now=lambda: exchange.now)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("trade"), st.sampled_from(["A", "B"])),
        st.tuples(st.just("pass"), st.sampled_from([0.5, 3.0, 40.0])),
        st.tuples(st.sampled_from(["connect", "cut", "answer", "refuse"]), st.none()),
    ),
    max_size=40,
)


@given(STEPS)
async def test_in_the_end_every_trade_has_arrived_or_is_recorded_as_missing(
    steps: list[tuple[str, Any]],
) -> None:
    exchange = Exchange(["A", "B"])
    watch = watch_of(exchange)
    first: dict[str, int] = {}
    for what, value in [*steps, ("answer", None), ("connect", None), ("pass", 700.0)]:
        if what == "trade":
            exchange.trade(value)
        elif what == "pass":
            for _ in range(int(value * 2)):
                exchange.now += 0.5
                await watch.look()
        elif what == "connect":
            exchange.is_connected = True
            watch.on_connected(exchange.symbols)
        elif what == "cut":
            exchange.is_connected = False
        else:
            exchange.is_answering = what == "answer"
        first = dict(exchange.next_ids) | first
    for symbol, last in exchange.last.items():
        had = exchange.came.get(symbol, set()) | exchange.noted.get(symbol, set())
        assert set(range(first[symbol], last + 1)) <= had
    assert watch.counts()["quiet"] == 2


async def test_without_an_answer_one_warning_is_logged_and_nothing_stops(
    caplog: pytest.LogCaptureFixture,
) -> None:
    exchange = Exchange(["A"], is_answering=False)
    watch = watch_of(exchange)
    watch.on_connected(["A"])
    for _ in range(400):
        exchange.now += 0.5
        await watch.look()
    assert len(exchange.requests) == 4
    warnings = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert [one.getMessage() for one in warnings] == [
        "the exchange doesn't answer for its last trade ids, next attempt in 20 s: away"
    ]


# What it costs ----------------------------------------------------------------------------------------

MINUTES = 10


class CountedRest(ExchangeRest):
    """A REST client without a socket that answers from ``exchange`` and records each request's path."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__("http://127.0.0.1:1")
        self.exchange = exchange
        self.paths: list[str] = []

    async def _get(self, path: str, **parameters: Any) -> Any:
        given = {name: value for name, value in parameters.items() if value is not None}
        request = self._client.build_request("GET", path, params=given)
        self.paths.append(str(request.url.raw_path, "ascii"))
        symbols = json.loads(given.get("symbols", "[]")) or self.exchange.symbols
        return [{"symbol": one, "lastId": self.exchange.last.get(one, -1)} for one in symbols]


async def cost(
    symbols: int, *, trades_every: float | None, connects_every: float | None
) -> tuple[float, float]:
    """Return requests and weight a minute."""
    exchange = Exchange([f"SYMBOL{number}USDT" for number in range(symbols)], is_connected=True)
    history = TradeHistory([])
    rest = CountedRest(exchange)
    history._clients = [rest]
    watch = watch_of(exchange, history)
    watch.on_connected(exchange.symbols)
    for half in range(MINUTES * 120):
        exchange.now = half / 2
        if trades_every and half / 2 % trades_every == 0:
            for symbol in exchange.symbols:
                exchange.trade(symbol)
        if connects_every and half / 2 % connects_every == 0:
            watch.on_connected(exchange.symbols)
        await watch.look()
    await rest.close()
    return len(rest.paths) / MINUTES, sum(map(weight, rest.paths)) / MINUTES


CASES: dict[str, dict[str, float | None]] = {
    "all busy": {"trades_every": 1.0, "connects_every": None},
    "all quiet": {"trades_every": None, "connects_every": None},
    "all quiet, a new connection every 10 s": {"trades_every": None, "connects_every": 10.0},
}


@pytest.mark.parametrize("case", CASES)
def test_the_cost_in_requests_and_weight_is_a_small_part_of_what_is_allowed(case: str) -> None:
    for symbols, most in ((1, 2.5), (100, 12), (1_500, 90)):
        requests, used = asyncio.run(cost(symbols, **CASES[case]))
        print(f"| {symbols:,} | {case} | {requests:.1f} | {used:.1f} | {used / 60:.2f} % |")
        if case == "all busy":
            assert requests == 0
        elif case == "all quiet":
            assert 0 < used <= most
        else:
            assert used <= 8.5 / 100 * 6_000
