"""Forecasts on the page, in a real browser, made by a real forecaster process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from candleflow.settings import Settings
from candleflow.store import schema
from candleflow.telemetry import read_heartbeat
from tests.dashboard.browser import DESKTOP, Page
from tests.dashboard.feed import live_feed
from tests.dashboard.server import page_environment, page_server
from tests.store_fixtures import Database

REFRESHES = 8
REFRESH_BYTES = 5_000
"""Bytes of a refresh without forecasts. Twice that is allowed: in few refreshes, one whole figure decides."""
START_SECONDS = 120
"""Time limit for browser, server and forecaster together, on two busy cores."""

# A forecast for each stored candle, equal to its open: exactly as good as the last price.
_PAST = """
INSERT INTO forecasts SELECT symbol, interval, open_time, open_time - interval '1 s', 'last close', 1, open,
    open - 4, open + 4, open, close, now() FROM candles WHERE interval = '5s' AND is_closed
"""
_TRACE = "return (document.querySelector('.cf-plot')?.data ?? []).find((one) => one.uid === arguments[0])?.x"
# The visible texts at the price axis: labels and ticks.
_AT_AXIS = """
const texts = document.querySelectorAll('.cf-tag, .cf-plot .ytick text');
return [...texts].filter((one) => one.checkVisibility({visibilityProperty: true})).map((one) => {
  const {top, bottom} = one.getBoundingClientRect();
  return [top, bottom, one.textContent];
});
"""
# The last price's place, as a fraction of the price panel's height, and its text.
_LAST_PRICE = """
const {data, _fullLayout: {yaxis}} = document.querySelector('.cf-plot');
const close = data[0].close.at(-2);
return [yaxis.d2p(close) / yaxis._length, close.toLocaleString('en-US', {minimumFractionDigits: 2})];
"""


@contextmanager
def forecasting(settings: Settings, log: Path) -> Iterator[None]:
    """Run the forecaster process; at the end SIGTERM must end it with status 0."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "candleflow", "forecaster"],
            cwd=log.parent, env=page_environment(settings), stdout=output, stderr=output,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            beat = read_heartbeat(settings.stack.run_dir, "forecaster")
            if beat is not None and beat.counts.get("forecasts"):
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"no forecast in {START_SECONDS} s: {beat} {log.read_text()}"
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(10)
    assert status == 0, log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.fixture
def page(driver: webdriver.Chrome, make_database: Callable[[], Database], tmp_path: Path) -> Iterator[Page]:
    database = make_database()
    settings = database.settings
    schema.apply(settings)
    with live_feed(settings, "BTCUSDT", history_seconds=1_500):
        database.owner().cursor().execute(_PAST)
        with forecasting(settings, tmp_path / "forecaster.log"), page_server(settings) as server:
            shown = Page(driver, server.url)
            shown.problems()
            yield shown
            assert shown.problems() == []
            driver.get("about:blank")


def test_the_next_close_is_forecast_after_the_last_candle_and_scored(page: Page, pictures: Path) -> None:
    page.open("look_back=5+m&candle=5+s", size=DESKTOP)
    page.wait(page.times, "candles drawn", START_SECONDS)
    assert 0 < page.wait(page.forecast_ahead, "a forecast ahead") <= 10_000
    page.wait(lambda: page.trust("forecast") == "no better than the last price", "the truth in words")
    page.save(pictures / "forecast.png")
    page.press_trust("forecast")
    page.wait_for_text("Direction: ")
    page.wait_for_text("closes within the 80 % interval")
    page.save(pictures / "forecast-record.png")

    assert page.script(_TRACE, "past-forecast") is None
    page.press("Chart")
    page.turn("forecasts")
    page.hit(Keys.ESCAPE)
    drawn = page.wait(lambda: page.script(_TRACE, "past-forecast"), "past forecasts", START_SECONDS)
    assert "forecasts=true" in page.driver.current_url
    assert len(drawn) > 50
    assert max(drawn) <= page.newest()
    page.save(pictures / "forecast-past.png")


@pytest.mark.parametrize("looks", ["", "log=true&below=RSI&below=MACD&below=Trades"], ids=["large", "small"])
def test_no_label_at_the_price_axis_covers_another(page: Page, pictures: Path, looks: str) -> None:
    """A forecast is close to the last price, and the crosshair is put on it."""
    page.open(f"look_back=5+m&candle=5+s&{looks}", size=DESKTOP)
    page.wait(page.times, "candles drawn", START_SECONDS)
    page.wait(page.forecast_ahead, "a forecast ahead")
    page.choose("Refresh", "Paused")
    page.wait_for_text("Paused at")
    price, close = page.script(_LAST_PRICE)
    for off in (0, -0.03, 0.03):
        page.point_at_chart(0.5, price + off)
        page.wait(lambda: page.is_pointed_at() and len(page.script(_AT_AXIS)) > 3, "the crosshair's label")
        texts = page.script(_AT_AXIS)
        assert {"forecast", close} <= {text for _, _, text in texts}
        assert all(below[0] >= above[1] for above, below in pairwise(sorted(texts))), sorted(texts)
    page.save(pictures / "labels.png")


@pytest.mark.slow
def test_a_refresh_with_forecasts_is_small_and_other_candles_have_none(page: Page) -> None:
    plain, with_past = (
        _bytes_a_refresh(page, query) for query in ("candle=5+s", "candle=5+s&forecasts=true")
    )
    print(f"bytes a refresh: {plain:.0f}; with past forecasts {with_past:.0f}")
    assert plain < REFRESH_BYTES
    assert with_past < 1.2 * REFRESH_BYTES, "each past forecast that is new or scored travels too"
    page.open("candle=15+s&forecasts=true")
    page.wait_for_candles()
    assert page.script(_TRACE, "forecast") is None


def _bytes_a_refresh(page: Page, query: str) -> float:
    page.open(query)
    page.wait(page.times, "candles drawn", START_SECONDS)
    page.wait_for_updates(2)
    page.received()
    page.wait_for_updates(REFRESHES, seconds=60)
    received = page.received()
    print(f"{query}: messages of {sorted(received.sizes)[-12:]} bytes and less, {len(received.sizes)} in all")
    return received.per_refresh
