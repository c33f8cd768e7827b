"""The page's controls in a real browser."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.dashboard.browser import DESKTOP, Page
from tests.dashboard.conftest import QUIET, Running
from tests.dashboard.feed import now_us

WHOLE_VIEW = (
    "symbol=LONGUSDT&candle=15+s&look_back=1+h&refresh=5+s&prices=Bars&log=true&times=Local"
    "&overlays=SMA&overlays=EMA&overlays=VWAP&sma=7&ema=9&below=Taker+buys&below=Trades"
)
WHOLE_LINES = {
    "SMA": "SMA 7", "EMA": "EMA 9", "VWAP": "VWAP 20", "Taker-buys": "Taker buys", "Trades": "Trades",
}  # fmt: skip
WHOLE_CHOICE = {
    "Candle": "15 s", "Look-back": "1 h", "Refresh": "5 s", "Chart type": "Bars", "Time zone": "Local",
}  # fmt: skip
# The traces that have something visible on the page.
_SHAPES = """
return [...document.querySelectorAll('.cf-plot .cartesianlayer .trace')]
    .filter((one) => one.querySelector('path')?.getBoundingClientRect().width > 0)
    .map((one) => one.__data__[0].trace.uid);
"""
_WRITTEN = """
return [...document.querySelectorAll('.cf-plot .annotation-text')].map((one) => one.textContent)
"""


def steps(times: list[int]) -> set[int]:
    return {later - one for one, later in pairwise(times)}


def test_all_controls_stand_in_one_row_on_a_desktop(page: Page) -> None:
    page.open(size=DESKTOP)
    page.wait_for_candles()
    assert {"Chart", "Data", "Alerts"} <= set(page.text().split("\n"))
    ends = (
        "return [...document.querySelectorAll('.st-key-controls > *')]"
        ".map((one) => one.getBoundingClientRect().bottom)"
    )
    assert len({round(end) for end in page.script(ends)}) == 1


def test_a_wider_bucket_draws_fewer_wider_candles(page: Page) -> None:
    page.open()
    page.wait_for_candles()
    assert steps(page.times()) == {5_000}
    for label, milliseconds in (("15 s", 15_000), ("1 m", 60_000), ("5 m", 300_000)):
        page.choose("Candle", label)
        page.wait(lambda: steps(page.times()) == {milliseconds}, f"candles of {label}")  # noqa: B023
        assert all(time % milliseconds == 0 for time in page.times())


def test_a_longer_look_back_reaches_further_and_leaves_a_zoom(page: Page) -> None:
    page.open()
    page.wait_for_candles()
    first = min(page.times())
    page.drag_over_chart((0.3, 0.3), (0.6, 0.6))
    page.wait(lambda: page.mode() == "free", "the chart is zoomed")
    page.choose("Look-back", "All")
    page.wait(lambda: 0 < min(page.times(), default=0) <= first - 500_000, "older candles")
    assert page.mode() == "following"
    page.choose("Look-back", "5 m")
    page.wait(lambda: 60 <= len(page.times()) <= 62, "five minutes")


def test_another_symbol_shows_its_own_candles(page: Page, running: Running) -> None:
    end = now_us()
    running.feed.send("SOLUSDT", range(end - 30_000_000, end, 500_000))
    page.open()
    page.wait_for_candles()
    page.wait(lambda: "SOLUSDT" in page.symbols(), "a symbol that the store has just met")
    page.choose_symbol("SOLUSDT")
    page.wait(lambda: 0 < len(page.times()) < 10, "its few candles")
    assert page.script("return document.querySelector('.cf-symbol').innerText") == "SOLUSDT"


def test_a_symbol_without_a_trade_says_so_and_recovers_by_itself(
    page: Page, running: Running, pictures: Path
) -> None:
    page.open(f"symbol={QUIET}")
    page.wait_for_text(f"No trade of {QUIET} yet")
    page.save(pictures / "no-trade-yet.png")
    assert page.times() == []
    end = now_us()
    running.feed.send(QUIET, range(end - 10_000_000, end, 1_000_000))
    page.wait_for_candles()
    assert "No trade of" not in page.text()


def test_a_paused_page_does_not_change(page: Page) -> None:
    page.open()
    page.wait_for_candles()
    page.choose("Refresh", "Paused")
    page.wait(lambda: page.chosen("Refresh") == "Paused", "paused")
    page.wait_for_text("Paused at")
    newest = page.newest()
    page.script("window.pausedUpdates = document.querySelector('.cf-chart').dataset.updates")
    page.choose("Refresh", "1 s")
    page.wait(lambda: page.newest() > newest, "the page goes on")


def test_choices_are_in_the_address_and_survive_a_reload(page: Page) -> None:
    page.open()
    page.wait_for_candles()
    page.choose("Candle", "1 m")
    page.choose("Look-back", "1 h")
    page.wait(lambda: "look_back=" in page.driver.current_url, "the address")
    page.driver.refresh()
    page.wait(lambda: steps(page.times()) == {60_000}, "candles of a minute")
    assert (page.chosen("Candle"), page.chosen("Look-back")) == ("1 m", "1 h")


def test_a_view_set_by_its_address_is_the_same_in_a_fresh_session(page: Page, pictures: Path) -> None:
    page.open(WHOLE_VIEW)
    _assert_whole_view(page)
    page.save(pictures / "all-from-the-address.png")
    address = page.driver.current_url
    assert parse_qs(urlsplit(address).query) == parse_qs(WHOLE_VIEW)
    page.driver.get("about:blank")
    page.driver.get(address)
    _assert_whole_view(page)


def _assert_whole_view(page: Page) -> None:
    """Assert that the controls show the choices, and that they are drawn: lines with periods, filled
    panes."""
    page.wait(lambda: set(WHOLE_LINES.items()) <= set(page.lines().items()), "lines and panes")
    page.wait_for_updates(1)
    assert steps(page.script("return document.querySelector('.cf-plot').data[1].x")) == {15_000}
    assert set(WHOLE_LINES) <= set(page.script(_SHAPES))
    assert {"Taker buys %", "Trades"} <= set(page.script(_WRITTEN))
    assert page.script("return document.querySelector('.cf-plot')._fullLayout.yaxis.type") == "log"
    page.press("Chart")
    page.wait(lambda: page.chosen("Chart type") == "Bars", "the menu")
    assert {group: page.chosen(group) for group in WHOLE_CHOICE} == WHOLE_CHOICE
    periods = "return document.querySelector(`.st-key-${arguments[0]} input`).value"
    assert [page.script(periods, name) for name in ("sma", "ema", "vwap")] == ["7", "9", "20"]


def test_an_address_with_nonsense_shows_the_defaults(page: Page) -> None:
    page.open("symbol=%3Cscript%3Ealert(1)%3C/script%3E&candle=1'%3B--&look_back=%00&refresh=-1")
    page.wait_for_candles()
    assert (page.chosen("Candle"), page.chosen("Look-back"), page.chosen("Refresh")) == (
        "Auto",
        "30 m",
        "1 s",
    )
    assert "alert(1)" not in page.text()
