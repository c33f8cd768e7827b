"""The page's messages when there is nothing to draw, or nothing new, and how it recovers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
import streamlit as st
from psycopg2 import sql
from selenium import webdriver
from streamlit.testing.v1 import AppTest

from candleflow.dashboard.process import PAGE
from candleflow.settings import Settings
from candleflow.stack.postgres import PostgresServer
from candleflow.store import schema
from tests.dashboard.browser import MARKS_OF_A_REFRESH, Page
from tests.dashboard.feed import Feed, live_feed, now_us
from tests.dashboard.server import page_server
from tests.store_fixtures import Database


@pytest.fixture(autouse=True)
def _nothing_cached() -> None:
    """Clear Streamlit's caches: AppTest runs the page in this process, so they would outlive a test."""
    st.cache_resource.clear()


@pytest.mark.slow
def test_while_postgresql_is_away_the_last_chart_stays_greyed_and_then_goes_on(
    driver: webdriver.Chrome, own_postgres: PostgresServer, tmp_path: Path, pictures: Path
) -> None:
    database = Database(own_postgres, "candles_away", tmp_path, "secret")
    database.make()
    settings = database.settings_with(symbols="BTCUSDT,ETHUSDT")
    schema.apply(settings)
    with page_server(settings) as server:
        with live_feed(settings, "BTCUSDT", history_seconds=300):
            page = Page(driver, server.url)
            page.open("charts=2&symbol2=BTCUSDT")
            page.wait_for_candles()
        for connection in database.opened:
            connection.close()
        drawn = page.times()
        page.script("document.querySelector('.cf-plot').dataset.mark = 'the same'")

        own_postgres.stop()
        page.wait_for_text("PostgreSQL has been away since")
        assert len(page.times()) >= len(drawn)
        grey = "return document.querySelectorAll('.cf-chart.cf-stale, .cf-strip.cf-away').length"
        page.wait(lambda: page.script(grey) == 3, "both charts and the strip greyed")
        page.save(pictures / "postgresql-away.png")

        own_postgres.start()
        own_postgres.wait_until_ready()
        page.wait(lambda: "has been away" not in page.text(), "the notice goes")
        with closing(Feed(database.settings)) as feed:
            feed.skip_ids("BTCUSDT", 1_000_000)
            feed.send("BTCUSDT", [now_us()])
        page.wait_for_text("trades missing")  # the second feed begins with other ids
        page.wait(lambda: page.script(grey) == 0, "nothing greyed any more")
        page.save(pictures / "postgresql-back.png")
        assert page.script("return document.querySelector('.cf-plot').dataset.mark") == "the same"


def test_a_simulated_market_is_marked_and_an_empty_one_fills_by_itself(
    driver: webdriver.Chrome, simulated: Settings, pictures: Path
) -> None:
    with page_server(simulated) as server:
        page = Page(driver, server.url)
        page.open()
        page.wait_for_text("Waiting for the first trade")
        assert "SIMULATED" in page.text()
        page.wait(lambda: driver.title.startswith("SIMULATED"), "the title")
        page.save(pictures / "empty-store.png")
        page.wait_for_marks(4 * MARKS_OF_A_REFRESH)
        assert page.marks() <= MARKS_OF_A_REFRESH  # entries are cleared without a chart too
        with closing(Feed(simulated)) as feed:
            feed.send("BTCUSDT", [now_us()])
        page.wait_for_candles()
        assert len(page.times()) == 1
        assert "SIMULATED" in page.text()
        assert "Waiting" not in page.text()
        page.save(pictures / "simulated.png")


@pytest.fixture
def simulated(empty_database: Database) -> Iterator[Settings]:
    """Settings of the simulator, whose database has a name of its own."""
    settings = empty_database.settings_with(exchange="simulator")
    name = sql.Identifier(settings.database.name)
    _as_superuser(
        empty_database,
        sql.SQL("CREATE DATABASE {} OWNER {}").format(name, sql.Identifier(empty_database.name)),
    )
    schema.apply(settings)
    yield settings
    _as_superuser(empty_database, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def _as_superuser(database: Database, statement: sql.Composed) -> None:
    with closing(psycopg2.connect(database.server.url())) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(statement)


def test_without_a_schema_the_page_shows_a_waiting_message(
    empty_database: Database, environment: Callable[[Settings], None]
) -> None:
    environment(empty_database.settings)
    shown = AppTest.from_file(str(PAGE), default_timeout=20).run()
    assert not shown.exception
    assert "PostgreSQL is away" in _html(shown)


def test_a_wrong_setting_is_one_sentence_on_the_page_and_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CANDLEFLOW_WINDOW_SECONDS", "7")
    shown = AppTest.from_file(str(PAGE), default_timeout=20).run()
    assert not shown.exception
    assert "CANDLEFLOW" in shown.error[0].value
    assert "must be one of" in shown.error[0].value
    assert "CANDLEFLOW_WINDOW_SECONDS='7': must be one of" in capfd.readouterr().err


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[Settings], None]:
    def put(settings: Settings) -> None:
        assert settings.postgres.password is not None
        monkeypatch.setenv("CANDLEFLOW_POSTGRES_URL", settings.postgres.url.get_secret_value())
        monkeypatch.setenv("CANDLEFLOW_POSTGRES_PASSWORD", settings.postgres.password.get_secret_value())
        monkeypatch.setenv("CANDLEFLOW_DATA_DIR", str(settings.stack.data_dir))

    return put


def _html(shown: AppTest) -> str:
    return "\n".join(str(element.proto.body) for element in shown.get("html"))
