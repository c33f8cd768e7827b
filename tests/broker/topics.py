"""Topics taken away, so that a test finds none of another's records."""

from __future__ import annotations

from kafka.admin import KafkaAdminClient

from candleflow.stack.process import wait_for


def remove_topics(bootstrap: str) -> None:
    """Delete every topic of the producer's, and return once they are gone."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        ours = [name for name in admin.list_topics() if name.startswith("trades")]
        if ours:
            admin.delete_topics(ours)
        assert wait_for(lambda: not set(ours) & set(admin.list_topics()), 20)
    finally:
        admin.close()
