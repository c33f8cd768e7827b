"""Operations that a Kafka user may try. Each returns the name of Kafka's error, or None if it was allowed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import confluent_kafka.admin
import kafka
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from candleflow.broker.security import security_of
from candleflow.broker.topics import consumer_of_no_group

admin_module: Any = confluent_kafka.admin  # half of its names are typed, and not as what they are

Attempt: TypeAlias = Callable[[str, str], str | None]

_SECONDS: Final = 60.0


def write(bootstrap: str, topic: str) -> str | None:
    outcomes: list[KafkaError | None] = []
    producer = Producer({**_options(bootstrap), "message.timeout.ms": int(_SECONDS * 1_000)})
    producer.produce(topic, b"a record", on_delivery=lambda error, _: outcomes.append(error))
    assert producer.flush(_SECONDS) == 0
    return _name(outcomes[0])


def read(bootstrap: str, topic: str) -> str | None:
    """Read one record, with kafka-python, because librdkafka always reads in a consumer group."""
    consumer = consumer_of_no_group(bootstrap, "test")
    place = kafka.TopicPartition(topic, 0)
    consumer.assign([place])
    consumer.seek(place, 0)
    deadline = time.monotonic() + _SECONDS
    try:
        while topic not in consumer._client.cluster.unauthorized_topics:
            if consumer.poll(timeout_ms=100):
                return None
            assert time.monotonic() < deadline, "nothing came, and nothing was said"
    except kafka.errors.TopicAuthorizationFailedError:
        pass
    finally:
        consumer.close()
    return "TOPIC_AUTHORIZATION_FAILED"


def join(bootstrap: str, group: str) -> str | None:
    """Join a consumer group whose name begins with ``group``, and read the trades."""
    consumer = Consumer(
        {
            **_options(bootstrap),
            "group.id": f"{group}{uuid.uuid4().hex}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe(["trades"])
    try:
        message = consumer.poll(_SECONDS)
        assert message is not None, "nothing came, and nothing was said"
        return _name(message.error())
    finally:
        consumer.close()


def make_topic(bootstrap: str, topic: str) -> str | None:
    new = admin_module.NewTopic(topic, 1, 1)
    return _asked(bootstrap, lambda admin: admin.create_topics([new], validate_only=True))


def delete_topic(bootstrap: str, topic: str) -> str | None:
    return _asked(bootstrap, lambda admin: admin.delete_topics([topic]))


def delete_records(bootstrap: str, topic: str) -> str | None:
    return _asked(bootstrap, lambda admin: admin.delete_records([TopicPartition(topic, 0, 0)]))


def grow_topic(bootstrap: str, topic: str) -> str | None:
    nine = admin_module.NewPartitions(topic, 9)
    return _asked(bootstrap, lambda admin: admin.create_partitions([nine], validate_only=True))


def keep_for_a_second(bootstrap: str, topic: str) -> str | None:
    return _configure(bootstrap, admin_module.ConfigResource.Type.TOPIC, topic, "retention.ms", "1000")


def change_the_broker(bootstrap: str, number: str) -> str | None:
    return _configure(bootstrap, admin_module.ConfigResource.Type.BROKER, number, "log.retention.ms", "1000")


def allow_everything(bootstrap: str, user: str) -> str | None:
    all_topics = admin_module.AclBinding(
        admin_module.ResourceType.TOPIC, "*", admin_module.ResourcePatternType.LITERAL,
        f"User:{user}", "*", admin_module.AclOperation.ALL, admin_module.AclPermissionType.ALLOW,
    )  # fmt: skip
    return _asked(bootstrap, lambda admin: admin.create_acls([all_topics]))


def set_credentials(bootstrap: str, user: str) -> str | None:
    by = admin_module.ScramCredentialInfo(admin_module.ScramMechanism.SCRAM_SHA_512, 4_096)
    change = admin_module.UserScramCredentialUpsertion(user, by, b"taken over")
    return _asked(bootstrap, lambda admin: admin.alter_user_scram_credentials([change]))


def _options(bootstrap: str) -> dict[str, Any]:
    security = security_of(bootstrap)
    return {
        "bootstrap.servers": str(bootstrap),
        "security.protocol": str(security.protocol),
        "ssl.ca.pem": security.authorities,
        "sasl.mechanism": str(security.mechanism),
        "sasl.username": security.username,
        "sasl.password": security.password,
        "log_level": 0,
    }


def _configure(bootstrap: str, kind: Any, name: str, key: str, value: str) -> str | None:
    entry = admin_module.ConfigEntry(key, value, incremental_operation=admin_module.AlterConfigOpType.SET)
    resource = admin_module.ConfigResource(kind, name, incremental_configs=[entry])
    return _asked(bootstrap, lambda admin: admin.incremental_alter_configs([resource]))


def _asked(bootstrap: str, ask: Callable[[Any], Mapping[Any, Any]]) -> str | None:
    # Keep the client until the reply has come, because a request is dropped with its client.
    client = admin_module.AdminClient(_options(bootstrap))
    (future,) = ask(client).values()
    try:
        future.result(_SECONDS)
    except KafkaException as error:
        return _name(error.args[0])
    return None


def _name(error: KafkaError | None) -> str | None:
    return None if error is None else str(error.name())
