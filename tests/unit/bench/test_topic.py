from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest

from bench import topic
from candleflow.market.payload import CANONICAL_PATTERN
from candleflow.market.symbol import is_symbol

COUNT = 3_000


def test_the_same_trades_every_time_however_many_are_asked_for() -> None:
    assert list(topic.trades(COUNT))[:1_000] == list(topic.trades(1_000))


def test_trades_come_in_the_order_of_time_and_each_symbols_ids_are_consecutive() -> None:
    trades = list(topic.trades(COUNT))
    assert [trade.time for trade in trades] == sorted(trade.time for trade in trades)
    assert {trade.symbol for trade in trades} == set(topic.SYMBOLS)
    for symbol in topic.SYMBOLS:
        ids = [trade.trade_id for trade in trades if trade.symbol == symbol]
        assert all(following == one + 1 for one, following in pairwise(ids))


def test_any_number_of_symbols_trades_at_the_same_rate() -> None:
    names = topic.symbols(1_000)
    assert names[: len(topic.SYMBOLS)] == topic.SYMBOLS
    assert len(set(names)) == 1_000
    assert all(map(is_symbol, names))
    few, many = (list(topic.trades(COUNT, topic.symbols(count))) for count in (1, 30))
    assert {trade.symbol for trade in many} == set(topic.symbols(30))
    assert (many[-1].time - many[0].time) / (few[-1].time - few[0].time) == pytest.approx(1, rel=0.5)
    assert all(re.fullmatch(CANONICAL_PATTERN, topic.payload(trade)) for trade in many)


def test_a_payload_has_binances_exact_layout() -> None:
    for trade in topic.trades(100):
        text = topic.payload(trade)
        assert re.fullmatch(CANONICAL_PATTERN, text)
        read = json.loads(text)
        assert (read["s"], read["t"], read["T"]) == (trade.symbol, trade.trade_id, trade.time // 1_000)


def test_the_closing_trades_follow_each_symbols_last_and_lie_in_a_window_of_their_own() -> None:
    last_of = {trade.symbol: trade for trade in topic.trades(COUNT)}
    closing = list(topic.closing(last_of))
    assert [(one.symbol, one.trade_id) for one in closing] == [
        (symbol, last.trade_id + 1) for symbol, last in last_of.items()
    ]
    latest = max(trade.time for trade in last_of.values())
    assert all(one.time >= latest + topic.CLOSING_AFTER_US for one in closing)
