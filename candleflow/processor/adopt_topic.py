"""``adopt-topic``: accept a Kafka topic that was deleted and created again.

The processor refuses such a topic, because the stored offsets belong to the old one, and only an operator can
know whether it was lost on purpose. The candles stay. Trades that come again through the new topic are
recognised by their ids, so they count once.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import Final

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class by psycopg2's naming

from candleflow.broker.topics import topic_id
from candleflow.errors import LedgerError, StoreError
from candleflow.settings import Settings
from candleflow.store import credentials
from candleflow.store.credentials import Role

_LOCK_SECONDS: Final = 10.0
"""How long to wait for the topic's lock: a processor that waits for this command takes it for a moment, each
time it checks the topic."""
_HELD: Final = "CF001"


def run(settings: Settings) -> int:
    """Reset the stored offsets of the settings' topic to its beginning; return 0.

    Raises LedgerError while a processor reads the topic, and BrokerError or StoreError if Kafka or PostgreSQL
    can't be reached.
    """
    found = topic_id(settings.kafka.bootstrap, settings.topic)
    owner = credentials.dsn(settings, Role.OWNER)
    try:
        connection = owner.connect()
    except psycopg2.OperationalError as error:
        raise StoreError(f"PostgreSQL can't be reached at {settings.database}: {error}") from None
    deadline = time.monotonic() + _LOCK_SECONDS
    with closing(connection):
        while not _is_adopted(connection, settings.topic, found, may_be_held=time.monotonic() < deadline):
            time.sleep(0.1)
    print(f"the topic {settings.topic} (id {found}) is adopted: the processor reads it from its beginning")
    print("trades that were lost with the old topic are gaps: the auditor, part of `up`, has them filled")
    return 0


def _is_adopted(connection: Connection, topic: str, found: str, *, may_be_held: bool) -> bool:
    """Try once to adopt the topic; return false if a processor has its lock and ``may_be_held``."""
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT adopt_topic(%s, %s)", (topic, found))
    except psycopg2.Error as error:
        if error.pgcode == _HELD and may_be_held:
            return False
        raise LedgerError(error.diag.message_primary or str(error)) from None
    return True
