"""The page's database roles: viewing uses the reader's role, editing an alert rule the editor's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from candleflow.dashboard.process import PAGE
from candleflow.store import credentials
from candleflow.store.alerts import AlertReader
from candleflow.store.credentials import Role
from tests.dashboard.feed import live_feed
from tests.dashboard.server import page_environment
from tests.store_fixtures import Database


@pytest.fixture
def looked_at(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    """The whole page with the alerts menu open. It runs in this process, so its caches would outlive a
    test."""
    settings = database.settings_with(symbols="BTCUSDT,ETHUSDT")
    with live_feed(settings, *settings.symbols, history_seconds=300):
        pass
    for name, value in page_environment(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CANDLEFLOW_ALERT_CHANNELS", "phone=tgram://123456789:canary/1")
    st.cache_resource.clear()
    shown = AppTest.from_file(str(PAGE), default_timeout=60)
    shown.session_state["alerts"] = True
    yield shown
    st.cache_resource.clear()


def test_viewing_opens_sessions_of_the_reader_only_and_editing_a_rule_one_of_the_editor(
    looked_at: AppTest, database: Database
) -> None:
    reader, editor = (credentials.dsn(database.settings, one).user for one in (Role.READER, Role.EDITOR))
    for _ in range(2):
        looked_at.run()
        assert not looked_at.exception
        assert any("No alert so far" in one.value for one in looked_at.caption)
        assert _roles(database) == {reader}

    looked_at.text_input(key="alert-threshold").input("100000")
    _press(looked_at, "Add")
    (rule,) = _rules(database)
    assert _roles(database) == {reader, editor}

    _end_sessions(database, editor)
    looked_at.run()
    assert _roles(database) == {reader}
    looked_at.button(key=f"alert-remove-{rule}").click().run()
    assert _rules(database) == []
    assert _roles(database) == {reader, editor}


def _press(shown: AppTest, label: str) -> None:
    (button,) = [one for one in shown.button if one.label == label]
    button.click().run()
    assert not shown.exception


def _rules(database: Database) -> list[int]:
    with closing(AlertReader.from_settings(database.settings)) as alerts:
        return [one.rule_id for one in alerts.rules()]


def _roles(database: Database) -> set[str]:
    return {role for role, _ in _sessions(database)}


def _end_sessions(database: Database, role: str) -> None:
    """End the role's sessions, also the pool's idle connection, so that the next edit needs a new one."""
    with closing(psycopg2.connect(database.server.url())) as connection, connection.cursor() as cursor:
        for name, pid in _sessions(database):
            if name == role:
                cursor.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
                assert cursor.fetchone() == (True,)


def _sessions(database: Database) -> list[tuple[str, int]]:
    """Return role and process id of each session in the test's database."""
    with closing(psycopg2.connect(database.server.url())) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT usename, pid FROM pg_stat_activity"
            " WHERE datname = %s AND backend_type = 'client backend'",
            (database.name,),
        )
        return cursor.fetchall()
