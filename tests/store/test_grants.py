"""Each role is refused every statement that it doesn't need; the test tries them all.

The other tests use the statements that a role is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import pytest
from psycopg2.errors import InsufficientPrivilege

from candleflow.store import schema
from candleflow.store.roles import ALERT_TABLES, READABLE_TABLES, RIGHTS
from tests.store.processor import Processor
from tests.store.trades import FIVE_SECONDS, run_of
from tests.store_fixtures import Database

Refused: TypeAlias = Callable[[Callable[[Database], Any], str], None]

TABLES = (*READABLE_TABLES, *ALERT_TABLES, "topic_offsets", "schema_version", "schema_functions")
CHANGES = [
    change.format(table)
    for table in TABLES
    for change in (
        "DELETE FROM {}",
        "TRUNCATE {}",
        "DROP TABLE {}",
        "ALTER TABLE {} ADD COLUMN more text",
        "CREATE TRIGGER spy AFTER INSERT ON {} EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    )
]
NOBODYS_BUSINESS = [
    *CHANGES,
    "UPDATE candles SET close = 1",
    "UPDATE forecasts SET forecast = 1",
    "INSERT INTO forecasts (symbol) VALUES ('BTCUSDT')",
    "UPDATE topic_offsets SET next_offset = 0",
    "INSERT INTO record_counts VALUES ('trades', 'merged', 1)",
    "SELECT next_offset FROM topic_offsets",
    "SELECT * FROM candles FOR UPDATE",
    "CREATE TABLE mine (n integer)",
    "CREATE TABLE public.mine (n integer)",
    "CREATE TEMPORARY TABLE mine (n integer)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION public.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE ROLE mine",
    "CREATE DATABASE mine",
    "SELECT adopt_topic('trades', 'mine')",
    "SELECT move_offsets('trades', '{}')",
    "SELECT merge_candles('{}', '{}', '{}')",
    "SELECT hold_alerts(NULL)",
    "UPDATE alert_deliveries SET state = 'pending'",
    "SELECT count_records('trades', '{}', 1, 1)",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT * FROM pg_authid",
    "COPY candles TO PROGRAM 'true'",
    "ALTER SYSTEM SET log_statement = 'all'",
]
READERS_NOT = [
    "SELECT claim_topic('trades', 'id', 'me')",
    "SELECT merge_batch(NULL, '', NULL, NULL, NULL, NULL, NULL)",
    "SELECT close_quiet_candles(NULL, '', 0)",
    "SELECT snapshot_holders()",
    "SELECT version FROM schema_version",
    "SELECT current_schema_version()",
]
KEEPING = [
    "SELECT keep_forecasts('[]', '5s')",
    "SELECT score_forecasts('[]', '5s')",
    "SELECT drop_forecasts(0, 1)",
]
EDITS = ["SELECT add_alert_rule('{}')", "SELECT remove_alert_rule(1)"]
ALERTS = [
    "SELECT claim_alerts('me')",
    "SELECT decide_alerts(NULL, '[]')",
    "SELECT take_deliveries(NULL, 'phone', 1)",
    "SELECT drop_alerts(1)",
    "SELECT note_deliveries('phone', '{}', 'sent', '', 0)",
]
MENDS = [
    "SELECT replace_candles('X', 0, 0, '{}', '{}', '[]', '{}')",
    "SELECT load_history('{}', '{}', 'kline', 0)",
    "SELECT merged_offsets('trades')",
]
AUDITORS_NOT = [*READERS_NOT, *KEEPING, *EDITS, *ALERTS, "SELECT * FROM alert_rules"]
FORECASTERS_NOT = [
    *READERS_NOT,
    *MENDS,
    *EDITS,
    *ALERTS,
    "SELECT * FROM alert_rules",
]
ALERTERS_NOT = [*READERS_NOT, *KEEPING, *EDITS, *MENDS]
WRITERS_NOT = [f"SELECT * FROM {table}" for table in TABLES]  # noqa: S608 - names of tables


@pytest.fixture(scope="module")
def filled(make_database: Any) -> Any:
    database = make_database()
    schema.apply(database.settings)
    Processor(database.writer(), FIVE_SECONDS).merge(run_of(1, 20))
    cursor = database.owner().cursor()
    cursor.execute(
        "INSERT INTO forecasts VALUES ('BTCUSDT', '5s', now() + '1 minute', now(), 'drift', 1, 1, 1, 1, 1)"
    )
    yield database
    cursor = database.owner().cursor()
    cursor.execute("SELECT sum(trade_count) FROM candles WHERE interval = '5s'")
    assert cursor.fetchone() == (20,)
    database.drop()


@pytest.fixture(scope="module")
def refused(filled: Database) -> Refused:
    """Return a function that checks that a role's statement is refused by missing grants.

    A setting that a client can change doesn't count.

    All statements of a role use one connection, as there are 600 of them.
    """
    connection_of = cache(lambda role: role(filled))

    def refused(role: Callable[[Database], Any], statement: str) -> None:
        cursor = connection_of(role).cursor()
        cursor.execute("SET default_transaction_read_only = off")
        with pytest.raises(InsufficientPrivilege):
            cursor.execute(statement)

    return refused


@pytest.mark.parametrize("statement", NOBODYS_BUSINESS + READERS_NOT + KEEPING + EDITS + ALERTS + MENDS)
def test_the_page_may_not(refused: Refused, statement: str) -> None:
    refused(Database.reader, statement)


@pytest.mark.parametrize("statement", NOBODYS_BUSINESS + WRITERS_NOT + KEEPING + EDITS + ALERTS)
def test_the_processor_may_not(refused: Refused, statement: str) -> None:
    refused(Database.writer, statement)


@pytest.mark.parametrize("statement", NOBODYS_BUSINESS + AUDITORS_NOT)
def test_the_auditor_may_not(refused: Refused, statement: str) -> None:
    refused(Database.auditor, statement)


@pytest.mark.parametrize("statement", NOBODYS_BUSINESS + FORECASTERS_NOT)
def test_the_forecaster_may_not(refused: Refused, statement: str) -> None:
    refused(Database.forecaster, statement)


@pytest.mark.parametrize("statement", NOBODYS_BUSINESS + ALERTERS_NOT)
def test_the_alerter_may_not(refused: Refused, statement: str) -> None:
    refused(Database.alerter, statement)


@pytest.mark.parametrize("statement", NOBODYS_BUSINESS + READERS_NOT + WRITERS_NOT + KEEPING + ALERTS + MENDS)
def test_the_editor_of_rules_may_not(refused: Refused, statement: str) -> None:
    refused(Database.editor, statement)


def test_the_page_reads_what_it_shows_and_by_default_nothing_but_reads(filled: Database) -> None:
    cursor = filled.reader().cursor()
    for table in READABLE_TABLES:
        cursor.execute(f"SELECT count(*) > 0 FROM {table}")  # noqa: S608 - names of tables
        assert cursor.fetchone() == (True,)
    for setting, value in (
        ("default_transaction_read_only", "on"), ("statement_timeout", "5s"), ("timezone", "UTC"),
    ):  # fmt: skip
        cursor.execute("SELECT current_setting(%s)", (setting,))
        assert cursor.fetchone() == (value,)


def test_the_forecaster_reads_what_the_page_reads(filled: Database) -> None:
    cursor = filled.forecaster().cursor()
    for table in READABLE_TABLES:
        cursor.execute(f"SELECT count(*) > 0 FROM {table}")  # noqa: S608 - names of tables
        assert cursor.fetchone() == (True,)


def test_the_auditor_reads_what_the_page_reads(filled: Database) -> None:
    cursor = filled.auditor().cursor()
    for table in READABLE_TABLES:
        cursor.execute(f"SELECT count(*) > 0 FROM {table}")  # noqa: S608 - names of tables
        assert cursor.fetchone() == (True,)


def test_functions_with_the_owners_rights_use_only_our_schema(filled: Database) -> None:
    """A caller can't redirect them by a search path with a table of the same name."""
    cursor = filled.owner().cursor()
    cursor.execute(
        "SELECT proname, proconfig::text FROM pg_proc"
        " WHERE pronamespace = 'public'::regnamespace AND prosecdef"
    )
    functions = dict(cursor.fetchall())
    called = {function for rights in RIGHTS.values() for function in rights.functions}
    assert set(functions) == called - {"held_ids"}
    assert all("search_path=pg_catalog, public, pg_temp" in config for config in functions.values())


def test_no_other_role_may_connect_or_call(filled: Database) -> None:
    cursor = filled.owner().cursor()
    cursor.execute(
        "SELECT proname FROM pg_proc, LATERAL aclexplode(coalesce(proacl, acldefault('f', proowner))) acl"
        " WHERE pronamespace = 'public'::regnamespace AND acl.grantee = 0"
    )
    assert cursor.fetchall() == []
    cursor.execute(
        "SELECT acl.privilege_type FROM pg_database, LATERAL aclexplode(datacl) acl"
        " WHERE datname = current_database() AND acl.grantee = 0"
    )
    assert cursor.fetchall() == []
