"""The last trade ids in a real topic."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest
from kafka import KafkaProducer

from candleflow.broker import topic_tail
from candleflow.broker.topic_tail import last_trade_ids
from candleflow.broker.topics import ensure_topics
from candleflow.errors import BrokerError
from candleflow.market.payload import encode
from candleflow.market.trade import Trade
from tests.broker.topics import grow

MAX_FUTURE_US = 60_000_000


class Topic:
    def __init__(self, bootstrap: str, name: str, partitions: int) -> None:
        ensure_topics(bootstrap, [name], partitions, 1, 1)
        self.bootstrap = bootstrap
        self.name = name
        self.producer = KafkaProducer(bootstrap_servers=bootstrap)

    def add(self, symbol: str, trade_id: int, *, origin: bytes | None = None) -> None:
        headers = [] if origin is None else [("origin", origin)]
        self.add_raw(symbol, encode(trade(symbol, trade_id)), headers)

    def add_raw(self, key: str, value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
        self.producer.send(self.name, value, key.encode(), headers)

    def grow(self, partitions: int) -> None:
        """Add partitions, as an administrator may; this test's producer sees them at once."""
        grow(self.bootstrap, self.name, partitions)
        self.producer.close()
        self.producer = KafkaProducer(bootstrap_servers=self.bootstrap)

    def last(self, *symbols: str) -> dict[str, int]:
        self.producer.flush(10)
        return last_trade_ids(self.bootstrap, self.name, symbols, MAX_FUTURE_US)


def trade(symbol: str, trade_id: int, ahead_us: int = 0) -> Trade:
    now = time.time_ns() // 1_000
    return Trade(symbol, trade_id, Decimal("100.5"), Decimal(1), now + ahead_us, buyer_is_maker=True)


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_quiet_symbol_is_found_far_behind_a_busy_one(
    kafka_bootstrap: str, topic: str, partitions: int
) -> None:
    records = Topic(kafka_bootstrap, topic, partitions)
    records.add("ETHUSDT", 7)
    for trade_id in range(9_000):
        records.add("BTCUSDT", trade_id)
    assert records.last("BTCUSDT", "ETHUSDT") == {"BTCUSDT": 8_999, "ETHUSDT": 7}


def test_a_symbol_that_is_not_there_is_left_out_and_so_is_one_not_asked_for(
    kafka_bootstrap: str, topic: str
) -> None:
    records = Topic(kafka_bootstrap, topic, 1)
    assert records.last("BTCUSDT") == {}
    records.add("ETHUSDT", 7)
    assert records.last("BTCUSDT") == {}


def test_trades_filled_in_later_do_not_count_as_the_last(kafka_bootstrap: str, topic: str) -> None:
    records = Topic(kafka_bootstrap, topic, 1)
    records.add("BTCUSDT", 100)
    for trade_id in range(1_500):
        records.add("BTCUSDT", 500 + trade_id, origin=b"historicalTrades")
    assert records.last("BTCUSDT") == {"BTCUSDT": 100}


def test_invalid_trades_are_skipped(kafka_bootstrap: str, topic: str) -> None:
    """Starting from an invalid record's id would count all missing trades before it as published."""
    records = Topic(kafka_bootstrap, topic, 1)
    records.add("BTCUSDT", 5)
    forged = [encode(trade("BTCUSDT", 10**15, ahead_us=2 * MAX_FUTURE_US)), b'{"s":"BTCUSDT","t":9}']
    for value in (b"{", b"\xff", b"[]", b"null", None, *forged):
        records.add_raw("BTCUSDT", value, [])
    assert records.last("BTCUSDT") == {"BTCUSDT": 5}


def test_it_searches_a_limited_number_of_records_and_logs_that(
    kafka_bootstrap: str, topic: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(topic_tail, "RECORDS_LIMIT", 1_000)
    records = Topic(kafka_bootstrap, topic, 1)
    records.add("ETHUSDT", 7)
    for trade_id in range(1_000):
        records.add("BTCUSDT", trade_id)
    assert records.last("ETHUSDT", "BTCUSDT") == {"BTCUSDT": 999}
    assert "only the last 1000 records" in caplog.text


def test_the_error_names_a_topic_that_does_not_exist(kafka_bootstrap: str, topic: str) -> None:
    with pytest.raises(BrokerError, match=topic):
        last_trade_ids(kafka_bootstrap, topic, ["BTCUSDT"], MAX_FUTURE_US)


def test_after_partitions_were_added_the_latest_trade_counts_whichever_partition_it_is_in(
    kafka_bootstrap: str, topic: str
) -> None:
    """The old partition ends with trades of all symbols, and the new ones are longer."""
    records = Topic(kafka_bootstrap, topic, 1)
    symbols = [f"{letter}USDT" for letter in "ABCDEFGH"]
    for trade_id in range(10):
        for symbol in symbols:
            records.add(symbol, trade_id)
    records.producer.flush(10)
    records.grow(4)
    for trade_id in range(10, 20):
        for symbol in symbols:
            records.add(symbol, trade_id)
    for trade_id in range(20, 5_000):
        records.add(symbols[0], trade_id)
    assert records.last(*symbols) == {symbols[0]: 4_999} | dict.fromkeys(symbols[1:], 19)
