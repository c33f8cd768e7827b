"""The topic of gaps: what became of missing trades, and the right to publish trades at all.

``trades.gaps`` has one partition and keeps every event of ``market/gap.py`` as JSON, keyed by symbol:

    {"event":"seen","symbol":"BTCUSDT","first_trade_id":101,"last_trade_id":104,"at":1763851200000000,
     "why":"reconnect"}

An event about several ranges of ids, such as what became of a page of history, has them all in place of the
two ids: ``"trade_ids":"{[101,103),[104,105)}"``. An older version that knows only the two ids ignores such a
record with a warning. To it those ids are still missing, and it fetches them again.

Whoever misses trades writes ``seen`` and thereby orders them; the producer brings them, and writes what
became of them. It reads the topic as the only member of a consumer group, and that membership is the right to
publish: who finds another member there does not begin, and who has lost it to another stops.

Each shard of the symbols has a group of its own, and all read the one topic. A group's name tells its shard.
So whoever is about to publish sees in Kafka's list of groups who has some of the same symbols as a shard of
another count, such as the only producer where there are to be two.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final

from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition, errors
from kafka.admin import KafkaAdminClient

from candleflow.backoff import Backoff
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
from candleflow.errors import BrokerError, HeldError, MarketError
from candleflow.market.gap import GapEvent, GapEventKind
from candleflow.market.shard import ALL, Shard
from candleflow.market.symbol import is_symbol
from candleflow.market.trade_ids import TradeIds

_log = logging.getLogger(__name__)

PARTITIONS: Final = 1
RETENTION_HOURS: Final = 87_600
"""Ten years: a gap that was never filled must not be forgotten before its candles are."""

SESSION_MS: Final = 6_000
"""So soon Kafka notices that a producer is gone: the least that a broker grants by default
(``group.min.session.timeout.ms``)."""
_HEARTBEAT_MS: Final = 1_500
_POLL_MS: Final = 200
_POLL_RECORDS: Final = 5_000
_WRITE_MS: Final = 10_000
_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 2.0
_UNASSIGNED_SECONDS: Final = 4.0
_CHECK_SECONDS: Final = 3.0
_READ_ATTEMPTS: Final = 3
_NO_SUCH_GROUP: Final = "Dead"
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
        self._place = _Place()

    def read(self) -> tuple[list[GapEvent], bool]:
        """Return the events since the last reading, in order, and whether they are all events instead.

        The first reading returns all of them, and so does one after the topic was made anew. Raises
        BrokerError where Kafka or the topic is away; the next reading then starts at the same place.
        """
        with (
            asking(self._bootstrap, self._topic),
            admin_client(self._bootstrap) as admin,
            closing(consumer_of_no_group(self._bootstrap, "candleflow-gaps")) as consumer,
        ):
            made = id_of(admin, self._topic)
            (partition,) = partitions_of(consumer, self._topic)
            consumer.assign([partition])
            return self._place.read_on(consumer, partition, made)


@dataclass(slots=True)
class _Place:
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
    """The events of an assigned partition from an offset on, and the offset up to which it was read.

    Read is what has come, whatever kafka-python 3.0.12 says of its position: once, while the group was being
    formed anew on a busy machine, records that lay in the topic never came. Raises StuckError where they stay
    away again and again: only another consumer helps then.
    """
    for _ in range(_READ_ATTEMPTS):
        found: list[GapEvent] = []
        next_offset = max(since, consumer.beginning_offsets([partition])[partition])
        consumer.seek(partition, next_offset)
        end = consumer.end_offsets([partition])[partition]
        came_at = time.monotonic()
        while next_offset < end and partition in consumer.assignment():
            if records := _poll(consumer, partition):
                found += _events(records)
                next_offset = records[-1].offset + 1
                came_at = time.monotonic()
            elif time.monotonic() - came_at > _CHECK_SECONDS:
                break
        else:
            return found, next_offset
    raise StuckError(f"records up to offset {end} are there, and don't come")


def _poll(consumer: KafkaConsumer, partition: TopicPartition) -> Sequence[Any]:
    """The partition's next records, if any come soon."""
    polled: Mapping[TopicPartition, Sequence[Any]] = consumer.poll(
        timeout_ms=_POLL_MS, max_records=_POLL_RECORDS
    )
    return polled.get(partition, ())


def _events(records: Sequence[Any]) -> list[GapEvent]:
    """The event of each record; one that is no event is logged and left out."""
    events = []
    for record in records:
        try:
            events.append(decode(record.value or b""))
        except MarketError as error:
            _log.warning("%s at offset %d: %s", record.topic, record.offset, error)
    return events


class GapLog:
    """Reads the topic of gaps from its beginning and follows it, in a thread of its own, as its holder.

    ``holder`` names this process to others, and ``shard`` says which symbols' trades it holds the right for.
    Both callbacks are called on the thread, with events of every shard: ``on_all`` with all there are, once
    it holds the right; ``on_more`` with those that came since. ``on_all`` is called again only after the
    topic was made anew. After any other break the thread resumes where it was.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        *,
        holder: str,
        shard: Shard = ALL,
        on_all: Callable[[list[GapEvent]], None],
        on_more: Callable[[list[GapEvent]], None],
    ) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._groups = f"candleflow-producer.{topic}"
        self._group = shard.name_of(self._groups)
        self._shard = shard
        self._holder = holder
        self._on_all = on_all
        self._on_more = on_more
        self._stop = threading.Event()
        self._holds = threading.Event()
        self._was_removed = threading.Event()
        self._has_read = threading.Event()
        self._place = _Place()
        self._backoff = Backoff(_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="gap-log", daemon=True)

    @property
    def is_held(self) -> bool:
        """Whether this process may publish now."""
        return self._holds.is_set()

    @property
    def failure(self) -> BaseException | None:
        """What ended the thread: HeldError, if another took over."""
        return self._failure

    def acquire(self, within_seconds: float, gives_up: Callable[[], bool]) -> None:
        """Become the holder and begin to read; blocks. Raises HeldError naming the one who stays it.

        Returns early when ``gives_up()``. While Kafka is away it waits, with no limit.
        """
        deadline = time.monotonic() + within_seconds
        while not gives_up():
            try:
                other = self._other_holder()
            except (errors.KafkaError, OSError) as error:
                _log.info("Kafka can't tell who publishes to %s yet: %s", self._topic, words(error))
            else:
                if other is None:
                    break
                if time.monotonic() >= deadline:
                    raise self._held_by(other)
            self._stop.wait(_PAUSE_SECONDS)
        self._thread.start()
        while not gives_up() and not self._has_read.wait(_PAUSE_SECONDS):
            if self._failure is not None:
                raise self._failure

    def close(self, within_seconds: float) -> None:
        """Give the right back."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(within_seconds)

    def _other_holder(self) -> str | None:
        with admin_client(self._bootstrap) as admin:
            return self._member_of(admin, [(self._group, self._shard), *self._overlapping(admin)])

    def _member_of(self, admin: KafkaAdminClient, groups: Iterable[tuple[str, Shard]]) -> str | None:
        """Who is the first member of any of these groups."""
        for group, shard in groups:
            for member in self._members(admin, group):
                return self._who(member, shard)
        return None

    def _overlapping(self, admin: KafkaAdminClient) -> list[tuple[str, Shard]]:
        """The groups, with their shards, of those who may have symbols of ours by another count."""
        named = (
            (str(one["group_id"]), Shard.named(one["group_id"], self._groups)) for one in admin.list_groups()
        )
        return [
            (group, shard)
            for group, shard in named
            if shard is not None and shard != self._shard and shard.overlaps(self._shard)
        ]

    def _who(self, member: Mapping[str, Any], shard: Shard) -> str:
        name = str(member["client_id"])
        return name if shard == self._shard == ALL else f"{name}, for shard {shard}"

    def _held_by(self, holder: str) -> HeldError:
        return HeldError(
            f"another producer publishes the trades that {self._topic} belongs to: {holder}; only one may. "
            "Stop it, or wait until it has ended"
        )

    def _members(self, admin: KafkaAdminClient, group: str) -> list[dict[str, Any]]:
        try:
            described = admin.describe_groups([group])[group]
        except errors.GroupIdNotFoundError:
            return []
        # As while the broker that knows the group still starts: nobody may be taken for absent then.
        if described["error"] and described["group_state"] != _NO_SUCH_GROUP:
            raise errors.KafkaError(described["error"])
        return list(described["members"])

    def _run(self) -> None:
        consumer: KafkaConsumer | None = None
        while not self._stop.is_set():
            try:
                consumer = consumer or self._joined()
                self._follow(consumer)
            except StuckError as error:
                _log.warning("the topic %s is read by another consumer: %s", self._topic, error)
                self._holds.clear()
                _close(consumer)
                consumer = None
            except (errors.KafkaError, OSError) as error:
                _log.info("the topic %s can't be read now: %s", self._topic, words(error))
                self._stop.wait(self._backoff.next_delay())
            except Exception as error:  # noqa: BLE001 - handed to whoever asks next
                self._failure = error
                break
        self._holds.clear()
        _close(consumer)

    def _joined(self) -> KafkaConsumer:
        consumer = KafkaConsumer(
            **python_options(self._bootstrap),
            client_id=self._holder,
            group_id=self._group,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=_HEARTBEAT_MS,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
            bootstrap_timeout_ms=ATTEMPT_MS,
            metrics_enabled=False,
        )
        # Once known, the topic's one partition is assigned by the first join: else by a second one.
        consumer.partitions_for_topic(self._topic)
        consumer.subscribe([self._topic], listener=_Holding(self._holds, self._was_removed))
        return consumer

    def _follow(self, consumer: KafkaConsumer) -> None:
        """Read on until stopped."""
        partition, place = TopicPartition(self._topic, 0), self._place
        unassigned_since: float | None = None
        checked_at = time.monotonic()
        while not self._stop.is_set():
            records = _poll(consumer, partition)
            if self._was_removed.is_set():
                self._refuse_others()
                self._was_removed.clear()
            if partition not in consumer.assignment():
                unassigned_since = unassigned_since or time.monotonic()
                if time.monotonic() - unassigned_since >= _UNASSIGNED_SECONDS:
                    self._refuse_others()
                continue
            unassigned_since = None
            if self._holds.is_set() and records:
                self._take(records)
            is_due = time.monotonic() - checked_at >= _CHECK_SECONDS
            if not self._holds.is_set():
                made = self._refuse_overlapping()
                self._holds.set()  # before reading: a revocation meanwhile clears it again
                self._read_on(consumer, partition, made)
            elif is_due and place.end(consumer, partition) != place.next_offset:
                self._read_on(consumer, partition, place.topic_id)
            if is_due:
                checked_at = time.monotonic()

    def _take(self, records: Sequence[Any]) -> None:
        """Pass on what a poll has brought.

        Where that begins before our place, the topic may have been made anew: the client then starts again.
        """
        if records[0].offset < self._place.next_offset:
            self._holds.clear()  # so that the topic's id is asked for, and what it has is read
            return
        self._on_more(_events(records))
        self._place.next_offset = records[-1].offset + 1

    def _read_on(self, consumer: KafkaConsumer, partition: TopicPartition, topic_id: str) -> None:
        """Read and tell what came since the last reading, whatever the polls have brought."""
        events, is_all = self._place.read_on(consumer, partition, topic_id)
        (self._on_all if is_all else self._on_more)(events)
        self._has_read.set()
        self._backoff.reset()

    def _refuse_others(self) -> None:
        """Raise HeldError where the group has another member.

        Whoever had been removed from the group, as after a long time of standing still, and is back, gives
        way at once; so whoever came in the meantime has the partition again before it would give way too.
        """
        with admin_client(self._bootstrap) as admin:
            for member in self._members(admin, self._group):
                if member["client_id"] != self._holder:
                    raise self._held_by(self._who(member, self._shard))

    def _refuse_overlapping(self) -> str:
        """Raise HeldError where a shard of another count has some of our symbols; else return the topic's id.

        Asked as a member, by everyone: of two that begin at once at least one sees the other. It may be both,
        and then neither goes on.
        """
        with admin_client(self._bootstrap) as admin:
            holder = self._member_of(admin, self._overlapping(admin))
            if holder is not None:
                raise self._held_by(holder)
            return id_of(admin, self._topic)


def _close(consumer: KafkaConsumer | None) -> None:
    if consumer is not None:
        with suppress(errors.KafkaError, OSError):
            consumer.close()


class _Holding(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Notes at once that the assignment was taken back, and whether the group had given us up."""

    def __init__(self, holds: threading.Event, was_removed: threading.Event) -> None:
        self._holds = holds
        self._was_removed = was_removed

    def on_partitions_revoked(self, revoked: Any) -> None:
        if revoked:
            self._holds.clear()

    def on_partitions_lost(self, lost: Any) -> None:
        self._holds.clear()
        self._was_removed.set()

    def on_partitions_assigned(self, assigned: Any) -> None:
        """Nothing: the thread sees it by itself."""
