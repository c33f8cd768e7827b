"""Measure many open pages: the time of a refresh, and its cost for the page's server and PostgreSQL.

    python -m bench.viewers                  one page, then fifty with the same view, 30 s each
    python -m bench.viewers --pages 20 --tabs 0 --seconds 10

It uses a real PostgreSQL, a live feed of five symbols with four trades a second each, and the page's server.
Each page is a WebSocket session (tests/dashboard/sessions.py) that gets a new chart and symbol list every
second. Afterwards ``--tabs`` real Chromium windows are measured.

A refresh is one of the chart; bytes and CPU time include the whole page. PostgreSQL counts the statements of
the page's role. CPU time is that of the page's server. Unlike the refresh times, it hardly depends on other
work on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import ExitStack

from bench import machine
from bench.served import Served, percentile, processor_seconds, served
from tests.dashboard.browser import MISSING, Page, chromium
from tests.dashboard.sessions import Sessions

OTHERS = ("ETHUSDT", "SOLUSDT", "XRPUSDT", "DOGEUSDT")


async def measure(served_page: Served, count: int, seconds: float, query: str) -> None:
    process = served_page.page.process
    async with Sessions(served_page.page.port, count, query) as sessions:
        await sessions.look_on(5)
        asked, used, began = served_page.statements.count(), processor_seconds(process), time.monotonic()
        await sessions.look_on(seconds)
        lasted = time.monotonic() - began
        used, asked = processor_seconds(process) - used, served_page.statements.count() - asked
        taken, refreshes = sessions.refresh_seconds, sessions.refreshes
        print(
            f"{count:>5} {refreshes / lasted:>12.1f} {percentile(taken, 0.5) * 1_000:>8.0f}"
            f" {percentile(taken, 0.95) * 1_000:>7.0f} {asked / lasted:>13.2f} {used / lasted:>10.0%}"
            f" {used / max(refreshes, 1) * 1_000:>13.1f} {sessions.received_bytes / max(refreshes, 1):>10.0f}"
            f" {process.memory_full_info().pss / 1e6:>9.0f}",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pages", type=int, default=50, help="number of pages open at once (50)")
    parser.add_argument("--seconds", type=float, default=30, help="duration of each measurement (30)")
    parser.add_argument("--tabs", type=int, default=2, help="number of real Chromium windows (2)")
    parser.add_argument("--query", default="", help="query string of the pages' URL, such as look_back=6+h")
    arguments = parser.parse_args()
    print(machine.describe())
    with served(*OTHERS) as found, ExitStack() as tabs:
        print(
            "pages  refreshes/s   p50 ms  p95 ms  statements/s  processor  ms a refresh  B/refresh  MB (PSS)"
        )
        for count in dict.fromkeys((1, arguments.pages)):
            asyncio.run(measure(found, count, arguments.seconds, arguments.query))
        if arguments.tabs and not MISSING:
            _measure_tabs(found, arguments.tabs, arguments.seconds, arguments.query, tabs)
    return 0


def _measure_tabs(found: Served, count: int, seconds: float, query: str, exits: ExitStack) -> None:
    """Measure real browser tabs, each in its own window so that the browser treats it as visible."""
    pages = [Page(exits.enter_context(chromium()), found.page.url) for _ in range(count)]
    for page in pages:
        page.open(query)
        page.wait_for_candles()
        page.wait_for_updates(3)
        page.received()
    process = found.page.process
    used = processor_seconds(process)
    asked, began = found.statements.count(), time.monotonic()
    pages[0].wait(lambda: time.monotonic() - began > seconds, "the time is up", 2 * seconds)
    lasted, used = time.monotonic() - began, processor_seconds(process) - used
    all_received = [page.received() for page in pages]
    refreshes = sum(one.refreshes for one in all_received)
    received = sum(sum(one.sizes) for one in all_received)
    print(
        f"{count} tabs of Chromium: {refreshes / lasted:.1f} refreshes/s,"
        f" {(found.statements.count() - asked) / lasted:.2f} statements/s,"
        f" {used / max(refreshes, 1) * 1_000:.1f} ms of processor time and"
        f" {received / max(refreshes, 1):.0f} B a refresh"
    )


if __name__ == "__main__":
    sys.exit(main())
