"""The page over a real PostgreSQL, in a real browser. Both are shared, as they take seconds to start."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium import webdriver

from candleflow.settings import Settings
from candleflow.store import schema
from tests.screen.browser import MISSING, Page, chromium
from tests.screen.feed import Feed, live_feed
from tests.screen.server import PageServer, page_server
from tests.store_fixtures import Database

LIVE = "BTCUSDT"
QUIET = "ETHUSDT"
"""Followed, but no trade of it ever comes."""


@dataclass(frozen=True)
class Running:
    """A served page, and the feed that brings trades to it."""

    settings: Settings
    server: PageServer
    feed: Feed


@pytest.fixture(scope="session")
def driver() -> Iterator[webdriver.Chrome]:
    if MISSING:
        pytest.skip(MISSING)
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def running(make_database: Callable[[], Database]) -> Iterator[Running]:
    """The page over 40 minutes of BTCUSDT that goes on growing."""
    settings = make_database().settings_with(symbols=f"{LIVE},{QUIET}")
    schema.apply(settings)
    with live_feed(settings, LIVE, history_seconds=2_400) as feed, page_server(settings) as server:
        yield Running(settings, server, feed)


@pytest.fixture
def page(driver: webdriver.Chrome, running: Running) -> Iterator[Page]:
    """The shared page. At the test's end its console must have no error."""
    shown = Page(driver, running.server.url)
    shown.problems()
    yield shown
    assert shown.problems() == []


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go: a temporary folder, or the one that CANDLEFLOW_TEST_PICTURES names."""
    return Path(os.environ.get("CANDLEFLOW_TEST_PICTURES", tmp_path))
