"""Faults while a viewer has the page open: a wrong clock, a quiet market, a lost connection, new settings.

Each fault happens to the real parts, and the page recovers without a reload.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from candleflow.market.window import SECOND_US
from tests.dashboard.browser import Page
from tests.dashboard.closely import look_closely
from tests.dashboard.conftest import LIVE, Running
from tests.dashboard.feed import now_us
from tests.dashboard.server import page_server
from tests.faults.proxy import Proxy

HOUR_US = 3_600 * SECOND_US
_CLOCK_AHEAD = """
{
  const Real = Date;
  const ahead = %d;
  window.Date = class extends Real {
    constructor(...given) { given.length ? super(...given) : super(Real.now() + ahead); }
    static now() { return Real.now() + ahead; }
  };
}
"""
_STREAMLITS_DIALOG = "return document.querySelector('[data-testid=stDialog], .stDialog') !== null"


@pytest.fixture
def ahead(page: Page, request: pytest.FixtureRequest) -> Iterator[None]:
    """Set the browser's clock ahead by the parameter, in days."""
    source = _CLOCK_AHEAD % (request.param * 86_400_000)
    made = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    yield
    page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", made)


@pytest.mark.parametrize("ahead", [400, -400], indirect=True)
@pytest.mark.usefixtures("ahead")
def test_a_wrong_clock_in_the_browser_changes_nothing(page: Page, pictures: Path) -> None:
    page.open()
    page.wait_for_candles()
    days_off = page.script("return Date.now()") / 86_400_000 - now_us() / 86_400_000_000
    assert abs(days_off) == pytest.approx(400, abs=1)
    newest = page.newest()
    page.wait(lambda: page.newest() > newest, "the chart goes on")
    begin, end = page.ranges()[0]
    assert begin < newest < end
    age = page.script("return document.querySelector('[data-name=age] .cf-value').innerText")
    assert age in ("now", "1 second ago", "2 seconds ago")
    page.save(pictures / "wrong-clock.png")


def test_after_an_hour_without_a_trade_there_is_a_notice_and_the_next_trade_is_drawn(
    page: Page, running: Running, pictures: Path
) -> None:
    ended = now_us() - HOUR_US
    running.feed.send("STILLUSDT", range(ended - HOUR_US, ended, 5 * SECOND_US))
    page.open()
    page.wait_for_candles()
    page.wait(lambda: "STILLUSDT" in page.symbols(), "the symbol is offered")
    page.open("symbol=STILLUSDT")
    page.wait_for_text("The last trade was 1 hour ago, at ")
    page.wait_for_text("The chart shows the 30 minutes before it.")
    assert page.wait_for_candles() >= 360
    page.save(pictures / "an-hour-without-a-trade.png")
    running.feed.send("STILLUSDT", [now_us()])
    page.wait(lambda: "The last trade was" not in page.text(), "the sentence goes")
    page.wait(lambda: page.newest() * 1_000 > ended + HOUR_US - 10 * SECOND_US, "the new candle")


@pytest.mark.slow
def test_a_lost_connection_leaves_zoom_hidden_lines_and_crosshair(
    page: Page, running: Running, pictures: Path
) -> None:
    with Proxy(running.server.port) as link:
        through = Page(page.driver, f"http://127.0.0.1:{link.port}")
        left = look_closely(through)
        link.refuse()
        link.reset()
        through.wait(through.is_cut_off, "the page says that it is cut off")
        drawn = through.updates()
        through.wait(lambda: through.script(_STREAMLITS_DIALOG), "Streamlit's own dialog, unseen")
        assert "Connection error" not in through.text()
        through.save(pictures / "connection-lost.png")
        left.assert_as_it_was()
        link.heal()
        through.wait(lambda: through.updates() >= drawn + 3, "the page goes on")
        left.assert_as_it_was()
        assert not through.is_cut_off()
        through.hit(Keys.END)
        newest = through.newest()
        through.wait(lambda: through.newest() > newest, "new candles")
        _leave(through)


def test_a_replaced_chart_element_gets_the_chart_that_was_there(page: Page) -> None:
    """Streamlit replaces the element after one in five lost connections, when two of its runs overlap."""
    left = look_closely(page)
    page.script(
        "const chart = document.querySelector('.cf-chart');"
        "chart.replaceWith(Object.assign(document.createElement('div'), {className: 'cf-chart'}));"
    )
    page.wait(lambda: page.script("return document.querySelector('.cf-plot') !== null"), "the chart is back")
    page.wait_for_updates(2)
    left.assert_as_it_was()


def _leave(page: Page) -> None:
    page.driver.get("about:blank")
    page.problems()  # drop the errors of refused requests


@pytest.mark.slow
def test_a_restart_with_other_symbols_leaves_the_chart_and_its_old_link(
    page: Page, running: Running, pictures: Path
) -> None:
    """A link to a symbol works while its candles are stored, even if it is no longer followed."""
    gone = "GONEUSDT"
    end = now_us()
    running.feed.send(gone, range(end - 600 * SECOND_US, end, 5 * SECOND_US))
    both = running.settings.model_copy(update={"symbols": (LIVE, gone)})
    with page_server(both) as server:
        shown = Page(page.driver, server.url)
        shown.open(f"symbol={gone}")
        shown.wait_for_candles()
        shown.drag_over_chart((0.35, 0.25), (0.6, 0.75))
        shown.wait(lambda: shown.mode() == "free", "the chart is zoomed")
        shown.wait_for_updates(1)
        zoomed = shown.ranges()
        shown.mark_chart()
    shown.wait(shown.is_cut_off, "the page says that it is cut off")
    drawn = shown.updates()
    with page_server(running.settings.model_copy(update={"symbols": (LIVE,)}), port=server.port):
        shown.wait(lambda: shown.updates() >= drawn + 3, "the page goes on")
        assert shown.script("return document.querySelector('.cf-symbol').innerText") == gone
        assert shown.ranges() == zoomed
        assert shown.is_same_chart()
        shown.save(pictures / "restarted-with-other-symbols.png")
        shown.open(f"symbol={gone}")
        shown.wait_for_candles()
        assert gone in shown.symbols()
        shown.open("symbol=NEVERUSDT")
        shown.wait_for_text("NEVERUSDT is not followed")
        _leave(shown)
