"""Reading a topic's records again: between offsets, from a time on, and after records have expired."""

from __future__ import annotations

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from candleflow.broker.topics import ensure_topics
from candleflow.broker.trade_reader import TradeReader
from candleflow.errors import BrokerError
from candleflow.stack.process import free_port
from tests.broker.topics import remove_topics

TOPIC = "trades"
SECOND_US = 1_000_000


@pytest.fixture
def filled(kafka_bootstrap: str) -> str:
    """Two partitions of ten records each, one second apart, from 1,000 s after the epoch on."""
    remove_topics(kafka_bootstrap)
    ensure_topics(kafka_bootstrap, [TOPIC], 2, 1, 87_600)
    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap)
    for at in range(20):
        producer.send(TOPIC, b"%d" % at, partition=at % 2, timestamp_ms=(1_000 + at) * 1_000)
    producer.flush()
    producer.close()
    return kafka_bootstrap


def read(bootstrap: str, begin: dict[int, int], end: dict[int, int]) -> list[int]:
    with TradeReader(bootstrap, TOPIC) as reader:
        records = [record for some in reader.records(begin, end) for record in some]
    assert all(one.timestamp == (1_000 + int(one.value or b"")) * SECOND_US for one in records)
    return sorted(int(one.value or b"") for one in records)


def test_only_records_between_the_offsets_are_read(filled: str) -> None:
    assert read(filled, {0: 3, 1: 0}, {0: 5, 1: 2}) == [1, 3, 6, 8]
    assert read(filled, {}, {0: 10, 1: 10}) == list(range(20))
    assert read(filled, {0: 4, 1: 10}, {0: 4, 1: 10}) == []


def test_one_reader_reads_again_and_again(filled: str) -> None:
    with TradeReader(filled, TOPIC) as reader:
        for _ in range(2):
            assert sum(len(some) for some in reader.records({0: 2}, {0: 7})) == 5


def test_times_are_found_in_every_partition(filled: str) -> None:
    with TradeReader(filled, TOPIC) as reader:
        assert reader.offsets_at(0) == {0: 0, 1: 0}
        assert reader.offsets_at(1_007 * SECOND_US) == {0: 4, 1: 3}
        assert reader.offsets_at(1_018 * SECOND_US + 1) == {0: 9, 1: 9}
        assert reader.offsets_at(2_000 * SECOND_US) == {0: 10, 1: 10}


def test_expired_records_are_skipped(filled: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=filled)
    admin.delete_records({TopicPartition(TOPIC, 0): 8})
    admin.close()
    assert read(filled, {0: 3, 1: 10}, {0: 10, 1: 10}) == [16, 18]


def test_an_unavailable_topic_or_kafka_raises_a_broker_error(filled: str) -> None:
    with TradeReader(filled, "trades.none") as reader:
        with pytest.raises(BrokerError, match=r"trades\.none"):
            reader.offsets_at(0)
        with pytest.raises(BrokerError, match=r"trades\.none"):
            list(reader.records({}, {0: 1}))
    with pytest.raises(BrokerError, match="can't read topic"):
        TradeReader(f"127.0.0.1:{free_port()}", TOPIC)
