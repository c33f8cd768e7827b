"""The page with a real PostgreSQL, in a real browser. Both are shared, as they take seconds to start."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium import webdriver

from candleflow.market.window import SECOND_US
from candleflow.settings import Settings
from candleflow.stack.postgres import PostgresServer
from candleflow.stack.process import free_port
from candleflow.store import schema
from tests.dashboard.browser import MISSING, Page, chromium
from tests.dashboard.feed import Feed, live_feed, now_us
from tests.dashboard.server import PageServer, page_server
from tests.store_fixtures import Database

LIVE = "BTCUSDT"
QUIET = "ETHUSDT"
"""Followed, but without a trade until a test sends one."""
OLD, LONG_AGO = "OLDUSDT", 1_723_118_400_000_000
"""Ten minutes of trades, up to 2024-08-08 12:00:00 UTC. Followed too."""
LONG = "LONGUSDT"
"""2,100 candles, up to now."""
GAPPED = "GAPUSDT"
"""Two periods of trades, with seven trades missing between them. Followed too."""


@dataclass(frozen=True)
class Running:
    """A served page, and the feed that stores trades for it."""

    settings: Settings
    server: PageServer
    feed: Feed


@pytest.fixture(scope="session")
def browser() -> Iterator[webdriver.Chrome]:
    if MISSING:
        pytest.skip(MISSING)
    with chromium() as started:
        yield started


@pytest.fixture
def driver(browser: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """The browser, with an empty page before and after each test.

    A live page would take a third of a core from the tests that follow. The page must show no exception at
    the test's end.
    """
    browser.get("about:blank")
    try:
        yield browser
        assert Page(browser, browser.current_url).failures() == []
    finally:
        browser.get("about:blank")


@pytest.fixture(scope="session")
def running(make_database: Callable[[], Database]) -> Iterator[Running]:
    """A page with 40 minutes of BTCUSDT, and live trades."""
    settings = make_database().settings_with(symbols=f"{LIVE},{QUIET},{GAPPED},{OLD}")
    schema.apply(settings)
    with live_feed(settings, LIVE, history_seconds=2_400) as feed:
        _send_histories(feed)
        with page_server(settings) as server:
            yield Running(settings, server, feed)


def _send_histories(feed: Feed) -> None:
    now = now_us()
    feed.send(OLD, range(LONG_AGO - 600 * SECOND_US, LONG_AGO, SECOND_US))
    feed.send(LONG, range(now - 2_100 * 5 * SECOND_US, now, 5 * SECOND_US))
    feed.send(GAPPED, range(now - 60 * SECOND_US, now - 40 * SECOND_US, SECOND_US))
    feed.skip_ids(GAPPED, 7)
    feed.send(GAPPED, range(now - 20 * SECOND_US, now, SECOND_US))


@pytest.fixture
def page(driver: webdriver.Chrome, running: Running) -> Iterator[Page]:
    """The shared page. At the test's end the browser's console must have no error."""
    shown = Page(driver, running.server.url)
    shown.problems()
    yield shown
    assert shown.problems() == []


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL server that the test may stop."""
    server = PostgresServer(
        tmp_path / "postgres", free_port(), credentials=tmp_path / "superuser.json", fsync=False
    )
    server.start()
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The folder for screenshots: a temporary one, or that of CANDLEFLOW_TEST_PICTURES."""
    return Path(os.environ.get("CANDLEFLOW_TEST_PICTURES", tmp_path))
