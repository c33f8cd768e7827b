"""Every table and column is described, and docs/reference/database.md shows these descriptions."""

from __future__ import annotations

from pathlib import Path

import pytest

from candleflow.store import schema
from deploy import reference
from tests.store_fixtures import Database


def test_every_table_and_column_has_a_comment(database: Database) -> None:
    columns, tables = reference.read_schema(database.owner())
    assert [name for name, comment in tables if not comment] == []
    assert [f"{table}.{name}" for table, name, _, comment in columns if not comment] == []


def test_the_reference_page_is_what_the_comments_say(database: Database) -> None:
    written = (reference.FOLDER / "database.md").read_text()
    assert written == reference.database_page(*reference.read_schema(database.owner())), "run make reference"


def test_a_changed_comment_is_applied_to_an_existing_database(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    changed = tmp_path / schema.COMMENTS.name
    changed.write_text(schema.COMMENTS.read_text() + "COMMENT ON TABLE candles IS 'Changed';\n")
    monkeypatch.setattr(schema, "COMMENTS", changed)
    schema.apply(database.settings)
    _, tables = reference.read_schema(database.owner())
    assert [comment for name, comment in tables if name == "candles"] == ["Changed"]
