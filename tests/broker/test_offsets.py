"""End offsets of a real topic."""

from __future__ import annotations

from kafka import KafkaProducer

from candleflow.broker.offsets import EndOffsets
from candleflow.broker.topics import ensure_topics
from candleflow.stack.process import wait_for
from tests.broker.topics import grow


def test_partitions_added_later_are_seen(kafka_bootstrap: str, topic: str) -> None:
    """Otherwise the processor would believe that it had read everything, and close candles too early."""
    ensure_topics(kafka_bootstrap, [topic], 1, 1, 1)
    ends = EndOffsets(kafka_bootstrap, topic)
    ends.start()
    try:
        assert wait_for(lambda: ends.latest is not None and ends.latest.end == {0: 0}, 20)
        grow(kafka_bootstrap, topic, 3)
        producer = KafkaProducer(bootstrap_servers=kafka_bootstrap)
        producer.send(topic, b"value", partition=2).get(timeout=10)
        producer.close()
        assert wait_for(lambda: ends.latest is not None and ends.latest.end == {0: 0, 1: 0, 2: 1}, 20)
    finally:
        ends.stop()
