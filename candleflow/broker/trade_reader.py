"""Reads a topic's older records again, between two offsets, without a consumer group.

Everything here blocks on Kafka: call it from a thread, not from an event loop.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from kafka import TopicPartition

from candleflow.broker.topics import asking, consumer_of_no_group, partitions_of
from candleflow.errors import BrokerError

_POLL_MS: Final = 200
_POLL_RECORDS: Final = 5_000
_SILENCE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class TopicRecord:
    """A record's value, and its timestamp in microseconds since the epoch."""

    value: bytes | None
    timestamp: int


class TradeReader:
    """Reads one topic; a context manager. Methods raise BrokerError if Kafka is unavailable."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        with asking(bootstrap, topic):
            self._consumer = consumer_of_no_group(bootstrap, "candleflow-refold")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def offsets_at(self, at: int) -> dict[int, int]:
        """Return for each partition the offset of its first record at time ``at`` (microseconds) or later.

        A partition without such a record has its end offset instead.
        """
        with asking(self._bootstrap, self._topic):
            partitions = partitions_of(self._consumer, self._topic)
            found = self._consumer.offsets_for_times(dict.fromkeys(partitions, max(0, at // 1_000)))
            ends = self._consumer.end_offsets(partitions)
        return {
            one.partition: ends[one] if found.get(one) is None else found[one].offset for one in partitions
        }

    def records(self, begin: Mapping[int, int], end: Mapping[int, int]) -> Iterator[list[TopicRecord]]:
        """Yield the available records with ``begin <= offset < end`` in each partition, in batches.

        A batch has up to ``_POLL_RECORDS`` records; it may be empty.
        """
        with asking(self._bootstrap, self._topic):
            yield from self._records(begin, end)

    def _records(self, begin: Mapping[int, int], end: Mapping[int, int]) -> Iterator[list[TopicRecord]]:
        consumer = self._consumer
        beginnings = consumer.beginning_offsets(partitions_of(consumer, self._topic))
        nexts = {
            one: max(begin.get(one.partition, 0), offset)
            for one, offset in beginnings.items()
            if max(begin.get(one.partition, 0), offset) < end.get(one.partition, 0)
        }
        consumer.assign(list(nexts))
        consumer.resume(*nexts)  # an earlier call paused the partitions that it had finished
        for one, offset in nexts.items():
            consumer.seek(one, offset)
        came_at = time.monotonic()
        while nexts:
            polled: Mapping[TopicPartition, list[Any]] = consumer.poll(_POLL_MS, max_records=_POLL_RECORDS)
            if polled:
                came_at = time.monotonic()
            elif time.monotonic() - came_at > _SILENCE_SECONDS:
                raise BrokerError(
                    f"topic {self._topic} returned no records for {_SILENCE_SECONDS:.0f} s, although it has "
                    "some"
                )
            for one in list(nexts):
                found = [record for record in polled.get(one, ()) if record.offset < end[one.partition]]
                yield [TopicRecord(record.value, record.timestamp * 1_000) for record in found]
                # The position, not the last record: the last offsets may be Kafka's transaction markers.
                if consumer.position(one) >= end[one.partition]:
                    del nexts[one]
                    consumer.pause(one)
