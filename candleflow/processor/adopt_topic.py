"""``adopt-topic``: accept a topic of Kafka's made anew, where the candles' offsets belong to an older one.

The processor refuses such a topic, as only its owner can know whether the loss of the old one was meant. The
candles stay. Trades that come again through the new topic meet their own ids, and count once.
"""

from __future__ import annotations

import psycopg2

from candleflow.broker.topics import topic_id
from candleflow.errors import LedgerError, StoreError
from candleflow.settings import Settings
from candleflow.store import credentials
from candleflow.store.credentials import Role


def run(settings: Settings) -> int:
    """Let the offsets of the settings' topic begin at its beginning; 0 when done.

    Raises LedgerError while a processor runs on the topic, BrokerError and StoreError where Kafka and
    PostgreSQL can't be asked.
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
    print("trades that were lost are holes in the candles: the auditor, part of `up`, has them filled")
    return 0
