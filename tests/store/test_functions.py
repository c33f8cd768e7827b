"""SQL functions: one file each; recreated if its text changes, dropped if the file is removed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from candleflow.errors import StoreError
from candleflow.store import schema
from tests.store.processor import Processor
from tests.store.trades import FIVE_SECONDS, run_of
from tests.store_fixtures import Database


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder of functions, for the test to change."""
    folder = tmp_path / "functions"
    shutil.copytree(schema.FUNCTIONS, folder)
    monkeypatch.setattr(schema, "FUNCTIONS", folder)
    return folder


def edit(file: Path, text: str, in_its_place: str) -> None:
    before = file.read_text()
    assert before.count(text) == 1
    file.write_text(before.replace(text, in_its_place))


def stored(database: Database) -> dict[str, tuple[Any, ...]]:
    """Return each function's oid (a recreated one has another), arguments and grants, by name."""
    cursor = database.owner().cursor()
    cursor.execute(
        "SELECT proname, oid, oid::regprocedure::text, proacl::text FROM pg_proc"
        " WHERE pronamespace = 'public'::regnamespace"
    )
    return {name: tuple(row) for name, *row in cursor.fetchall()}


def test_each_function_is_in_the_file_of_its_name(database: Database) -> None:
    texts = schema.functions()
    assert stored(database).keys() == texts.keys()
    for name, text in texts.items():
        assert re.match(rf"(--.*\n)+CREATE FUNCTION {name}\(", text), name
        assert text.count("CREATE FUNCTION") == 1, name


def test_only_a_changed_function_is_recreated_and_it_keeps_its_grants(
    database: Database, files: Path
) -> None:
    before = stored(database)
    edit(files / "merge_batch.sql", "offsets, partials, counts", "the offsets, partials, counts")
    schema.apply(database.settings)
    after = stored(database)
    assert [name for name in before if after[name] != before[name]] == ["merge_batch"]
    assert after["merge_batch"][1:] == before["merge_batch"][1:]
    with pytest.raises(psycopg2.Error, match="the offsets"):
        database.writer().cursor().execute("SELECT merge_batch(NULL, '', NULL, NULL, NULL, NULL, NULL)")


def test_a_function_may_change_its_arguments_and_its_result(database: Database, files: Path) -> None:
    processor = Processor(database.writer(), FIVE_SECONDS)
    processor.merge(run_of(1, 3))
    edit(files / "stored_offsets.sql", "(topic text) RETURNS jsonb", "(topic text, more text) RETURNS json")
    for caller in ("claim_topic", "is_next_batch", "merged_offsets"):
        text = (files / f"{caller}.sql").read_text()
        (files / f"{caller}.sql").write_text(
            re.sub(r"stored_offsets\(([a-z_.]+)\)", r"stored_offsets(\1, 'more')::jsonb", text)
        )
    schema.apply(database.settings)
    assert stored(database)["stored_offsets"][1] == "stored_offsets(text,text)"
    processor.merge(run_of(4, 6))  # on a connection that has cached the old plans


def test_a_new_function_has_no_grants_and_one_without_a_file_is_dropped(
    database: Database, files: Path
) -> None:
    (files / "more.sql").write_text("CREATE FUNCTION more() RETURNS integer LANGUAGE sql AS 'SELECT 1';")
    schema.apply(database.settings)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        database.writer().cursor().execute("SELECT more()")
    (files / "more.sql").unlink()
    schema.apply(database.settings)
    assert stored(database).keys() == schema.functions().keys()


def test_a_function_that_cannot_be_created_changes_none(database: Database, files: Path) -> None:
    before = stored(database)
    edit(files / "claim_topic.sql", "one just starting", "another")
    edit(files / "merge_batch.sql", "RETURNS jsonb", "RETURNS unheard_of")
    with pytest.raises(StoreError, match="unheard_of"):
        schema.apply(database.settings)
    assert stored(database) == before
