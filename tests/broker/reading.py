"""Reads all records of a topic from its beginning."""

from __future__ import annotations

import time
from typing import Any

from kafka import KafkaConsumer, TopicPartition

DEADLINE_SECONDS = 120.0


def read(bootstrap: str, topic: str, count: int, *, within_seconds: float = DEADLINE_SECONDS) -> list[Any]:
    """Wait for at least ``count`` records, and return all records in the order of their partitions."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    try:
        deadline = time.monotonic() + within_seconds
        partitions = [
            TopicPartition(topic, one) for one in sorted(consumer.partitions_for_topic(topic) or ())
        ]
        assert partitions, f"{topic} does not exist"
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        records: list[Any] = []
        while time.monotonic() < deadline:
            for batch in consumer.poll(timeout_ms=200, max_records=20_000).values():
                records.extend(batch)
            ends = consumer.end_offsets(partitions)
            if len(records) >= count and all(consumer.position(one) >= ends[one] for one in partitions):
                return sorted(records, key=lambda record: (record.partition, record.offset))
        raise AssertionError(f"{topic} held {len(records)} of {count} records after {within_seconds:.0f} s")
    finally:
        consumer.close()
