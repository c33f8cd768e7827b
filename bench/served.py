"""Serve the page from a real PostgreSQL with a live feed, for benchmarks of the page."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from candleflow.settings import Settings
from candleflow.stack.postgres import PostgresServer
from candleflow.stack.process import free_port
from candleflow.store import schema
from tests.dashboard.feed import Feed, live_feed
from tests.dashboard.server import PageServer, page_server
from tests.dashboard.statements import StatementCount
from tests.store_fixtures import Database

SYMBOL = "BTCUSDT"
"""The symbol that the pages show."""


@dataclass(frozen=True)
class Served:
    """A running page, its database settings and its live feed."""

    settings: Settings
    page: PageServer
    feed: Feed
    statements: StatementCount


@contextmanager
def served(*others: str, history_seconds: int = 2_400) -> Iterator[Served]:
    """Run everything in a temporary folder on free ports until the block ends.

    ``others`` are symbols with a feed besides SYMBOL.
    """
    with tempfile.TemporaryDirectory(prefix="candleflow-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = PostgresServer(folder / "postgres", free_port(), credentials=folder / "superuser.json")
        server.start()
        try:
            server.wait_until_ready()
            database = Database(server, "candles_bench", folder, "secret")
            database.make()
            symbols = (SYMBOL, *others)
            settings = database.settings_with(symbols=",".join(symbols))
            schema.apply(settings)
            statements = StatementCount(server, settings)
            with (
                live_feed(settings, *symbols, history_seconds=history_seconds) as feed,
                page_server(settings) as page,
            ):
                yield Served(settings, page, feed, statements)
            for connection in database.opened:
                connection.close()
        finally:
            server.stop()


def processor_seconds(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])


def percentile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else float("nan")
