"""The topics' contract: that they exist, with which settings, and which topic of a name this one is.

``trades`` holds what the exchange sent, ``trades.rejected`` what was refused. Both keep records for the
retention and never compact them, and both bear the producer's own time (CreateTime). Everything here blocks
on Kafka: call it from a thread, not from an event loop.
"""

from __future__ import annotations

import logging
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition, errors
from kafka.admin import KafkaAdminClient

from candleflow.backoff import Backoff
from candleflow.broker.security import python_options, raise_if_refused
from candleflow.errors import BrokerError

_log = logging.getLogger(__name__)

ATTEMPT_MS: Final = 2_000
"""How long one attempt to reach Kafka may take; so soon a caller that wants to stop is heard."""
REQUEST_MS: Final = 5_000
"""How long Kafka may take to answer one request."""
SAY_EVERY_SECONDS: Final = 10.0
"""While Kafka is away, a line says so this often."""

STARTING_SECONDS: Final = 15.0
"""How long to wait out "too few brokers": a cluster that has just started may lack some."""

_HOUR_MS: Final = 3_600_000
_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 1.0
"""So a caller that wants to stop waits 3 s at most."""


def ensure_topics(
    bootstrap: str,
    names: Sequence[str],
    partitions: int,
    replication: int,
    retention_hours: int,
    deadline: float | None = None,
    *,
    gives_up: Callable[[], bool] = lambda: False,
) -> None:
    """Make those of the topics that do not exist, and wait until each partition has a leader.

    Waits for Kafka, with a line every ten seconds, until ``deadline`` (of ``time.monotonic``; None: for ever)
    or until ``gives_up()``. A topic that exists stays as it is; a line tells where its number of partitions
    is not ``partitions``. Raises BrokerError when the wait is over or Kafka refuses to make a topic.
    """
    began_at = time.monotonic()
    said_at: float | None = None
    backoff = Backoff(_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
    while True:
        try:
            with admin_client(bootstrap) as admin:
                _make_missing(admin, names, partitions, replication, retention_hours)
        except (errors.KafkaError, OSError) as error:
            now = time.monotonic()
            if _is_refusal(error, now - began_at):
                raise BrokerError(_refusal_words(error, names, replication)) from error
            if gives_up() or (deadline is not None and now >= deadline):
                raise BrokerError(f"Kafka at {bootstrap} can't be reached: {words(error)}") from error
            if said_at is None or now - said_at >= SAY_EVERY_SECONDS:
                _log.warning("waiting for Kafka at %s: %s", bootstrap, words(error))
                said_at = now
            time.sleep(backoff.next_delay())
        else:
            if said_at is not None:
                _log.info("Kafka at %s is there", bootstrap)
            return


def topic_id(bootstrap: str, topic: str) -> str:
    """The id that Kafka gave the topic when it was made, in Kafka's own text form (22 characters).

    A topic deleted and made anew has another. Raises BrokerError where Kafka or the topic is away.
    """
    with asking(bootstrap, topic), admin_client(bootstrap) as admin:
        return id_of(admin, topic)


@contextmanager
def asking(bootstrap: str, topic: str) -> Iterator[None]:
    """Raise BrokerError for what kafka-python raises meanwhile."""
    try:
        yield
    except (errors.KafkaError, OSError) as error:
        raise BrokerError(f"Kafka at {bootstrap} can't be asked for topic {topic}: {words(error)}") from error


def id_of(admin: KafkaAdminClient, topic: str) -> str:
    """As ``topic_id``, by a client that is there. Raises Kafka's own error where the topic is away."""
    return id_and_partitions(admin, topic)[0]


def id_and_partitions(admin: KafkaAdminClient, topic: str) -> tuple[str, list[int]]:
    """As ``id_of``, with the numbers of the partitions that the topic has now, in order.

    A consumer of kafka-python keeps those that it met first.
    """
    described = _described(admin, [topic])[topic]
    if described["error_code"]:
        raise errors.for_code(described["error_code"])(topic)
    # org.apache.kafka.common.Uuid.toString: URL-safe Base64 without its padding.
    made = uuid.UUID(str(described["topic_id"]))
    numbers = sorted(int(one["partition_index"]) for one in described["partitions"])
    return urlsafe_b64encode(made.bytes).rstrip(b"=").decode(), numbers


def words(error: BaseException | type[BaseException]) -> str:
    """An error of kafka-python's in a few words on one line."""
    if isinstance(error, type):
        return error.__name__
    text = " ".join(str(error).split())
    name = type(error).__name__
    return text if name in text else f"{name}: {text}" if text else name


@contextmanager
def admin_client(bootstrap: str) -> Iterator[KafkaAdminClient]:
    """An admin client that gives up soon, closed at the end.

    Raises KafkaRefusalError where a certificate or a password is wrong, else Kafka's own errors.
    """
    try:
        admin = KafkaAdminClient(
            **python_options(bootstrap),
            client_id="candleflow-topics",
            bootstrap_timeout_ms=ATTEMPT_MS,
            request_timeout_ms=REQUEST_MS,
        )
    except (errors.KafkaError, OSError) as error:
        raise_if_refused(bootstrap, error)
        raise
    try:
        yield admin
    finally:
        admin.close()


def consumer_of_no_group(bootstrap: str, client_id: str, **options: object) -> KafkaConsumer:
    """A consumer that commits nothing, gives up soon, and is the caller's to close; raises as
    ``admin_client``. ``options`` are kafka-python's."""
    try:
        return KafkaConsumer(
            **python_options(bootstrap),
            client_id=client_id,
            enable_auto_commit=False,
            bootstrap_timeout_ms=ATTEMPT_MS,
            request_timeout_ms=REQUEST_MS,
            **options,
        )
    except (errors.KafkaError, OSError) as error:
        raise_if_refused(bootstrap, error)
        raise


def partitions_of(consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
    """The topic's, in order. Raises Kafka's own error where it isn't there."""
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise errors.UnknownTopicOrPartitionError(f"topic {topic} isn't there")
    return [TopicPartition(topic, number) for number in sorted(numbers)]


def _make_missing(
    admin: KafkaAdminClient, names: Sequence[str], partitions: int, replication: int, retention_hours: int
) -> None:
    described = _described(admin, names)
    for name, topic in described.items():
        refusal = errors.for_code(topic["error_code"])
        if topic["error_code"] and not refusal.retriable:  # such as a name that no topic may have
            raise refusal(name)
    missing = [name for name in names if _does_not_exist(described.get(name))]
    if missing:
        wanted = _topic(partitions, replication, retention_hours)
        try:
            admin.create_topics(dict.fromkeys(missing, wanted), timeout_ms=REQUEST_MS)
            _log.info("made topic %s", ", ".join(missing))
        except errors.TopicAlreadyExistsError:
            pass  # another process was quicker; waiting for leaders below proves that it is there
    admin.wait_for_topics(list(names), timeout_ms=REQUEST_MS)
    for name, topic in described.items():
        found = len(topic["partitions"])
        if name not in missing and found != partitions:
            _log.warning(
                "topic %s has %d partitions and keeps them; CANDLEFLOW_KAFKA_PARTITIONS=%d is for new topics",
                name,
                found,
                partitions,
            )


def _topic(partitions: int, replication: int, retention_hours: int) -> dict[str, Any]:
    return {
        "num_partitions": partitions,
        "replication_factor": replication,
        "configs": {
            "cleanup.policy": "delete",
            "retention.ms": str(retention_hours * _HOUR_MS),
            "message.timestamp.type": "CreateTime",
            # By default, an hour, a broker whose clock has a wrong time zone would refuse every record. The
            # year 2286 is refused still.
            "message.timestamp.after.max.ms": str(24 * _HOUR_MS),
            # acks=all waits for the copies in sync only: from three copies on, two must have a record
            # before it counts as acknowledged, so that the loss of one server loses none.
            "min.insync.replicas": str(max(1, replication - 1)),
        },
    }


def _described(admin: KafkaAdminClient, names: Sequence[str]) -> Mapping[str, dict[str, Any]]:
    return {topic["name"]: topic for topic in admin.describe_topics(list(names))}


def _does_not_exist(topic: Mapping[str, Any] | None) -> bool:
    return topic is None or topic["error_code"] == errors.UnknownTopicOrPartitionError.errno


def _is_refusal(error: Exception, waited_seconds: float) -> bool:
    """Whether waiting can't help: Kafka answered, and the answer is no."""
    if isinstance(error, errors.InvalidReplicationFactorError):
        return waited_seconds >= STARTING_SECONDS
    return isinstance(error, errors.BrokerResponseError) and not error.retriable


def _refusal_words(error: Exception, names: Sequence[str], replication: int) -> str:
    what = f"Kafka refuses to make {', '.join(names)}: {words(error)}"
    if isinstance(error, errors.InvalidReplicationFactorError):
        return f"{what}; CANDLEFLOW_KAFKA_REPLICATION={replication} needs that many brokers"
    return what
