"""A topic's first and end offsets, which the processor compares with its stored offsets."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from kafka import KafkaConsumer, TopicPartition, errors
from kafka.admin import KafkaAdminClient

from candleflow.broker.security import KafkaRefusalError
from candleflow.broker.topics import (
    admin_client,
    asking,
    consumer_of_no_group,
    id_and_partitions,
    partitions_of,
)
from candleflow.errors import LedgerError

_ASK_EVERY_SECONDS: Final = 1.0
_CLIENT_ID: Final = "candleflow-offsets"


@dataclass(frozen=True, slots=True)
class Bounds:
    """A topic's first available offsets and its end offsets, by partition."""

    begin: Mapping[int, int]
    end: Mapping[int, int]


def bounds(bootstrap: str, topic: str) -> Bounds:
    """Return the topic's current bounds. Raises BrokerError if Kafka or the topic is unavailable."""
    with asking(bootstrap, topic), closing(consumer_of_no_group(bootstrap, _CLIENT_ID)) as consumer:
        partitions = partitions_of(consumer, topic)
        begin = consumer.beginning_offsets(partitions)
        return Bounds(_by_number(begin), _by_number(consumer.end_offsets(partitions)))


def starting_offsets(topic: str, stored: Mapping[int, int], found: Bounds) -> dict[int, int]:
    """Return the offsets to resume from: the stored one, or a partition's beginning if none is stored.

    Raises LedgerError if the topic no longer has the record at a stored offset, or ends before it. Resuming
    anywhere else would silently lose or repeat trades.
    """
    gone = sorted(stored.keys() - found.end.keys())
    if gone:
        raise not_fitting(topic, f"partition {gone[0]} is gone")
    for partition, offset in sorted(stored.items()):
        if offset < found.begin[partition]:
            raise not_fitting(
                topic,
                f"partition {partition} was to be read from offset {offset}, but begins at "
                f"{found.begin[partition]}: {found.begin[partition] - offset} records expired unread",
            )
        if offset > found.end[partition]:
            raise not_fitting(
                topic,
                f"partition {partition} was read up to offset {offset}, but ends at {found.end[partition]}",
            )
    return {partition: stored.get(partition, found.begin[partition]) for partition in found.end}


def not_fitting(topic: str, reason: str) -> LedgerError:
    """Return the error for a topic that doesn't match the stored offsets; it names the command that helps."""
    return LedgerError(
        f"the topic {topic} does not fit the candles in PostgreSQL: {reason}; to accept the topic and "
        "read it from its beginning: python -m candleflow adopt-topic"
    )


@dataclass(frozen=True, slots=True)
class Latest:
    """A topic's id and end offsets as of the last query; ``asked_at`` is its start by ``time.monotonic``."""

    asked_at: float
    topic_id: str
    end: Mapping[int, int]


class EndOffsets:
    """Asks once a second for a topic's end offsets and id, on its own thread, as Kafka may answer slowly."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._stop = threading.Event()
        self._latest: Latest | None = None
        self._thread = threading.Thread(target=self._run, name="end-offsets", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    @property
    def latest(self) -> Latest | None:
        """The latest answer; None before the first one, and while Kafka or the topic is unavailable."""
        return self._latest

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with (
                    admin_client(self._bootstrap) as admin,
                    closing(consumer_of_no_group(self._bootstrap, _CLIENT_ID)) as consumer,
                ):
                    self._ask(admin, consumer)
            except (errors.KafkaError, OSError, KafkaRefusalError):
                # The streaming query reads the same Kafka and reports the error. Here the lag is unknown.
                self._latest = None
            self._stop.wait(_ASK_EVERY_SECONDS)

    def _ask(self, admin: KafkaAdminClient, consumer: KafkaConsumer) -> None:
        """Ask once a second until stopped, or until the topic has other partitions."""
        while not self._stop.is_set():
            asked_at = time.monotonic()
            partitions = partitions_of(consumer, self._topic)
            end = _by_number(consumer.end_offsets(partitions))
            topic_id, numbers = id_and_partitions(admin, self._topic)
            if numbers != [one.partition for one in partitions]:
                self._latest = None  # partitions were added; only a new consumer sees them
                return
            self._latest = Latest(asked_at, topic_id, end)
            self._stop.wait(_ASK_EVERY_SECONDS)


def _by_number(offsets: Mapping[TopicPartition, int]) -> dict[int, int]:
    return {place.partition: offset for place, offset in offsets.items()}
