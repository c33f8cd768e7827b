"""The SQL functions: a file each, created again when its text changes, dropped when it is gone."""

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
    """The folder that functions are applied from, to be changed."""
    folder = tmp_path / "functions"
    shutil.copytree(schema.FUNCTIONS, folder)
    monkeypatch.setattr(schema, "FUNCTIONS", folder)
    return folder


def edit(file: Path, text: str, in_its_place: str) -> None:
    before = file.read_text()
    assert before.count(text) == 1
    file.write_text(before.replace(text, in_its_place))


def stored(database: Database) -> dict[str, tuple[Any, ...]]:
    """By name: the function's number, which a new one has anew, its arguments, and who may call it."""
    cursor = database.owner().cursor()
    cursor.execute(
        "SELECT proname, oid, oid::regprocedure::text, proacl::text FROM pg_proc"
        " WHERE pronamespace = 'public'::regnamespace"
    )
    return {name: tuple(row) for name, *row in cursor.fetchall()}


def test_each_stands_once_in_the_file_of_its_name(database: Database) -> None:
    texts = schema.functions()
    assert stored(database).keys() == texts.keys()
    for name, text in texts.items():
        assert re.match(rf"(--.*\n)+CREATE FUNCTION {name}\(", text), name
        assert text.count("CREATE FUNCTION") == 1, name


def test_a_changed_one_alone_is_created_again_and_keeps_its_grants(database: Database, files: Path) -> None:
    before = stored(database)
    edit(files / "merge_batch.sql", "offsets, partials, counts", "the offsets, partials, counts")
    schema.apply(database.settings)
    after = stored(database)
    assert [name for name in before if after[name] != before[name]] == ["merge_batch"]
    assert after["merge_batch"][1:] == before["merge_batch"][1:]
    with pytest.raises(psycopg2.Error, match="the offsets"):
        database.writer().cursor().execute("SELECT merge_batch(NULL, '', NULL, NULL, NULL, NULL, NULL)")


def test_one_may_change_its_arguments_and_what_it_returns(database: Database, files: Path) -> None:
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
    processor.merge(run_of(4, 6))  # on the connection that has the plans of before


def test_nobody_may_call_a_new_one_and_one_without_a_file_is_dropped(database: Database, files: Path) -> None:
    (files / "more.sql").write_text("CREATE FUNCTION more() RETURNS integer LANGUAGE sql AS 'SELECT 1';")
    schema.apply(database.settings)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        database.writer().cursor().execute("SELECT more()")
    (files / "more.sql").unlink()
    schema.apply(database.settings)
    assert stored(database).keys() == schema.functions().keys()


def test_one_that_cannot_be_created_leaves_all_as_they_were(database: Database, files: Path) -> None:
    before = stored(database)
    edit(files / "claim_topic.sql", "one just starting", "another")
    edit(files / "merge_batch.sql", "RETURNS jsonb", "RETURNS unheard_of")
    with pytest.raises(StoreError, match="unheard_of"):
        schema.apply(database.settings)
    assert stored(database) == before
