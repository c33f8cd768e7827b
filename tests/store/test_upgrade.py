"""A database of 0.1 (eleven migrations) is used without changes; an older one is refused.

``schema_11.sql.gz`` has those migrations in order: ``cat store/migrations/*.sql | gzip -9n`` at the last
commit that had them.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from candleflow.errors import StoreError
from candleflow.store import schema
from tests.store.processor import Processor
from tests.store.trades import FIVE_SECONDS, run_of
from tests.store_fixtures import Database

FILLED = """
    SELECT add_alert_rule('{"kind": "price", "channels": ["phone"]}');
    SELECT decide_alerts(claim_alerts('a test'), '[{"rule_id": 1, "symbol": "BTCUSDT", "version": 0,
        "state": {}, "alert": {"window_us": 0, "sampled_us": 1, "text": "up", "brief": "up",
        "channels": ["phone"]}}]');
    INSERT INTO forecasts VALUES ('BTCUSDT', '5s', now() + '1 minute', now(), 'drift', 1, 1, 1, 1, 1);
"""


def make_as_before(database: Database, version: int = 11) -> None:
    """Create the empty tables and the functions of 0.1; ``schema.apply`` creates the roles."""
    cursor = database.owner().cursor()
    cursor.execute(
        "CREATE TABLE schema_version (version integer PRIMARY KEY, name text NOT NULL,"
        " applied_at timestamptz NOT NULL DEFAULT clock_timestamp());"
        " INSERT INTO schema_version SELECT n, 'a name' FROM generate_series(1, %s) n",
        (version,),
    )
    cursor.execute(gzip.decompress(Path(__file__).with_name("schema_11.sql.gz").read_bytes()).decode())


def rows_of(database: Database) -> dict[str, tuple[Any, list[str]]]:
    """Return each table's file on disk, which changes if the table is rewritten, and its rows."""
    cursor = database.owner().cursor()
    cursor.execute(
        "SELECT relname, relfilenode FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'schema_functions'"
    )
    found = {}
    for table, file in cursor.fetchall():
        cursor.execute(f"SELECT t::text FROM {table} t ORDER BY 1")  # noqa: S608 - names of tables
        found[table] = file, [row for (row,) in cursor.fetchall()]
    return found


def test_every_row_is_kept_and_no_table_is_touched(empty_database: Database) -> None:
    make_as_before(empty_database)
    processor = Processor(empty_database.owner(), FIVE_SECONDS)
    processor.merge(run_of(1, 12))
    empty_database.owner().cursor().execute(FILLED)
    before = rows_of(empty_database)
    assert all(rows for _, rows in before.values())
    schema.apply(empty_database.settings)
    assert rows_of(empty_database) == before
    processor.merge(run_of(13, 14))
    schema.apply(empty_database.settings)
    cursor = empty_database.reader().cursor()
    cursor.execute("SELECT held_ids(candles)::text FROM candles WHERE interval = '1d'")
    assert cursor.fetchall() == [("{[1,15)}",)]


def test_it_has_the_catalogue_of_a_fresh_database(empty_database: Database, make_database: Any) -> None:
    make_as_before(empty_database)
    schema.apply(empty_database.settings)
    fresh = make_database()
    schema.apply(fresh.settings)
    assert list(catalogue_of(empty_database)) == list(catalogue_of(fresh))
    fresh.drop()


def test_an_older_one_is_refused_and_says_what_to_do(empty_database: Database) -> None:
    make_as_before(empty_database, version=10)
    before = rows_of(empty_database)
    with pytest.raises(StoreError, match=r"version 10.*11 or later; start Candleflow 0\.1 on it once"):
        schema.apply(empty_database.settings)
    assert rows_of(empty_database) == before


CATALOGUE = """
    SELECT 'relation', c.relname, c.relkind::text, c.reloptions::text, c.relacl::text, obj_description(c.oid)
    FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'column', a.attrelid::regclass || '.' || a.attname, a.attnum::text,
        concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, l.collname,
            pg_get_expr(d.adbin, d.adrelid)),
        a.attacl::text, col_description(a.attrelid, a.attnum)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_collation l ON l.oid = a.attcollation
        LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
    WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0
    UNION ALL
    -- 0.1 widened three checks without reading the rows that are there, which PostgreSQL remembers.
    SELECT 'constraint', conrelid::regclass || '.' || conname,
        replace(pg_get_constraintdef(oid), ' NOT VALID', ''), NULL, NULL, obj_description(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid), NULL, NULL, NULL
    FROM pg_index JOIN pg_class ON pg_class.oid = indrelid WHERE relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'function', oid::regprocedure::text, pg_get_functiondef(oid), NULL, proacl::text,
        obj_description(oid)
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'type', typname, typtype::text, NULL, typacl::text, obj_description(oid)
    FROM pg_type WHERE typnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'trigger', tgname, pg_get_triggerdef(oid), NULL, NULL, NULL FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT 'database', '', NULL, NULL, datacl::text, NULL FROM pg_database WHERE datname = current_database()
    UNION ALL
    SELECT 'schema', nspname, NULL, NULL, nspacl::text, NULL FROM pg_namespace WHERE nspname = 'public'
    ORDER BY 1, 2, 3
"""


def catalogue_of(database: Database) -> Iterator[str]:
    """Return a line for each object of the schema: its definition, grants and comment."""
    cursor = database.owner().cursor()
    cursor.execute(CATALOGUE)
    for row in cursor.fetchall():
        yield " | ".join(map(str, row)).replace(database.name, "owner")
