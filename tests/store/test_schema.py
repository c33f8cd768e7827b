"""The schema brought up to date: once, from any number of processes, on either kind of server."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql

from candleflow.errors import StoreError
from candleflow.market.partial import encode_windows
from candleflow.settings import Settings
from candleflow.stack.process import free_port
from candleflow.store import credentials, schema
from candleflow.store.credentials import Role
from candleflow.store.mending import CandleMending
from tests.store.processor import Processor, partials_of
from tests.store.trades import BEGINS_AT, FIVE_SECONDS, run_of
from tests.store_fixtures import Database


def version_rows(database: Database) -> list[tuple[Any, ...]]:
    cursor = database.owner().cursor()
    cursor.execute("SELECT version, applied_at FROM schema_version ORDER BY version")
    return cursor.fetchall()


def catalogue_of(database: Database) -> list[tuple[Any, ...]]:
    """Row versions of everything that applying writes: tables, functions, roles, grants."""
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
    """The roles are the server's, so both come to make them; and the databases aren't there yet."""
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
    """Then so does another of the same server, where the role is known but was granted nothing."""
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


def test_an_owner_who_is_superuser_serves_as_well(empty_database: Database) -> None:
    """As in the Docker image, where the one user of POSTGRES_USER is superuser."""
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
    folder = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, folder)
    (folder / "9998_good.sql").write_text("CREATE TABLE more (n integer);")
    (folder / "9999_bad.sql").write_text("CREATE TABLE more (n integer);")
    monkeypatch.setattr(schema, "MIGRATIONS", folder)
    with pytest.raises(StoreError, match="more"):
        schema.apply(database.settings)
    assert version_rows(database) == before
    (folder / "9999_bad.sql").unlink()
    schema.apply(database.settings)
    assert [version for version, _ in version_rows(database)][-1] == 9998


def test_a_database_of_the_first_version_keeps_its_candles(
    empty_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        (tmp_path / "migrations").mkdir()
        shutil.copy(schema.versions()[0][2], tmp_path / "migrations")
        before.setattr(schema, "MIGRATIONS", tmp_path / "migrations")
        for functions in (
            "AUDITOR_FUNCTIONS", "ALERTER_FUNCTIONS", "EDITOR_FUNCTIONS", "FORECASTER_FUNCTIONS",
            "READER_FUNCTIONS",
        ):  # fmt: skip
            before.setattr(schema, functions, ("current_schema_version",))
        before.setattr(schema, "WRITER_FUNCTIONS", ("claim_topic", "merge_batch", "current_schema_version"))
        before.setattr(schema, "READABLE_TABLES", ("candles", "symbols", "record_counts", "topics"))
        before.setattr(schema, "ALERT_TABLES", ("symbols",))
        schema.apply(empty_database.settings)
        processor = Processor(empty_database.writer(), FIVE_SECONDS)
        rows = [
            one._asdict() | {"trade_ids": f"{{[{one.first_trade_id},{one.last_trade_id + 1})}}"}
            for one in partials_of(run_of(1, 12), FIVE_SECONDS)
        ]
        processor.call(
            "SELECT merge_batch(%s, 'trades', '{}', '{\"0\": 12}', %s::jsonb, '{}', %s)",
            processor.run_id,
            json.dumps(rows),
            encode_windows(FIVE_SECONDS),
        )
        processor.offsets = {"0": 12}
    schema.apply(empty_database.settings)
    with closing(CandleMending.from_settings(empty_database.settings)) as mending:
        assert [len(book.ids) for book in mending.books("BTCUSDT", BEGINS_AT, 2 * BEGINS_AT)] == [4, 5, 3]
        assert mending.repaired(["BTCUSDT"]) == 0
    processor.merge(run_of(13, 14))
    cursor = empty_database.owner().cursor()
    cursor.execute("SELECT trade_ids, held_ids(candles)::text FROM candles WHERE interval = '1d'")
    assert cursor.fetchall() == [(None, "{[1,15)}")]


def test_new_passwords_are_given_to_the_roles(database: Database) -> None:
    settings = database.settings_with(
        postgres_reader_password="a new 'one' \\ %", postgres_writer_password="ünïcode"
    )
    with pytest.raises(psycopg2.OperationalError):
        credentials.dsn(settings, Role.READER).connect()
    schema.apply(settings)
    for role in (Role.READER, Role.WRITER):
        credentials.dsn(settings, role).connect().close()


def test_a_lost_credentials_file_is_no_harm(database: Database) -> None:
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
    (tmp_path / "1-candles.sql").touch()
    with pytest.raises(StoreError, match="1-candles"):
        schema.versions()


def test_live_candles_are_updated_in_their_page(database: Database) -> None:
    """No index holds what a batch changes, or a day's candle would leave ten dead entries a second."""
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
