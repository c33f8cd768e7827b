"""``adopt-topic``: accept a Kafka topic that was deleted and created again.

The processor refuses such a topic, because the stored offsets belong to the old one, and only an operator can
know whether it was lost on purpose. The candles stay. Trades that come again through the new topic are
recognised by their ids, so they count once.
"""

from __future__ import annotations

import psycopg2

from candleflow.broker.topics import topic_id
from candleflow.errors import LedgerError, StoreError
from candleflow.settings import Settings
from candleflow.store import credentials
from candleflow.store.credentials import Role


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
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT adopt_topic(%s, %s)", (settings.topic, found))
    except psycopg2.Error as error:
        raise LedgerError(error.diag.message_primary or str(error)) from None
    finally:
        connection.close()
    print(f"the topic {settings.topic} (id {found}) is adopted: the processor reads it from its beginning")
    print("trades that were lost with the old topic are gaps: the auditor, part of `up`, has them filled")
    return 0
