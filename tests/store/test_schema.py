"""schema.apply: it upgrades once, from any number of processes, as a plain owner or a superuser."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql

from candleflow.errors import StoreError
from candleflow.settings import Settings
from candleflow.stack.process import free_port
from candleflow.store import credentials, schema
from candleflow.store.credentials import Role
from candleflow.store.roles import RIGHTS
from tests.store.processor import Processor
from tests.store.trades import FIVE_SECONDS, run_of
from tests.store_fixtures import Database


def version_rows(database: Database) -> list[tuple[Any, ...]]:
    cursor = database.owner().cursor()
    cursor.execute("SELECT version, applied_at FROM schema_version ORDER BY version")
    return cursor.fetchall()


def catalogue_of(database: Database) -> list[tuple[Any, ...]]:
    """Return the row versions (xmin) of everything that applying writes: tables, functions, roles, grants."""
    cursor = database.superuser().cursor()
    cursor.execute(
        "SELECT rolname, xmin::text FROM pg_authid WHERE rolname LIKE %s ORDER BY 1", (f"{database.name}%",)
    )
    roles = cursor.fetchall()
    cursor = database.owner().cursor()
    cursor.execute(
        "SELECT relname, xmin::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " UNION ALL SELECT proname, xmin::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        " ORDER BY 1, 2"
    )
    return roles + cursor.fetchall()


def test_applying_again_writes_nothing(database: Database) -> None:
    Processor(database.writer(), FIVE_SECONDS).merge(run_of(1, 3))
    before = version_rows(database), catalogue_of(database)
    schema.apply(database.settings)
    assert (version_rows(database), catalogue_of(database)) == before
    assert [version for version, _ in before[0]] == [number for number, _, _ in schema.versions()]


def test_many_processes_apply_at_once(empty_database: Database) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(schema.apply, [empty_database.settings] * 6))
    assert len(version_rows(empty_database)) == len(schema.versions())
    Processor(empty_database.writer(), FIVE_SECONDS).merge(run_of(1, 3))


def test_two_databases_of_one_owner_are_made_at_once(empty_database: Database) -> None:
    """Roles belong to the whole server, so both try to create them. The databases don't exist yet."""
    superuser = empty_database.superuser().cursor()
    superuser.execute(sql.SQL("ALTER ROLE {} CREATEDB").format(sql.Identifier(empty_database.name)))
    names = [f"{empty_database.name}_{n}" for n in range(3)]
    both = [_with_database(empty_database, name) for name in names]
    try:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(schema.apply, both * 2))
        for settings in both:
            with closing(credentials.dsn(settings, Role.WRITER).connect()) as connection:
                Processor(connection, FIVE_SECONDS)
    finally:
        for name in names:
            superuser.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _with_database(database: Database, name: str) -> Settings:
    url = database.settings.postgres.url.get_secret_value()
    return database.settings_with(postgres_url=url.rpartition("/")[0] + f"/{name}")


def test_a_database_made_before_there_was_an_auditor_gets_the_role(database: Database) -> None:
    """So does a second database of the same server, where the role exists but has no grants."""
    name = credentials.role_name(database.settings, Role.AUDITOR)
    superuser = psycopg2.connect(database.server.url(database=database.name))
    superuser.autocommit = True
    database.opened.append(superuser)
    drop = sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name))
    superuser.cursor().execute(sql.SQL("{}; DROP ROLE {}").format(drop, sql.Identifier(name)))
    passwords = database.settings.stack.run_dir / credentials.FILE_NAME
    kept = json.loads(passwords.read_text())
    del kept[name]
    passwords.write_text(json.dumps(kept))
    for _ in range(2):
        schema.apply(database.settings)
        database.auditor().cursor().execute("SELECT count(*) FROM candles")
        superuser.cursor().execute(drop)


def test_the_owner_may_be_a_superuser(empty_database: Database) -> None:
    """In the Docker image the user POSTGRES_USER is a superuser."""
    superuser = empty_database.superuser().cursor()
    superuser.execute(sql.SQL("ALTER ROLE {} SUPERUSER").format(sql.Identifier(empty_database.name)))
    schema.apply(empty_database.settings)
    Processor(empty_database.writer(), FIVE_SECONDS).merge(run_of(1, 3))
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        empty_database.writer().cursor().execute("SELECT * FROM candles")


def test_a_database_made_by_a_newer_version_is_refused(database: Database) -> None:
    database.owner().cursor().execute("INSERT INTO schema_version (version, name) VALUES (9999, 'later')")
    with pytest.raises(StoreError, match=r"newer Candleflow.*9999"):
        schema.apply(database.settings)


def test_a_migration_that_fails_leaves_the_version_before(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = version_rows(database)
    monkeypatch.setattr(schema, "MIGRATIONS", tmp_path)
    (tmp_path / "9998_good.sql").write_text("CREATE TABLE more (n integer);")
    (tmp_path / "9999_bad.sql").write_text("CREATE TABLE more (n integer);")
    with pytest.raises(StoreError, match="more"):
        schema.apply(database.settings)
    assert version_rows(database) == before
    (tmp_path / "9999_bad.sql").unlink()
    schema.apply(database.settings)
    assert [version for version, _ in version_rows(database)] == [schema.BASELINE, 9998]


def test_applying_again_and_merging_do_not_wait_for_each_other(database: Database) -> None:
    """The uncommitted batch holds every lock that a merge takes."""
    processor = Processor(database.writer(), FIVE_SECONDS)
    processor.cursor.connection.autocommit = False
    processor.merge(run_of(1, 3))
    begun = time.monotonic()
    schema.apply(database.settings)
    assert time.monotonic() - begun < 5
    processor.cursor.connection.commit()
    processor.merge(run_of(4, 6))


def test_a_changed_right_is_granted_at_the_next_start(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor = database.reader().cursor()
    cursor.execute("SELECT count(*) FROM alerts")
    fewer = replace(RIGHTS[Role.READER], tables=("candles",))
    monkeypatch.setattr(schema, "RIGHTS", RIGHTS | {Role.READER: fewer})
    schema.apply(database.settings)
    cursor.execute("SELECT count(*) FROM candles")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        cursor.execute("SELECT count(*) FROM alerts")


def test_new_passwords_are_given_to_the_roles(database: Database) -> None:
    settings = database.settings_with(
        postgres_reader_password="a new 'one' \\ %", postgres_writer_password="ünïcode"
    )
    with pytest.raises(psycopg2.OperationalError):
        credentials.dsn(settings, Role.READER).connect()
    schema.apply(settings)
    for role in (Role.READER, Role.WRITER):
        credentials.dsn(settings, role).connect().close()


def test_a_lost_credentials_file_is_replaced(database: Database) -> None:
    (database.settings.stack.run_dir / credentials.FILE_NAME).unlink()
    schema.apply(database.settings)
    for connection in (database.reader(), database.writer()):
        assert connection.closed == 0


def test_no_password_reaches_the_servers_log(database: Database) -> None:
    owner = database.superuser().cursor()
    owner.execute(sql.SQL("ALTER ROLE {} SET log_statement = 'all'").format(sql.Identifier(database.name)))
    schema.apply(database.settings_with(postgres_reader_password="canary-in-the-log"))
    log = Path(str(getattr(database.server, "log"))).read_text()  # noqa: B009 - only this test knows of it
    assert "ALTER ROLE" in log
    assert "canary-in-the-log" not in log


def test_without_the_owners_password_a_current_schema_is_enough(database: Database) -> None:
    schema.apply(database.settings_with(postgres_password="forgotten"))


def test_without_the_owners_password_other_functions_are_an_error(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The functions may take other arguments than this version passes."""
    changed = schema.functions() | {"merge_batch": "another text"}
    monkeypatch.setattr(schema, "functions", lambda: changed)
    with pytest.raises(StoreError, match="can't be used as"):
        schema.apply(database.settings_with(postgres_password="forgotten"))


def test_without_the_owners_password_no_schema_is_an_error(empty_database: Database) -> None:
    with pytest.raises(StoreError, match="can't be used as") as caught:
        schema.apply(empty_database.settings_with(postgres_password="forgotten"))
    assert "forgotten" not in str(caught.value)


def test_a_server_that_is_away_is_an_error_at_once(database: Database) -> None:
    url = f"postgresql://candleflow@127.0.0.1:{free_port()}/candleflow"
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:[0-9]+ can't be used"):
        schema.apply(database.settings_with(postgres_url=url))


def test_a_migration_must_be_named_as_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", tmp_path)
    for name in ("1-candles.sql", "0011_again.sql"):
        (tmp_path / name).touch()
        with pytest.raises(StoreError, match=name):
            schema.versions()
        (tmp_path / name).unlink()


def test_live_candles_are_updated_in_their_page(database: Database) -> None:
    """No index has a column that a batch changes: a day's candle would leave ten dead entries a second."""
    processor = Processor(database.writer(), FIVE_SECONDS)
    for trade_id in range(1, 5):
        processor.merge(run_of(trade_id, trade_id))
    cursor = database.owner().cursor()
    cursor.execute("SELECT pg_stat_force_next_flush()")
    processor.cursor.execute("SELECT pg_stat_force_next_flush()")
    cursor.execute(
        "SELECT n_tup_upd > 0, n_tup_upd - n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'candles'"
    )
    assert cursor.fetchone() == (True, 0)
