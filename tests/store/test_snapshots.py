"""A session with an old snapshot is logged once, with the command that ends it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class by psycopg2's naming

from candleflow.store import credentials
from candleflow.store.credentials import Role
from candleflow.store.snapshots import LONG_SECONDS, SnapshotWatch
from tests.store_fixtures import Database


@pytest.fixture
def watch(database: Database) -> SnapshotWatch:
    return SnapshotWatch(credentials.dsn(database.settings, Role.WRITER))


@pytest.fixture
def holder(database: Database) -> Iterator[Connection]:
    """A session of another user in a transaction that has read something; the writer can't see its query."""
    session = psycopg2.connect(
        database.server.url(database=database.name), application_name="a dump's session"
    )
    session.set_session(isolation_level="REPEATABLE READ")
    session.cursor().execute("SELECT count(*) FROM candles")
    yield session
    session.close()


def test_a_session_with_an_old_snapshot_is_named_once_and_forgotten_when_it_ends(
    watch: SnapshotWatch, holder: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    watch.ask(1_000)
    watch.ask(1_000 + LONG_SECONDS - 1)
    assert (watch.message, caplog.records) == ("", [])
    for _ in range(2):
        watch.ask(1_000 + LONG_SECONDS)
    pid = holder.info.backend_pid
    who = f"session {pid} of postgres (a dump's session) has held a snapshot for 5 min"
    assert watch.message == f"merges get slower: {who}"
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith(who)
    assert said.endswith(f"SELECT pg_terminate_backend({pid})")
    holder.rollback()
    watch.ask(2_000)
    assert watch.message == ""


def test_writing_sessions_count_and_a_new_snapshot_restarts_the_clock(
    database: Database, watch: SnapshotWatch, holder: Connection
) -> None:
    watch.ask(0)
    holder.rollback()
    holder.set_session(isolation_level="READ COMMITTED")
    database.owner().cursor().execute("CREATE TABLE made_meanwhile ()")
    holder.cursor().execute("CREATE TABLE made_by_a_dump ()")
    watch.ask(LONG_SECONDS)
    assert watch.message == ""
    watch.ask(2 * LONG_SECONDS)
    assert "a dump's session" in watch.message
    holder.rollback()


def test_sessions_of_other_databases_hold_nothing_back(database: Database, watch: SnapshotWatch) -> None:
    elsewhere = database.superuser()
    elsewhere.autocommit = False
    elsewhere.set_session(isolation_level="REPEATABLE READ")
    elsewhere.cursor().execute("SELECT count(*) FROM pg_class")
    for now in (0, LONG_SECONDS):
        watch.ask(now)
    assert watch.message == ""


def test_prepared_transactions_and_replication_slots_are_named(watch: SnapshotWatch) -> None:
    found = [
        {"holder": "prepared transaction a of b", "xmin": "7", "remedy": "ROLLBACK PREPARED 'a'"},
        {"holder": "replication slot c", "xmin": "8", "remedy": "SELECT pg_drop_replication_slot('c')"},
    ]
    watch.note(found[:1], 0)
    watch.note(found, 60)
    watch.note(found, 60 + LONG_SECONDS)
    assert watch.message == (
        "merges get slower: prepared transaction a of b has held a snapshot for 6 min;"
        " replication slot c has held a snapshot for 5 min"
    )
