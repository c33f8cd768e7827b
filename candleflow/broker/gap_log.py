"""The topic of gaps: what became of missing trades.

``trades.gaps`` has one partition and keeps every event of ``market/gap.py`` as JSON, keyed by symbol:

    {"event":"seen","symbol":"BTCUSDT","first_trade_id":101,"last_trade_id":104,"at":1763851200000000,
     "why":"reconnect"}

An event about several ranges of ids, such as a filled page of history, has ``"trade_ids":
"{[101,103),[104,105)}"`` instead of the two ids. An older version that knows only the two ids ignores such a
record with a warning, and fetches those trades again.

A process that misses trades writes ``seen``; the producer fetches them, and writes the outcome.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from kafka import KafkaConsumer, KafkaProducer, TopicPartition, errors

from candleflow.broker.security import python_options, raise_if_refused
from candleflow.broker.topics import (
    ATTEMPT_MS,
    REQUEST_MS,
    admin_client,
    asking,
    consumer_of_no_group,
    ensure_topics,
    id_of,
    partitions_of,
    words,
)
from candleflow.errors import BrokerError, MarketError
from candleflow.market.gap import GapEvent, GapEventKind
from candleflow.market.symbol import is_symbol
from candleflow.market.trade_ids import TradeIds

_log = logging.getLogger(__name__)

PARTITIONS: Final = 1
RETENTION_HOURS: Final = 87_600
"""Ten years: a gap that was never filled must not be forgotten before its candles are."""

_POLL_MS: Final = 200
_POLL_RECORDS: Final = 5_000
_WRITE_MS: Final = 10_000
_SILENCE_SECONDS: Final = 3.0
_READ_ATTEMPTS: Final = 3
_LONGEST_EVENT_BYTES: Final = 65_536


class StuckError(errors.KafkaError):  # type: ignore[misc]  # kafka-python has no types
    """A consumer of kafka-python's that brings nothing any more, though there is something.

    Seen after a restart of the broker: it had been given its partition, no heartbeat of it was heard, the
    broker removed it, and every poll of it returned at once, for ever.
    """


def encode(event: GapEvent) -> bytes:
    """The record of one event."""
    ids: dict[str, str | int]
    if len(event.ranges) > 1:
        ids = {"trade_ids": str(TradeIds.of_ranges(event.ranges))}
    else:
        ids = {"first_trade_id": event.first_trade_id, "last_trade_id": event.last_trade_id}
    fields = {"event": event.kind, "symbol": event.symbol, **ids, "at": event.at, "why": event.why}
    return json.dumps(fields, separators=(",", ":")).encode()


def decode(record: bytes) -> GapEvent:
    """The event in a record; raises MarketError for anything else."""
    try:
        event = _read(record)
    except (ValueError, KeyError, TypeError, RecursionError, MarketError) as error:
        raise MarketError(f"no event of a gap ({error}): {record[:200]!r}") from error
    if not is_symbol(event.symbol):
        raise MarketError(f"no event of a gap (its symbol is none): {record[:200]!r}")
    return event


def _read(record: bytes) -> GapEvent:
    if len(record) > _LONGEST_EVENT_BYTES:
        raise MarketError(f"it has {len(record):,} bytes")
    fields: dict[str, Any] = json.loads(record)
    kind, symbol, at, why = GapEventKind(fields["event"]), fields["symbol"], fields["at"], fields["why"]
    ids = fields.get("trade_ids")
    numbers = [at] if ids is not None else [at, fields["first_trade_id"], fields["last_trade_id"]]
    if any(type(number) is not int for number in numbers) or not isinstance(why, str):
        raise MarketError("a field is of another type")
    if ids is not None:
        return GapEvent.of(kind, symbol, TradeIds.parse(ids).ranges, at, why)
    return GapEvent(kind, symbol, numbers[1], numbers[2], at, why)


def ensure_topic(
    bootstrap: str, topic: str, replication: int, *, gives_up: Callable[[], bool] = lambda: False
) -> None:
    """Make the topic where it does not exist; waits for Kafka. As ``topics.ensure_topics``."""
    ensure_topics(bootstrap, (topic,), PARTITIONS, replication, RETENTION_HOURS, gives_up=gives_up)


def write_all(bootstrap: str, topic: str, events: Sequence[GapEvent]) -> None:
    """Write events, and return once Kafka has them. Raises BrokerError."""
    try:
        producer = KafkaProducer(
            **python_options(bootstrap),
            client_id="candleflow-gaps",
            acks="all",
            enable_idempotence=True,
            delivery_timeout_ms=_WRITE_MS,
            request_timeout_ms=REQUEST_MS,
            bootstrap_timeout_ms=ATTEMPT_MS,
            allow_auto_create_topics=False,
        )
        try:
            sent = [producer.send(topic, encode(event), event.symbol.encode()) for event in events]
            for future in sent:
                future.get(_WRITE_MS / 1_000)
        finally:
            producer.close(timeout=1)
    except (errors.KafkaError, OSError) as error:
        raise_if_refused(bootstrap, error)
        raise BrokerError(f"Kafka at {bootstrap} doesn't take events of gaps: {words(error)}") from error


def read_all(bootstrap: str, topic: str) -> list[GapEvent]:
    """Every event so far, in order. Raises BrokerError where Kafka or the topic is away."""
    return GapReader(bootstrap, topic).read()[0]


class GapReader:
    """Reads the topic of gaps by a consumer of no group, and keeps its place between readings."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._place = Place()

    def read(self) -> tuple[list[GapEvent], bool]:
        """Return the events since the last reading, in order, and whether they are all events instead.

        The first reading returns all of them, and so does one after the topic was recreated. Raises
        BrokerError where Kafka or the topic is away; the next reading then starts at the same place.
        """
        with (
            asking(self._bootstrap, self._topic),
            admin_client(self._bootstrap) as admin,
            closing(consumer_of_no_group(self._bootstrap, "candleflow-gaps")) as consumer,
        ):
            made = id_of(admin, self._topic)
            partition = partitions_of(consumer, self._topic)[0]
            consumer.assign([partition])
            return self._place.read_on(consumer, partition, made)


@dataclass(slots=True)
class Place:
    """How far the topic of gaps was read, and the id that the topic had then."""

    topic_id: str = ""
    next_offset: int = 0

    def read_on(
        self, consumer: KafkaConsumer, partition: TopicPartition, topic_id: str
    ) -> tuple[list[GapEvent], bool]:
        """Return the events from here to the topic's end, and False; or all events, and True.

        All of them where ``topic_id`` is another than before, or where the topic ends before this place.
        ``consumer`` has the partition assigned.
        """
        is_anew = topic_id != self.topic_id or self.end(consumer, partition) < self.next_offset
        events, self.next_offset = _read_until_now(consumer, partition, 0 if is_anew else self.next_offset)
        self.topic_id = topic_id
        return events, is_anew

    def end(self, consumer: KafkaConsumer, partition: TopicPartition) -> int:
        return int(consumer.end_offsets([partition])[partition])


def _read_until_now(
    consumer: KafkaConsumer, partition: TopicPartition, since: int
) -> tuple[list[GapEvent], int]:
    """Return the events of an assigned partition from an offset on, and the offset up to which it was read.

    Goes by the records that arrive, not by the position that kafka-python 3.0.12 reports: once, while the
    group was rebalanced on a busy machine, records of the topic never arrived. Raises StuckError where they
    stay away in each of ``_READ_ATTEMPTS``: only a new consumer helps then.
    """
    for _ in range(_READ_ATTEMPTS):
        found: list[GapEvent] = []
        next_offset = max(since, consumer.beginning_offsets([partition])[partition])
        consumer.seek(partition, next_offset)
        end = consumer.end_offsets([partition])[partition]
        came_at = time.monotonic()
        while next_offset < end and partition in consumer.assignment():
            if records := poll(consumer, partition):
                found += events_in(records)
                next_offset = records[-1].offset + 1
                came_at = time.monotonic()
            elif time.monotonic() - came_at > _SILENCE_SECONDS:
                break
        else:
            return found, next_offset
    raise StuckError(f"records up to offset {end} are there, and don't come")


def poll(consumer: KafkaConsumer, partition: TopicPartition) -> Sequence[Any]:
    """The partition's next records, if any come soon."""
    polled: Mapping[TopicPartition, Sequence[Any]] = consumer.poll(
        timeout_ms=_POLL_MS, max_records=_POLL_RECORDS
    )
    return polled.get(partition, ())


def events_in(records: Sequence[Any]) -> list[GapEvent]:
    """The event of each record; one that is no event is logged and left out."""
    events = []
    for record in records:
        try:
            events.append(decode(record.value or b""))
        except MarketError as error:
            _log.warning("%s at offset %d: %s", record.topic, record.offset, error)
    return events
