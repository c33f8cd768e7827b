"""The last trade ids in a real topic."""

from __future__ import annotations

import json

import pytest
from kafka import KafkaProducer

from candleflow.broker import topic_tail
from candleflow.broker.topic_tail import last_trade_ids
from candleflow.broker.topics import ensure_topics
from candleflow.errors import BrokerError


class Topic:
    def __init__(self, bootstrap: str, name: str, partitions: int) -> None:
        ensure_topics(bootstrap, [name], partitions, 1, 1)
        self.bootstrap = bootstrap
        self.name = name
        self.producer = KafkaProducer(bootstrap_servers=bootstrap)

    def add(self, symbol: str, trade_id: int, *, origin: bytes | None = None) -> None:
        headers = [] if origin is None else [("origin", origin)]
        self.add_raw(symbol, json.dumps({"s": symbol, "t": trade_id}).encode(), headers)

    def add_raw(self, key: str, value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
        self.producer.send(self.name, value, key.encode(), headers)

    def last(self, *symbols: str) -> dict[str, int]:
        self.producer.flush(10)
        return last_trade_ids(self.bootstrap, self.name, symbols)


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


def test_what_was_filled_in_later_is_not_the_last(kafka_bootstrap: str, topic: str) -> None:
    records = Topic(kafka_bootstrap, topic, 1)
    records.add("BTCUSDT", 100)
    for trade_id in range(1_500):
        records.add("BTCUSDT", 500 + trade_id, origin=b"historicalTrades")
    assert records.last("BTCUSDT") == {"BTCUSDT": 100}


def test_records_that_are_no_trades_are_passed_over(kafka_bootstrap: str, topic: str) -> None:
    records = Topic(kafka_bootstrap, topic, 1)
    records.add("BTCUSDT", 5)
    for value in (b"{", b"\xff", b"[]", b"null", None, b'{"s":"BTCUSDT"}', b'{"s":"BTCUSDT","t":"9"}'):
        records.add_raw("BTCUSDT", value, [])
    assert records.last("BTCUSDT") == {"BTCUSDT": 5}


def test_it_looks_back_so_far_and_says_so(
    kafka_bootstrap: str, topic: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(topic_tail, "RECORDS_LIMIT", 1_000)
    records = Topic(kafka_bootstrap, topic, 1)
    records.add("ETHUSDT", 7)
    for trade_id in range(1_000):
        records.add("BTCUSDT", trade_id)
    assert records.last("ETHUSDT", "BTCUSDT") == {"BTCUSDT": 999}
    assert "only the last 1000 records" in caplog.text


def test_a_topic_that_is_not_there_is_named(kafka_bootstrap: str, topic: str) -> None:
    with pytest.raises(BrokerError, match=topic):
        last_trade_ids(kafka_bootstrap, topic, ["BTCUSDT"])
