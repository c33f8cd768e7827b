"""A fresh database for each test on the session's PostgreSQL server, with our schema and roles."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class by psycopg2's naming

from candleflow.settings import Settings, load
from candleflow.stack.postgres import PostgresServer
from candleflow.stack.process import free_port
from candleflow.store import credentials, schema
from candleflow.store.credentials import Role


class Server(Protocol):
    """A server that can give the URL of its superuser."""

    def url(self, role: str = ..., database: str = ...) -> str: ...


@dataclass
class Database:
    """A database with its own owner, so that tests share no role and no password.

    Its connections are closed when the test ends.
    """

    server: Server
    name: str
    data_dir: Path
    owner_password: str = field(repr=False)
    opened: list[Connection] = field(default_factory=list, repr=False)
    is_dropped: bool = False

    @property
    def settings(self) -> Settings:
        return self.settings_with()

    def settings_with(self, **overrides: Any) -> Settings:
        """Return settings for this database, with ``overrides``."""
        _, _, address = self.server.url().rpartition("@")
        address, _, _ = address.partition("/")
        return load(
            **{
                "postgres_url": f"postgresql://{self.name}@{address}/{self.name}",
                "postgres_password": self.owner_password,
                "data_dir": self.data_dir,
            }
            | overrides
        )

    def owner(self) -> Connection:
        """Connect as the owner of the schema, in autocommit like the other roles."""
        return self._connect(Role.OWNER)

    def writer(self) -> Connection:
        """Connect as the processor's role."""
        return self._connect(Role.WRITER)

    def reader(self) -> Connection:
        """Connect as the page's role."""
        return self._connect(Role.READER)

    def auditor(self) -> Connection:
        """Connect as the auditor's role."""
        return self._connect(Role.AUDITOR)

    def forecaster(self) -> Connection:
        """Connect as the forecaster's role."""
        return self._connect(Role.FORECASTER)

    def alerter(self) -> Connection:
        """Connect as the alerter's role."""
        return self._connect(Role.ALERTER)

    def editor(self) -> Connection:
        """Connect as the role that edits alert rules."""
        return self._connect(Role.EDITOR)

    def superuser(self) -> Connection:
        return self._opened(psycopg2.connect(self.server.url()))

    def _connect(self, role: Role) -> Connection:
        return self._opened(credentials.dsn(self.settings, role).connect())

    def _opened(self, connection: Connection) -> Connection:
        connection.autocommit = True
        self.opened.append(connection)
        return connection

    def make(self) -> None:
        with closing(self.superuser()) as connection, connection.cursor() as cursor:
            names = {"name": sql.Identifier(self.name), "password": sql.Literal(self.owner_password)}
            for statement in (
                "CREATE ROLE {name} LOGIN CREATEROLE PASSWORD {password}",
                "CREATE DATABASE {name} OWNER {name} TEMPLATE template0 STRATEGY file_copy",
            ):
                cursor.execute(sql.SQL(statement).format(**names))

    def drop(self) -> None:
        self.is_dropped = True
        for connection in self.opened:
            connection.close()
        with closing(self.superuser()) as connection, connection.cursor() as cursor:
            cursor.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self.name))
            )
            others = [f"{self.name}_{role}" for role in Role if role is not Role.OWNER]
            for role in (*others, self.name):
                cursor.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


@pytest.fixture(scope="session")
def make_database(
    postgres: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Database]]:
    """Return a function that creates databases without a schema. All are dropped when the session ends."""
    made: list[Database] = []

    def make() -> Database:
        database = Database(
            server=postgres,
            name=f"candles_{secrets.token_hex(4)}",
            data_dir=tmp_path_factory.mktemp("database"),
            owner_password=secrets.token_urlsafe(9) + "@:/?# %é'\"\\",  # characters that a URL must escape
        )
        made.append(database)
        database.make()
        return database

    yield make
    for database in made:
        if not database.is_dropped:
            database.drop()


@pytest.fixture
def empty_database(make_database: Callable[[], Database]) -> Iterator[Database]:
    """A fresh database without our schema."""
    database = make_database()
    yield database
    database.drop()


@pytest.fixture
def database(empty_database: Database) -> Database:
    """A fresh database with the schema applied."""
    schema.apply(empty_database.settings)
    return empty_database


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL server for one test, which may stop it or damage its data."""
    passwords = tmp_path / "run" / credentials.FILE_NAME
    server = PostgresServer(tmp_path / "postgres", free_port(), credentials=passwords, fsync=False)
    server.start()
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()
