"""The single-writer lease: only the member of a Kafka consumer group may publish trades.

The producer reads the topic of gaps as the only member of the group. A process that finds another member does
not start, and one that has lost its membership to another process stops.

Each shard of the symbols has its own group, and all groups read the same topic. The group's name contains the
shard. So a producer can find in Kafka's list of groups whether producers with another number of shards run,
which would publish some of the same symbols.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition, errors
from kafka.admin import KafkaAdminClient

from candleflow.backoff import Backoff
from candleflow.broker.gap_log import ReadPosition, StuckError, events_in, poll
from candleflow.broker.security import python_options
from candleflow.broker.topics import ATTEMPT_MS, admin_client, id_of, words
from candleflow.errors import HeldError
from candleflow.market.gap import GapEvent
from candleflow.market.shard import ALL, Shard

_log = logging.getLogger(__name__)

SESSION_MS: Final = 6_000
"""How long Kafka takes to notice that a producer is gone. It is the minimum that a broker allows by default
(``group.min.session.timeout.ms``)."""
_HEARTBEAT_MS: Final = 1_500
_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 2.0
_UNASSIGNED_SECONDS: Final = 4.0
_CHECK_SECONDS: Final = 3.0
_NO_SUCH_GROUP: Final = "Dead"
_FORMED: Final = "Stable"


class Lease:
    """Holds the lease and reads the topic of gaps, on its own thread.

    ``holder`` is the name of this process that others see, and ``shard`` the part of the symbols that the
    lease covers. The thread calls both callbacks, with the events of every shard: ``on_all`` with all events
    once the lease is held, and ``on_more`` with later ones. ``on_all`` is called again only if the topic was
    recreated. After any other interruption, reading resumes where it stopped.
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
        self._position = ReadPosition()
        self._backoff = Backoff(_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        self.failure: BaseException | None = None
        """The error that ended the thread: HeldError if another process has taken over the lease."""
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    @property
    def is_held(self) -> bool:
        """Whether this process holds the lease and may publish."""
        return self._holds.is_set()

    def acquire(self, within_seconds: float, gives_up: Callable[[], bool]) -> None:
        """Acquire the lease and read the topic of gaps; blocks.

        Returns early if ``gives_up()``. Waits without limit while Kafka is down. Raises HeldError, which
        names the holder, if another process still holds the lease after ``within_seconds``.
        """
        deadline = time.monotonic() + within_seconds
        while not gives_up():
            try:
                other = self._other_holder()
            except (errors.KafkaError, OSError) as error:
                _log.info(
                    "can't get the lease holder of %s from Kafka, retrying: %s", self._topic, words(error)
                )
            else:
                if other is None:
                    break
                if time.monotonic() >= deadline:
                    raise self._held_by(other)
            self._stop.wait(_PAUSE_SECONDS)
        self._thread.start()
        while not gives_up() and not self._has_read.wait(_PAUSE_SECONDS):
            if self.failure is not None:
                raise self.failure

    def close(self, within_seconds: float) -> None:
        """Release the lease, and wait at most ``within_seconds`` for the thread to end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(within_seconds)

    def _other_holder(self) -> str | None:
        with admin_client(self._bootstrap) as admin:
            return self._member_of(admin, [(self._group, self._shard), *self._overlapping(admin)])

    def _member_of(self, admin: KafkaAdminClient, groups: Iterable[tuple[str, Shard]]) -> str | None:
        """Return the name of the first member of any of these groups."""
        for group, shard in groups:
            for member in self._described(admin, group)[1]:
                return self._name_of(member, shard)
        return None

    def _overlapping(self, admin: KafkaAdminClient) -> list[tuple[str, Shard]]:
        """Return the groups of other shards that may have some of our symbols, with their shards.

        These belong to another number of shards: shards of the same number have no symbol in common.
        """
        named = (
            (str(one["group_id"]), Shard.named(one["group_id"], self._groups)) for one in admin.list_groups()
        )
        return [
            (group, shard)
            for group, shard in named
            if shard is not None and shard != self._shard and shard.overlaps(self._shard)
        ]

    def _name_of(self, member: Mapping[str, Any], shard: Shard) -> str:
        name = str(member["client_id"])
        return name if shard == self._shard == ALL else f"{name}, for shard {shard}"

    def _held_by(self, holder: str) -> HeldError:
        return HeldError(
            f"another producer publishes the same trades (lease of {self._topic}): {holder}; only one may. "
            "Stop it, or wait until it has stopped, then start this one again"
        )

    def _described(self, admin: KafkaAdminClient, group: str) -> tuple[str, list[dict[str, Any]]]:
        """Return a group's state, as Kafka names it, and its members."""
        try:
            described = admin.describe_groups([group])[group]
        except errors.GroupIdNotFoundError:
            return _NO_SUCH_GROUP, []
        # For example while the group's coordinator is starting: its empty list would not mean "no members".
        if described["error"] and described["group_state"] != _NO_SUCH_GROUP:
            raise errors.KafkaError(described["error"])
        return described["group_state"], list(described["members"])

    def _run(self) -> None:
        consumer: KafkaConsumer | None = None
        while not self._stop.is_set():
            try:
                consumer = consumer or self._joined()
                self._follow(consumer)
            except StuckError as error:
                _log.warning(
                    "the consumer of the topic %s is stuck; reading the topic with a new consumer: %s",
                    self._topic,
                    error,
                )
                self._holds.clear()
                self._was_removed.set()  # the group may have removed us, and another process hold the lease
                _close(consumer)
                consumer = None
            except (errors.KafkaError, OSError) as error:
                delay = self._backoff.next_delay()
                _log.info(
                    "the topic %s can't be read now, next attempt in %.1f s: %s",
                    self._topic,
                    delay,
                    words(error),
                )
                self._stop.wait(delay)
            except Exception as error:  # noqa: BLE001 - ``acquire`` or the producer raises it
                self.failure = error
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
        # Fetches the topic's metadata: without it, the partition is assigned only by a second join.
        consumer.partitions_for_topic(self._topic)
        consumer.subscribe([self._topic], listener=_AssignmentListener(self._holds, self._was_removed))
        return consumer

    def _follow(self, consumer: KafkaConsumer) -> None:
        """Hold the lease and read the topic until stopped."""
        partition, position = TopicPartition(self._topic, 0), self._position
        unassigned_since: float | None = None
        checked_at = time.monotonic()
        while not self._stop.is_set():
            records = poll(consumer, partition)
            if self._was_removed.is_set():
                self._refuse_others()
                self._was_removed.clear()
            if partition not in consumer.assignment():
                unassigned_since = unassigned_since or time.monotonic()
                # kafka-python 3.0.12 doesn't join again if the topic was gone only while it assigned
                is_late = time.monotonic() - unassigned_since >= _UNASSIGNED_SECONDS
                if is_late and self._refuse_others() == _FORMED:
                    raise StuckError("its group is complete, but has assigned it no partition")
                continue
            unassigned_since = None
            if self._holds.is_set() and records:
                self._take(records)
            is_due = time.monotonic() - checked_at >= _CHECK_SECONDS
            if not self._holds.is_set():
                made = self._refuse_overlapping()
                self._holds.set()  # before reading, so that a revocation during the reading clears it again
                self._read_on(consumer, partition, made)
            elif is_due and position.end(consumer, partition) != position.next_offset:
                self._read_on(consumer, partition, position.topic_id)
            if is_due:
                checked_at = time.monotonic()

    def _take(self, records: Sequence[Any]) -> None:
        """Pass on the events of a poll's records.

        If the records start before our read position, the topic may have been recreated: kafka-python then
        starts from the beginning.
        """
        if records[0].offset < self._position.next_offset:
            self._holds.clear()  # ``_follow`` then checks the topic's id and reads it again
            return
        self._on_more(events_in(records))
        self._position.next_offset = records[-1].offset + 1

    def _read_on(self, consumer: KafkaConsumer, partition: TopicPartition, topic_id: str) -> None:
        """Read the events since the last reading, even ones that no poll returned, and pass them on."""
        events, is_all = self._position.read_on(consumer, partition, topic_id)
        (self._on_all if is_all else self._on_more)(events)
        self._has_read.set()
        self._backoff.reset()

    def _refuse_others(self) -> str:
        """Raise HeldError if the group has another member; otherwise return the group's state.

        A process that the group had removed, such as one that was suspended, stops once it runs again. So
        the process that joined in the meantime gets the partition again before it would stop too.
        """
        with admin_client(self._bootstrap) as admin:
            state, members = self._described(admin, self._group)
        for member in members:
            if member["client_id"] != self._holder:
                raise self._held_by(self._name_of(member, self._shard))
        return state

    def _refuse_overlapping(self) -> str:
        """Raise HeldError if an overlapping shard has a producer; otherwise return the topic's id.

        Each process checks after it has joined its group, so of two that start at once at least one sees the
        other. If both see each other, both stop.
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


class _AssignmentListener(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Records at once that the assignment was revoked, and whether the group had removed this process."""

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
        """Do nothing: ``Lease`` polls the assignment."""
