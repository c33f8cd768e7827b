"""Checks of each partition's last merged record: it is still there, has expired, or was replaced."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from candleflow.broker.last_records import LastRecords
from candleflow.broker.topics import ensure_topics
from candleflow.errors import BrokerError, LedgerError
from candleflow.stack.process import free_port

BEGIN_MS = 1_700_000_000_000
RECORDS = 50
EXPIRED = 20
KAFKAS_OWN = RECORDS + 1
"""The offset of the record by which a transaction ends."""


def at(offset: int) -> int:
    """Return the timestamp of the record at the offset, in microseconds."""
    return (BEGIN_MS + offset) * 1_000


@pytest.fixture
def records(kafka_bootstrap: str, topic: str) -> Iterator[LastRecords]:
    """Two partitions of 50 records. In one the first 20 have expired; the other ends with a transaction."""
    ensure_topics(kafka_bootstrap, [topic], 3, 1, 87_600)
    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap, linger_ms=5)
    for offset in range(RECORDS):
        for partition in (0, 1):
            producer.send(topic, b"x" * 100, partition=partition, timestamp_ms=BEGIN_MS + offset)
    producer.close()
    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap, transactional_id=uuid.uuid4().hex)
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(topic, b"x", partition=0, timestamp_ms=BEGIN_MS + RECORDS).get(30)
    producer.commit_transaction()
    producer.close()
    with closing(KafkaAdminClient(bootstrap_servers=kafka_bootstrap)) as admin:
        admin.delete_records({TopicPartition(topic, 1): EXPIRED})
    with closing(LastRecords(kafka_bootstrap, topic)) as made:
        yield made


def test_records_that_exist_or_have_expired_are_confirmed_and_no_others(records: LastRecords) -> None:
    records.confirm({})
    for last in ({0: 0}, {0: RECORDS}, {0: 17, 1: RECORDS - 1}, {1: EXPIRED}, {1: EXPIRED - 1}, {1: 0}):
        records.confirm({number: (offset, at(offset)) for number, offset in last.items()})
    for number, offset, written_at in (
        (0, 17, at(17) + 1_000),
        (1, EXPIRED, at(EXPIRED) - 1_000),
        (0, KAFKAS_OWN, at(KAFKAS_OWN)),
        (0, KAFKAS_OWN + 100, at(0)),
    ):
        with pytest.raises(LedgerError, match=f"partition {number} has another record at offset {offset} "):
            records.confirm({number: (offset, written_at), 1 - number: (30, at(30))})
    records.confirm({0: (3, at(3)), 1: (30, at(30))})


def test_an_unavailable_kafka_raises_a_broker_error(topic: str) -> None:
    with (
        closing(LastRecords(f"127.0.0.1:{free_port()}", topic)) as records,
        pytest.raises(BrokerError, match="can't read topic"),
    ):
        records.confirm({0: (1, 1)})
