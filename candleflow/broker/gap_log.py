"""The topic of gaps: which trades are missing, and the outcome of fetching them.

``trades.gaps`` has one partition and keeps every event of ``market/gap.py`` as JSON, keyed by symbol:

    {"event":"seen","symbol":"BTCUSDT","first_trade_id":101,"last_trade_id":104,"at":1763851200000000,
     "why":"reconnect"}

An event about several ranges of ids, such as a filled page of history, has ``"trade_ids":
"{[101,103),[104,105)}"`` instead of the two ids. An older version that knows only the two ids ignores such a
record with a warning, and fetches those trades again.

A process that misses trades writes ``seen``. The producer fetches them and writes the outcome.
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
"""Ten years: the record of an unfilled gap must not expire before the candles that it affects."""

_POLL_MS: Final = 200
_POLL_RECORDS: Final = 5_000
_WRITE_MS: Final = 10_000
_SILENCE_SECONDS: Final = 3.0
_READ_ATTEMPTS: Final = 3
_LONGEST_EVENT_BYTES: Final = 65_536


class StuckError(errors.KafkaError):  # type: ignore[misc]  # kafka-python has no types
    """A kafka-python consumer that returns no more records, although there are some.

    This happened after a restart of the broker. The consumer had its partition, but the broker got no
    heartbeat from it and removed it; from then on every poll returned at once, empty.
    """


def encode(event: GapEvent) -> bytes:
    """Return the record of one event."""
    ids: dict[str, str | int]
    if len(event.ranges) > 1:
        ids = {"trade_ids": str(TradeIds.of_ranges(event.ranges))}
    else:
        ids = {"first_trade_id": event.first_trade_id, "last_trade_id": event.last_trade_id}
    fields = {"event": event.kind, "symbol": event.symbol, **ids, "at": event.at, "why": event.why}
    return json.dumps(fields, separators=(",", ":")).encode()


def decode(record: bytes) -> GapEvent:
    """Return the event in a record. Raises MarketError if it is not a valid event."""
    try:
        event = _read(record)
    except (ValueError, KeyError, TypeError, RecursionError, MarketError) as error:
        raise MarketError(f"not a gap event ({error}): {record[:200]!r}") from error
    if not is_symbol(event.symbol):
        raise MarketError(f"not a gap event (invalid symbol): {record[:200]!r}")
    return event


def _read(record: bytes) -> GapEvent:
    if len(record) > _LONGEST_EVENT_BYTES:
        raise MarketError(f"{len(record):,} bytes, the limit is {_LONGEST_EVENT_BYTES:,}")
    fields: dict[str, Any] = json.loads(record)
    kind, symbol, at, why = GapEventKind(fields["event"]), fields["symbol"], fields["at"], fields["why"]
    ids = fields.get("trade_ids")
    numbers = [at] if ids is not None else [at, fields["first_trade_id"], fields["last_trade_id"]]
    if any(type(number) is not int for number in numbers) or not isinstance(why, str):
        raise MarketError(f"at and trade ids must be whole numbers, why must be text, not {numbers}, {why!r}")
    if ids is not None:
        return GapEvent.of(kind, symbol, TradeIds.parse(ids).ranges, at, why)
    return GapEvent(kind, symbol, numbers[1], numbers[2], at, why)


def ensure_topic(
    bootstrap: str, topic: str, replication: int, *, gives_up: Callable[[], bool] = lambda: False
) -> None:
    """Create the topic if it does not exist; waits for Kafka as ``topics.ensure_topics`` does."""
    ensure_topics(bootstrap, (topic,), PARTITIONS, replication, RETENTION_HOURS, gives_up=gives_up)


def write_all(bootstrap: str, topic: str, events: Sequence[GapEvent]) -> None:
    """Write events, and return once Kafka has acknowledged them. Raises BrokerError."""
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
        raise BrokerError(f"Kafka at {bootstrap} doesn't accept gap events: {words(error)}") from error


def read_all(bootstrap: str, topic: str) -> list[GapEvent]:
    """Return all events so far, in order. Raises BrokerError if Kafka or the topic is unavailable."""
    return GapReader(bootstrap, topic).read()[0]


class GapReader:
    """Reads the topic of gaps without a consumer group, and resumes where the last reading stopped."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._position = ReadPosition()

    def read(self) -> tuple[list[GapEvent], bool]:
        """Return events in order, and whether they are all events or only those since the last reading.

        The first reading returns all events, and so does the first one after the topic was recreated. Raises
        BrokerError if Kafka or the topic is unavailable; the next reading then starts at the same offset.
        """
        with (
            asking(self._bootstrap, self._topic),
            admin_client(self._bootstrap) as admin,
            closing(consumer_of_no_group(self._bootstrap, "candleflow-gaps")) as consumer,
        ):
            topic_id = id_of(admin, self._topic)
            partition = partitions_of(consumer, self._topic)[0]
            consumer.assign([partition])
            return self._position.read_on(consumer, partition, topic_id)


@dataclass(slots=True)
class ReadPosition:
    """The offset up to which the topic of gaps was read, and the topic's id at that time."""

    topic_id: str = ""
    next_offset: int = 0

    def read_on(
        self, consumer: KafkaConsumer, partition: TopicPartition, topic_id: str
    ) -> tuple[list[GapEvent], bool]:
        """Return the events from here to the topic's end, and False; or all events, and True.

        It returns all events if ``topic_id`` has changed, or if the topic ends before this position.
        ``consumer`` must have the partition assigned.
        """
        is_all = topic_id != self.topic_id or self.end(consumer, partition) < self.next_offset
        events, self.next_offset = _read_until_now(consumer, partition, 0 if is_all else self.next_offset)
        self.topic_id = topic_id
        return events, is_all

    def end(self, consumer: KafkaConsumer, partition: TopicPartition) -> int:
        return int(consumer.end_offsets([partition])[partition])


def _read_until_now(
    consumer: KafkaConsumer, partition: TopicPartition, since: int
) -> tuple[list[GapEvent], int]:
    """Return the events of an assigned partition from an offset on, and the offset up to which it was read.

    It relies on the records that arrive, not on the position that kafka-python 3.0.12 reports. Once, during a
    rebalance on a busy machine, that position passed records which never arrived.

    Raises StuckError if the records don't arrive in ``_READ_ATTEMPTS`` attempts; only a new consumer helps
    then.
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
    raise StuckError(f"the topic has records up to offset {end}, but the consumer doesn't receive them")


def poll(consumer: KafkaConsumer, partition: TopicPartition) -> Sequence[Any]:
    """Return the partition's next records, if any arrive within ``_POLL_MS``."""
    polled: Mapping[TopicPartition, Sequence[Any]] = consumer.poll(
        timeout_ms=_POLL_MS, max_records=_POLL_RECORDS
    )
    return polled.get(partition, ())


def events_in(records: Sequence[Any]) -> list[GapEvent]:
    """Return the event of each record. A record that is not a valid event is logged and skipped."""
    events = []
    for record in records:
        try:
            events.append(decode(record.value or b""))
        except MarketError as error:
            _log.warning("%s: skipped the record at offset %d: %s", record.topic, record.offset, error)
    return events
