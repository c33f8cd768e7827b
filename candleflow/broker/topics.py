"""Creates the Kafka topics with their settings, reads a topic's id, and makes Kafka clients.

``trades`` has the exchange's trades, ``trades.rejected`` the rejected records. Both keep records for the
retention time, are never compacted, and have the producer's timestamps (CreateTime). Everything here blocks
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
from candleflow.settings import Settings

_log = logging.getLogger(__name__)

ATTEMPT_MS: Final = 2_000
"""How long one attempt to reach Kafka may take. A caller that wants to stop waits at most this long."""
REQUEST_MS: Final = 5_000
"""How long Kafka may take to answer one request."""
LOG_EVERY_SECONDS: Final = 10.0
"""How often to log that Kafka is unavailable."""

STARTING_SECONDS: Final = 15.0
"""How long to retry after "too few brokers": a cluster that has just started may lack some."""

_HOUR_MS: Final = 3_600_000
_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 1.0
"""With ``ATTEMPT_MS``, a caller that wants to stop waits 3 s at most."""


def ensure_trade_topics(
    settings: Settings, deadline: float | None = None, *, gives_up: Callable[[], bool] = lambda: False
) -> None:
    """Call ``ensure_topics`` for the topics of trades and rejected records, as the settings describe them."""
    ensure_topics(
        settings.kafka.bootstrap,
        (settings.topic, settings.rejected_topic),
        settings.kafka.partitions,
        settings.kafka.replication,
        settings.kafka.retention_hours,
        deadline,
        gives_up=gives_up,
    )


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
    """Create the topics that don't exist, and wait until each partition has a leader.

    Waits for Kafka until ``deadline`` (by ``time.monotonic``; None: for ever) or until ``gives_up()``, and
    logs a line every ten seconds. An existing topic is not changed; a warning is logged if its number of
    partitions isn't ``partitions``. Raises BrokerError if the wait ends without success, or if Kafka refuses
    to create a topic.
    """
    began_at = time.monotonic()
    logged_at: float | None = None
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
            if logged_at is None or now - logged_at >= LOG_EVERY_SECONDS:
                _log.warning("waiting for Kafka at %s: %s", bootstrap, words(error))
                logged_at = now
            time.sleep(backoff.next_delay())
        else:
            if logged_at is not None:
                _log.info("Kafka at %s is available", bootstrap)
            return


def topic_id(bootstrap: str, topic: str) -> str:
    """Return the id that Kafka gave the topic at its creation, in Kafka's text form (22 characters).

    A topic that was deleted and recreated has another id. Raises BrokerError if Kafka or the topic is
    unavailable.
    """
    with asking(bootstrap, topic), admin_client(bootstrap) as admin:
        return id_of(admin, topic)


@contextmanager
def asking(bootstrap: str, topic: str) -> Iterator[None]:
    """Turn errors of kafka-python in the ``with`` block into a BrokerError that names the topic."""
    try:
        yield
    except (errors.KafkaError, OSError) as error:
        raise BrokerError(f"can't read topic {topic} from Kafka at {bootstrap}: {words(error)}") from error


def id_of(admin: KafkaAdminClient, topic: str) -> str:
    """Return the topic's id, using an open client. Raises Kafka's own error if the topic doesn't exist."""
    return id_and_partitions(admin, topic)[0]


def id_and_partitions(admin: KafkaAdminClient, topic: str) -> tuple[str, list[int]]:
    """Return the topic's id, and the numbers of its current partitions in order.

    A kafka-python consumer doesn't notice partitions that are added later.
    """
    described = _described(admin, [topic])[topic]
    if described["error_code"]:
        raise errors.for_code(described["error_code"])(topic)
    # org.apache.kafka.common.Uuid.toString: URL-safe Base64 without its padding.
    found = uuid.UUID(str(described["topic_id"]))
    numbers = sorted(int(one["partition_index"]) for one in described["partitions"])
    return urlsafe_b64encode(found.bytes).rstrip(b"=").decode(), numbers


def words(error: BaseException | type[BaseException]) -> str:
    """Return a kafka-python error in a few words on one line."""
    if isinstance(error, type):
        return error.__name__
    text = " ".join(str(error).split())
    name = type(error).__name__
    return text if name in text else f"{name}: {text}" if text else name


@contextmanager
def admin_client(bootstrap: str) -> Iterator[KafkaAdminClient]:
    """Open an admin client with short timeouts, and close it at the end.

    Raises KafkaRefusalError if a certificate or a password is wrong, otherwise Kafka's own errors.
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
    """Return a consumer without a group and with short timeouts; the caller closes it.

    ``options`` are kafka-python's. Raises as ``admin_client`` does.
    """
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
    """Return the topic's partitions in order. Raises Kafka's own error if the topic doesn't exist."""
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise errors.UnknownTopicOrPartitionError(f"topic {topic} doesn't exist")
    return [TopicPartition(topic, number) for number in sorted(numbers)]


def _make_missing(
    admin: KafkaAdminClient, names: Sequence[str], partitions: int, replication: int, retention_hours: int
) -> None:
    described = _described(admin, names)
    for name, topic in described.items():
        refusal = errors.for_code(topic["error_code"])
        if topic["error_code"] and not refusal.retriable:  # for example an invalid topic name
            raise refusal(name)
    missing = [name for name in names if _does_not_exist(described.get(name))]
    if missing:
        wanted = _topic(partitions, replication, retention_hours)
        try:
            admin.create_topics(dict.fromkeys(missing, wanted), timeout_ms=REQUEST_MS)
            _log.info("created topic %s", ", ".join(missing))
        except errors.TopicAlreadyExistsError:
            pass  # another process was quicker; waiting for leaders below proves that it exists
    admin.wait_for_topics(list(names), timeout_ms=REQUEST_MS)
    for name, topic in described.items():
        found = len(topic["partitions"])
        if name not in missing and found != partitions:
            _log.warning(
                "topic %s keeps its %d partitions; CANDLEFLOW_KAFKA_PARTITIONS=%d applies to new topics only",
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
            # Allows timestamps one day ahead. With the default of one hour, a broker whose clock has a wrong
            # time zone would refuse every record. Absurd times, such as the year 2286, are still refused.
            "message.timestamp.after.max.ms": str(24 * _HOUR_MS),
            # acks=all waits only for in-sync replicas. With three replicas, two must have a record before it
            # counts as acknowledged, so losing one broker loses no record.
            "min.insync.replicas": str(max(1, replication - 1)),
        },
    }


def _described(admin: KafkaAdminClient, names: Sequence[str]) -> Mapping[str, dict[str, Any]]:
    return {topic["name"]: topic for topic in admin.describe_topics(list(names))}


def _does_not_exist(topic: Mapping[str, Any] | None) -> bool:
    return topic is None or topic["error_code"] == errors.UnknownTopicOrPartitionError.errno


def _is_refusal(error: Exception, waited_seconds: float) -> bool:
    """Return whether retrying can't help, as Kafka has refused the request."""
    if isinstance(error, errors.InvalidReplicationFactorError):
        return waited_seconds >= STARTING_SECONDS
    return isinstance(error, errors.BrokerResponseError) and not error.retriable


def _refusal_words(error: Exception, names: Sequence[str], replication: int) -> str:
    what = f"Kafka refuses to create {', '.join(names)}: {words(error)}"
    if isinstance(error, errors.InvalidReplicationFactorError):
        return f"{what}; CANDLEFLOW_KAFKA_REPLICATION={replication} needs that many brokers"
    return what
