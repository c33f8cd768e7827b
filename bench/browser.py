"""Whether a page that is left open grows: the browser's memory, and that of the page's server.

    python -m bench.browser                  30 minutes of one tab, a refresh each second
    python -m bench.browser --minutes 5

A PostgreSQL, a live feed of four trades a second, the page's server and a headless Chromium, each real. Each
half minute garbage is collected, and what is left is counted, a few times: the least is kept, as a refresh
under way holds what it is about to let go. In the end a straight line is laid through each row of figures,
the first third left out, while the browser compiles: its slope an hour, with bounds that hold it at 95 %.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import astuple, dataclass, fields

import psutil
from selenium import webdriver

from bench import machine
from bench.growth import slope
from bench.served import served
from tests.dashboard.browser import MISSING, Page, chromium

EVERY_SECONDS = 30
TAKES, APART_SECONDS = 4, 1.5


@dataclass(frozen=True)
class Sample:
    """What there is after garbage was collected. Memory in MB; that of processes is proportional (PSS)."""

    minutes: float
    js_heap: float
    nodes: float
    listeners: float
    renderer: float
    server: float
    updates: float


def least(page: Page, server: psutil.Process, began: float) -> Sample:
    """Of each figure the least of a few takes, the time and the updates of the first."""
    takes = [take(page, server, began)]
    while len(takes) < TAKES:
        time.sleep(APART_SECONDS)
        takes.append(take(page, server, began))
    return Sample(*map(min, zip(*map(astuple, takes), strict=True)))


def take(page: Page, server: psutil.Process, began: float) -> Sample:
    driver = page.driver
    for _ in range(2):  # the second takes what the first found to be finalised
        driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
    counters = driver.execute_cdp_cmd("Memory.getDOMCounters", {})
    page.received()  # empties the driver's log
    return Sample(
        minutes=(time.monotonic() - began) / 60,
        js_heap=driver.execute_cdp_cmd("Runtime.getHeapUsage", {})["usedSize"] / 1e6,
        nodes=counters["nodes"],
        listeners=counters["jsEventListeners"],
        renderer=_renderer_mb(driver),
        server=server.memory_full_info().pss / 1e6,
        updates=page.updates(),
    )


def _renderer_mb(driver: webdriver.Chrome) -> float:
    """Of the largest renderer: the page's own. The others hold pages of the browser's."""
    children = psutil.Process(driver.service.process.pid).children(recursive=True)
    sizes = [one.memory_full_info().pss for one in children if "--type=renderer" in one.cmdline()]
    return max(sizes) / 1e6


def report(samples: list[Sample]) -> None:
    kept = samples[len(samples) // 3 :]
    minutes = [one.minutes for one in kept]
    for field in fields(Sample)[1:-1]:
        values = [getattr(one, field.name) for one in kept]
        found, off = slope(minutes, values)
        print(
            f"{field.name:>10}: {values[0]:,.1f} at first, {values[-1]:,.1f} in the end,"
            f" {min(values):,.1f} to {max(values):,.1f}; {found:+,.2f} an hour (within {off:,.2f})"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30, help="how long (30)")
    parser.add_argument("--query", default="", help="what the page's address says, such as look_back=6+h")
    arguments = parser.parse_args()
    if MISSING:
        raise SystemExit(f"measuring a browser {MISSING}")
    with served() as found, chromium() as driver:
        page = Page(driver, found.page.url)
        page.open(arguments.query)
        page.wait_for_candles()
        page.wait_for_updates(5)
        print(machine.describe())
        began, samples = time.monotonic(), list[Sample]()
        print("  ".join(field.name.rjust(9) for field in fields(Sample)))
        while not samples or samples[-1].minutes < arguments.minutes:
            samples.append(least(page, found.page.process, began))
            print("  ".join(f"{one:9,.1f}" for one in astuple(samples[-1])), flush=True)
            due = began + len(samples) * EVERY_SECONDS
            page.wait(lambda: time.monotonic() >= due, "the next half minute", 2 * EVERY_SECONDS)  # noqa: B023
        report(samples)
        if problems := page.problems():
            print("the console has:", *problems, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
