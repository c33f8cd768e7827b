"""Deletes topics, so that no test finds another test's records, and adds partitions."""

from __future__ import annotations

from kafka.admin import KafkaAdminClient

from candleflow.stack.process import wait_for


def remove_topics(bootstrap: str) -> None:
    """Delete all of the producer's topics, and return once they are gone."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        ours = [name for name in admin.list_topics() if name.startswith("trades")]
        if ours:
            admin.delete_topics(ours)
        assert wait_for(lambda: not set(ours) & set(admin.list_topics()), 20)
    finally:
        admin.close()


def delete_topic(bootstrap: str, topic: str) -> None:
    """Delete one topic, and return once it is gone."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.delete_topics([topic])
        assert wait_for(lambda: topic not in admin.list_topics(), 20)
    finally:
        admin.close()


def grow(bootstrap: str, topic: str, partitions: int) -> None:
    """Increase the topic's partitions to ``partitions``, and return once each has a leader."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.create_partitions({topic: partitions})
        assert wait_for(lambda: len(admin.describe_topics([topic])[0]["partitions"]) == partitions, 20)
    finally:
        admin.close()
