"""Measure whether memory grows while a page stays open: in the browser and in the page's server.

    python -m bench.browser                  30 minutes of one tab, a refresh each second
    python -m bench.browser --minutes 5

It uses a real PostgreSQL, a live feed of four trades a second, the page's server and a headless Chromium.
Every half minute the benchmark collects garbage and measures what is left. It does so a few times and keeps
the lowest value, because a refresh in progress holds memory that it soon releases.

At the end it fits a straight line through each figure and prints the slope per hour with its 95 % confidence
interval. The first third is left out, because the browser still compiles code then.
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
    """Figures after garbage collection. Memory is in MB; that of processes is proportional (PSS)."""

    minutes: float
    js_heap: float
    nodes: float
    listeners: float
    renderer: float
    server: float
    updates: float


def least(page: Page, server: psutil.Process, began: float) -> Sample:
    """Take several samples and return the lowest value of each field."""
    takes = [take(page, server, began)]
    while len(takes) < TAKES:
        time.sleep(APART_SECONDS)
        takes.append(take(page, server, began))
    return Sample(*map(min, zip(*map(astuple, takes), strict=True)))


def take(page: Page, server: psutil.Process, began: float) -> Sample:
    driver = page.driver
    for _ in range(2):  # the second collection frees objects that the first one finalized
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
    """Return the memory of the largest renderer, the page's own; the others render browser pages."""
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
            f"{field.name:>10}: {values[0]:,.1f} at first, {values[-1]:,.1f} at the end,"
            f" {min(values):,.1f} to {max(values):,.1f}; {found:+,.2f} an hour (+/- {off:,.2f})"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30, help="duration of the measurement (30)")
    parser.add_argument("--query", default="", help="query string of the page's URL, such as look_back=6+h")
    arguments = parser.parse_args()
    if MISSING:
        raise SystemExit(f"this benchmark {MISSING}")
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
            print("errors in the browser's console:", *problems, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
