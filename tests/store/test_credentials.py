"""Where passwords come from, where they are stored, and that no message or repr shows them."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from candleflow.errors import StoreError
from candleflow.settings import Settings, load
from candleflow.store import credentials, schema
from candleflow.store.credentials import Role
from tests.store_fixtures import Database


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("CANDLEFLOW_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def settings_in(folder: Path, **more: Any) -> Settings:
    return load(data_dir=folder, **more)


def kept_in(folder: Path) -> Any:
    return json.loads((folder / "run" / "credentials.json").read_text())


def test_the_owners_password_is_that_of_docker_compose_unless_another_is_known(tmp_path: Path) -> None:
    assert credentials.password(settings_in(tmp_path), Role.OWNER) == "candleflow"
    credentials.keep(settings_in(tmp_path), Role.OWNER, "kept")
    assert credentials.password(settings_in(tmp_path), Role.OWNER) == "kept"
    assert credentials.password(settings_in(tmp_path, postgres_password="given"), Role.OWNER) == "given"


def test_other_passwords_are_generated_once_and_stored_with_mode_600(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    reader, writer = (credentials.password(settings, role) for role in (Role.READER, Role.WRITER))
    assert kept_in(tmp_path) == {"candleflow_reader": reader, "candleflow_writer": writer}
    assert reader != writer
    assert len(reader) >= 32
    assert credentials.password(settings, Role.READER) == reader
    mode = (tmp_path / "run" / "credentials.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert (
        credentials.password(settings_in(tmp_path, postgres_reader_password="given"), Role.READER) == "given"
    )


def test_concurrent_callers_get_the_same_password(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        roles = [Role.READER, Role.WRITER] * 20
        answers = list(pool.map(lambda role: (role, credentials.password(settings, role)), roles))
    assert len(set(answers)) == 2


def test_a_file_made_before_there_was_an_auditor_gets_its_password(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    before = {
        f"candleflow_{role}": credentials.password(settings, role) for role in (Role.READER, Role.WRITER)
    }
    auditor = credentials.password(settings, Role.AUDITOR)
    assert kept_in(tmp_path) == {**before, "candleflow_auditor": auditor}
    assert credentials.password(settings, Role.AUDITOR) == auditor
    given = settings_in(tmp_path, postgres_auditor_password="given")
    assert credentials.password(given, Role.AUDITOR) == "given"


def test_passwords_of_others_in_the_file_stay(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "credentials.json").write_text('{"postgres": "theirs"}')
    credentials.password(settings_in(tmp_path), Role.READER)
    assert kept_in(tmp_path)["postgres"] == "theirs"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"candleflow_reader": 7}', "\x00"])
def test_a_broken_file_is_an_error_that_names_it_and_not_what_is_in_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "credentials.json").write_text(text + " canary")
    with pytest.raises(StoreError, match=r"credentials\.json") as caught:
        credentials.password(settings_in(tmp_path), Role.READER)
    assert "canary" not in str(caught.value)


def test_a_folder_that_cannot_be_created_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="passwords"):
        credentials.password(settings_in(tmp_path), Role.READER)


def test_no_repr_shows_a_password(tmp_path: Path) -> None:
    dsn = credentials.dsn(settings_in(tmp_path, postgres_writer_password="canary"), Role.WRITER)
    assert "canary" not in repr(dsn)
    assert "canary" not in dsn.jdbc_url()
    assert dsn.jdbc_properties()["password"] == "canary"


def test_the_address_keeps_its_parameters(tmp_path: Path) -> None:
    url = "postgresql://me@[::1]:5433/prices?sslmode=verify-full&sslrootcert=/a%20b/ca.pem&target_session_attrs=any"
    settings = settings_in(tmp_path, postgres_url=url, postgres_reader_password="p@ss/w:rd?#%")
    assert credentials.reader_url(settings) == (
        "postgresql://me_reader:p%40ss%2Fw%3Ard%3F%23%25@[::1]:5433/prices"
        "?sslmode=verify-full&sslrootcert=%2Fa%20b%2Fca.pem&target_session_attrs=any"
    )
    assert credentials.dsn(settings, Role.WRITER).jdbc_url() == "jdbc:postgresql://[::1]:5433/prices"
    properties = credentials.dsn(settings, Role.WRITER).jdbc_properties()
    assert (properties["sslmode"], properties["sslrootcert"]) == ("verify-full", "/a b/ca.pem")
    assert "target_session_attrs" not in properties


def test_each_venue_has_its_own_database_and_all_share_the_roles(tmp_path: Path) -> None:
    real, simulated = (
        credentials.dsn(settings_in(tmp_path, exchange=name), Role.READER)
        for name in ("binance", "simulator")
    )
    assert (real.database, simulated.database) == ("candleflow", "candleflow_simulated")
    assert (real.user, real.password) == (simulated.user, simulated.password)


def test_the_readers_url_connects_whatever_is_in_the_password(database: Database) -> None:
    settings = database.settings_with(postgres_reader_password="@:/?#[]% +&='\"\\é")
    schema.apply(settings)
    connection = psycopg2.connect(credentials.reader_url(settings))
    assert connection.info.user == credentials.role_name(settings, Role.READER)
    connection.close()
