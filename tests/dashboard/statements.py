"""Counts the SQL statements of the page's role in PostgreSQL's log."""

from __future__ import annotations

from contextlib import closing

import psycopg2
from psycopg2 import sql

from candleflow.settings import Settings
from candleflow.stack.postgres import PostgresServer
from candleflow.store import credentials
from candleflow.store.credentials import Role


class StatementCount:
    """A count of statements from now on, without those of connections that are open already."""

    def __init__(self, server: PostgresServer, settings: Settings) -> None:
        self._log = server.log
        self._begin = server.log.stat().st_size
        role = sql.Identifier(credentials.dsn(settings, Role.READER).user)
        with closing(psycopg2.connect(server.url())) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute(sql.SQL("ALTER ROLE {} SET log_statement = 'all'").format(role))

    def count(self) -> int:
        with self._log.open("rb") as log:
            log.seek(self._begin)
            return log.read().count(b"LOG:  statement:")
