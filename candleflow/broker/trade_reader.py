"""The topic's older records read once more, from one offset to another, by a consumer of no group.

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
    """A record's value, and its own time in microseconds since the epoch."""

    value: bytes | None
    timestamp: int


class TradeReader:
    """Reads one topic; close it, or use it in a ``with``. Methods raise BrokerError while Kafka is away."""

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
        """In each partition the first record of that time (microseconds) or later; its end if it has none."""
        with asking(self._bootstrap, self._topic):
            partitions = partitions_of(self._consumer, self._topic)
            found = self._consumer.offsets_for_times(dict.fromkeys(partitions, max(0, at // 1_000)))
            ends = self._consumer.end_offsets(partitions)
        return {
            one.partition: ends[one] if found.get(one) is None else found[one].offset for one in partitions
        }

    def records(self, begin: Mapping[int, int], end: Mapping[int, int]) -> Iterator[list[TopicRecord]]:
        """What is there still with ``begin <= offset < end`` in each partition, some thousands at a time."""
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
        consumer.resume(*nexts)  # those that an earlier reading was done with
        for one, offset in nexts.items():
            consumer.seek(one, offset)
        came_at = time.monotonic()
        while nexts:
            polled: Mapping[TopicPartition, list[Any]] = consumer.poll(_POLL_MS, max_records=_POLL_RECORDS)
            if polled:
                came_at = time.monotonic()
            elif time.monotonic() - came_at > _SILENCE_SECONDS:
                raise BrokerError(f"topic {self._topic} gives no records, though it has some")
            for one in list(nexts):
                found = [record for record in polled.get(one, ()) if record.offset < end[one.partition]]
                yield [TopicRecord(record.value, record.timestamp * 1_000) for record in found]
                # Not by the records alone: the last ones may be Kafka's own, of transactions.
                if consumer.position(one) >= end[one.partition]:
                    del nexts[one]
                    consumer.pause(one)
