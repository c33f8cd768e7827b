"""Many pages at once cause no more PostgreSQL statements than one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from candleflow.dashboard.alert_rules import AlertRules
from candleflow.stack.postgres import PostgresServer
from candleflow.store import schema
from tests.dashboard.feed import live_feed
from tests.dashboard.server import PageServer, page_server
from tests.dashboard.sessions import Sessions
from tests.dashboard.statements import StatementCount
from tests.store_fixtures import Database

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
PAGES = 12
SECONDS = 10.0
TAKES = 3
_SPARE = 1.1
"""Tolerance: a measurement may begin between the statements of one second, or include those of each 30 s."""


@pytest.fixture
def watched(
    make_database: Callable[[], Database], postgres: PostgresServer
) -> Iterator[tuple[PageServer, StatementCount]]:
    """A page with a strip of symbols, and a count of its statements."""
    settings = make_database().settings_with(symbols=",".join(SYMBOLS))
    schema.apply(settings)
    statements = StatementCount(postgres, settings)
    with live_feed(settings, *SYMBOLS, history_seconds=600) as feed, page_server(settings) as server:
        assert feed is not None
        yield server, statements


@pytest.mark.slow
def test_many_pages_ask_postgresql_no_more_often_than_one(
    watched: tuple[PageServer, StatementCount],
) -> None:
    """The smallest of several measurements counts. On a busy machine delayed refreshes query after 0.75 s
    instead of 1 s; statements caused by each page would be in every measurement.
    """
    server, statements = watched
    alone = asyncio.run(_takes(server, statements, 1))
    together = asyncio.run(_takes(server, statements, PAGES))
    print(f"statements and refreshes a second: of one page {alone}, of {PAGES} {together}")
    refreshes, all_refreshes = (max(take[1] for take in takes) for takes in (alone, together))
    assert all_refreshes > 2 * refreshes, "they did refresh, if slowly on a busy machine"
    asked, all_asked = max(take[0] for take in alone), min(take[0] for take in together)
    assert asked > 0.5
    assert all_asked <= asked * _SPARE


async def _takes(server: PageServer, statements: StatementCount, pages: int) -> list[tuple[float, float]]:
    """Return statements and refreshes per second, for each measurement."""
    async with Sessions(server.port, pages) as sessions:
        await sessions.look_on(2)
        assert {one.fragments for one in sessions.all} == {2}, "the chart and the strip are both refreshed"
        return [await _take(sessions, statements) for _ in range(TAKES)]


async def _take(sessions: Sessions, statements: StatementCount) -> tuple[float, float]:
    asked, began = statements.count(), time.monotonic()
    await sessions.look_on(SECONDS)
    lasted = time.monotonic() - began
    return round((statements.count() - asked) / lasted, 2), round(sessions.refreshes / lasted, 2)


def test_pages_that_load_at_once_query_the_alerts_once(database: Database, postgres: PostgresServer) -> None:
    statements = StatementCount(postgres, database.settings)
    alert_rules = AlertRules(database.settings)
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: alert_rules.latest(10), range(50)))
    seconds = time.monotonic() - began
    assert found == [[]] * 50
    assert 1 <= statements.count() <= 1 + seconds / 0.75
