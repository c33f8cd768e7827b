"""Several symbols on the page: the strip, the pickers and the grid of charts, in a real browser."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from candleflow.dashboard.words import MINUS
from candleflow.store import schema
from tests.dashboard.browser import DESKTOP, PHONE, Page
from tests.dashboard.conftest import GAPPED, LIVE, LONG, OLD, QUIET, Running
from tests.dashboard.feed import live_feed, now_us
from tests.dashboard.picture import shrink
from tests.dashboard.server import page_server
from tests.store_fixtures import Database

LOOKS = (
    ("desktop-dark", DESKTOP, True),
    ("desktop-light", DESKTOP, False),
    ("phone-dark", PHONE, True),
    ("phone-light", PHONE, False),
)
FOUR = f"charts=4&symbol2={GAPPED}&symbol3={LONG}&symbol4={OLD}"

_CELLS = """
return [...document.querySelectorAll('.cf-cell')].map((one) => ({
  symbol: one.querySelector('.cf-cell-symbol').textContent,
  price: one.querySelector('.cf-cell-price').textContent,
  change: one.querySelector('.cf-cell-change').textContent,
  points: (one.querySelector('polyline').getAttribute('points') ?? '').split(' ').length,
  isCurrent: one.getAttribute('aria-current') === 'true',
  title: one.title,
  age: one.querySelector('.cf-cell-age').textContent,
  isQuiet: one.classList.contains('cf-quiet'),
  mark: one.dataset.mark,
}))
"""
_RANGES = """
return [...document.querySelectorAll('.cf-plot')].map((plot) => plot._fullLayout.xaxis.range.map(String))
"""


def cells(page: Page) -> list[dict[str, Any]]:
    return list(page.script(_CELLS))


def current(page: Page) -> str | None:
    return next((one["symbol"] for one in cells(page) if one["isCurrent"]), None)


def pick(page: Page, symbol: str) -> None:
    page.wait(lambda: any(one["symbol"] == symbol for one in cells(page)), f"{symbol} in the strip")
    page.script(
        "[...document.querySelectorAll('.cf-cell')]"
        ".find((one) => one.querySelector('.cf-cell-symbol').textContent === arguments[0]).click()",
        symbol,
    )


def header(page: Page) -> str:
    return str(page.script("return document.querySelector('.cf-symbol')?.innerText ?? ''"))


def test_the_strip_shows_each_symbol_followed_in_the_order_of_the_settings(page: Page) -> None:
    page.open()
    page.wait(lambda: current(page) == LIVE, "the first symbol marked")
    shown = cells(page)
    assert [one["symbol"] for one in shown] == [LIVE, QUIET, GAPPED, OLD]
    live = shown[0]
    assert live["price"].replace(",", "").replace(".", "").isdigit()
    assert live["change"][0] in "▲▼"
    assert live["change"].endswith(" %")
    assert 3 <= live["points"] <= 8  # forty minutes and the tests so far, one point per quarter of an hour
    assert re.fullmatch(rf"{LIVE}: [▲▼] [+{MINUS}]\d+\.\d\d % in \d\d minutes", live["title"])


def test_a_click_switches_the_symbol_and_the_address_without_a_reload(page: Page) -> None:
    page.open()
    page.wait_for_candles()
    page.script("window.isSamePage = true; document.querySelector('.cf-plot').dataset.mark = 'the same'")
    pick(page, GAPPED)
    page.wait(lambda: header(page) == GAPPED and page.driver.title.endswith(GAPPED), "the other symbol")
    page.wait(lambda: current(page) == GAPPED, "it is marked")
    assert f"symbol={GAPPED}" in page.driver.current_url
    assert page.script("return [window.isSamePage, document.querySelector('.cf-plot').dataset.mark]") == [
        True,
        "the same",
    ]
    page.driver.refresh()
    page.wait(lambda: header(page) == GAPPED and current(page) == GAPPED, "the same after a reload")
    pick(page, LIVE)
    page.wait(lambda: header(page) == LIVE, "the first again")
    page.wait(lambda: GAPPED not in page.driver.current_url, "the address of the first")


def test_the_strip_keeps_its_buttons_while_prices_change(page: Page) -> None:
    page.open()
    page.wait_for_candles()
    before = page.wait(lambda: cells(page), "the strip")
    page.script(
        "document.querySelectorAll('.cf-cell').forEach((one) => { one.dataset.mark = 'the same'; });"
        "window.changedNodes = 0;"
        "new MutationObserver((changes) => { for (const one of changes) window.changedNodes +="
        " [...one.addedNodes, ...one.removedNodes].filter((node) => node.nodeType === 1).length; })"
        ".observe(document.querySelector('.cf-strip'), {childList: true, subtree: true})"
    )
    page.wait_for_updates(2)
    page.wait(lambda: cells(page)[0]["price"] != before[0]["price"], "another price")
    assert {one["mark"] for one in cells(page)} == {"the same"}
    assert page.script("return window.changedNodes") == 0


def test_the_strip_can_be_used_by_keyboard(page: Page) -> None:
    page.open()
    page.wait(lambda: current(page) == LIVE, "the strip")
    focused = "return document.activeElement.querySelector('.cf-cell-symbol')?.textContent"
    page.script("document.querySelector('.cf-cell[tabindex=\"0\"]').focus()")
    assert page.script(focused) == LIVE
    page.hit(Keys.END)
    assert page.script(focused) == OLD
    page.hit(Keys.ARROW_LEFT)
    page.hit(Keys.ENTER)
    page.wait(lambda: header(page) == GAPPED, "the symbol under the focus")


def test_the_strip_shows_the_age_of_an_old_last_trade(page: Page) -> None:
    page.open()
    page.wait(lambda: current(page) == LIVE, "the strip")
    live, *_, old = cells(page)
    assert (live["isQuiet"], old["isQuiet"]) == (False, True)
    assert re.search(r", last trade \d+ days ago$", old["title"])
    assert re.fullmatch(r"\d+ days ago", old["age"])
    assert old["change"].endswith(" %"), "that of its last day"


def test_a_symbol_of_the_address_that_is_not_followed_has_a_message_and_a_chart_once_it_has_trades(
    page: Page, running: Running
) -> None:
    page.open("symbol=LATEUSDT")
    page.wait_for_text("LATEUSDT is not followed")
    assert "symbol=LATEUSDT" in page.driver.current_url
    end = now_us()
    running.feed.send("LATEUSDT", range(end - 30_000_000, end, 1_000_000))
    page.wait_for_candles()
    page.wait_for_text("LATEUSDT is not among CANDLEFLOW_SYMBOLS")
    assert header(page) == "LATEUSDT"


@pytest.mark.slow
def test_a_symbol_has_a_notice_while_the_settings_do_not_name_it(page: Page, running: Running) -> None:
    gone, notice = "ONCEUSDT", "ONCEUSDT is not among CANDLEFLOW_SYMBOLS: no new trades, only stored candles."
    end = now_us()
    running.feed.send(gone, range(end - 600_000_000, end, 5_000_000))
    both, one = (running.settings.model_copy(update={"symbols": names}) for names in ((LIVE, gone), (LIVE,)))
    with page_server(both) as server:
        shown = Page(page.driver, server.url)
        shown.open(f"symbol={gone}")
        shown.wait_for_candles()
        shown.wait(lambda: current(shown) == gone, "the symbol is in the strip")
        assert notice not in shown.text()
        shown.mark_chart()
    with page_server(one, port=server.port):
        shown.wait_for_text(notice)
        assert header(shown) == gone
        assert shown.is_same_chart()
    with page_server(both, port=server.port):
        shown.wait(lambda: notice not in shown.text(), "the sentence goes")
        shown.wait(lambda: current(shown) == gone, "the symbol is in the strip again")
        assert shown.is_same_chart()
        newest = shown.newest()
        running.feed.send(gone, [now_us()])
        shown.wait(lambda: shown.newest() > newest, "its new candle")
        shown.driver.get("about:blank")
        shown.problems()  # drop the errors of requests refused meanwhile


@pytest.mark.slow
def test_six_hundred_symbols_stay_usable_and_a_refresh_stays_small(
    driver: webdriver.Chrome, make_database: Callable[[], Database]
) -> None:
    """A hundred of them have trades: one each, repeatedly."""
    followed = [f"S{at:03}USDT" for at in range(600)]
    traded = followed[:100]
    settings = make_database().settings_with(symbols=",".join(followed))
    schema.apply(settings)
    with live_feed(settings, followed[0], history_seconds=600) as feed, page_server(settings) as server:
        page = Page(driver, server.url)
        feed.send_one_of_each(traded, now_us())
        page.open(f"symbol={followed[80]}")
        page.wait(lambda: current(page) == followed[80], "the strip")
        assert len(cells(page)) == 600
        assert page.script(
            "const strip = document.querySelector('.cf-strip').getBoundingClientRect();"
            "const marked = document.querySelector('.cf-cell[aria-current]').getBoundingClientRect();"
            "return marked.left >= strip.left && marked.right <= strip.right"
        ), "the current one is in sight"

        picker = page.driver.find_element("css selector", ".st-key-symbol input")
        picker.click()
        picker.send_keys("S457")
        page.wait(lambda: _options(page) == ["S457USDT"], "the picker filters")
        picker.send_keys(Keys.ENTER)
        page.wait_for_text("No trade of S457USDT yet")
        page.wait(lambda: "symbol=S457USDT" in page.driver.current_url, "the address")

        page.open(f"symbol={followed[0]}&refresh=1+s")
        page.wait_for_candles()
        page.wait_for_updates(2)
        page.received()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            feed.send_one_of_each(traded, now_us())
        per_refresh = page.received().per_refresh
        print(f"bytes a refresh, 100 of 600 symbols trading: {per_refresh:.0f}")
        assert per_refresh < 3 * 5_000


def _options(page: Page) -> list[str]:
    return list(
        page.script("return [...document.querySelectorAll('[role=option]')].map((one) => one.innerText)")
    )


def test_four_charts_are_drawn_each_with_a_zoom_of_its_own(page: Page) -> None:
    page.open(FOUR)
    page.wait(lambda: _drawn(page) == 4, "four charts")
    page.wait(lambda: page.driver.title.endswith(LIVE), "the first one's price is the title")
    live = page.script(_RANGES)
    for at in (1, 2):
        page.drag_over_chart((0.3 + at / 10, 0.3), (0.7, 0.7), at=at)
        page.wait(lambda: _modes(page)[at] == "free", "zoomed")  # noqa: B023
    page.wait_for_updates(1)
    zoomed = page.script(_RANGES)
    assert [zoomed[at] != live[at] for at in (1, 2)] == [True, True]
    page.wait(lambda: page.script(_RANGES)[0] != zoomed[0], "the first chart follows the live edge")
    page.wait_for_updates(2)
    assert page.script(_RANGES)[1:3] == zoomed[1:3]
    assert _modes(page) == ["following", "free", "free", "following"]
    page.script("document.querySelectorAll('.cf-chart')[1].querySelector('.cf-live').click()")
    page.wait(lambda: _modes(page) == ["following", "following", "free", "following"], "one is live again")


def test_the_first_chart_does_not_change_when_another_is_added(page: Page) -> None:
    page.open()
    page.wait_for_candles()
    page.drag_over_chart((0.5, 0.3), (0.8, 0.7))
    page.wait(lambda: page.mode() == "free", "zoomed")
    page.script("document.querySelector('.cf-plot').dataset.mark = 'the same'")
    zoomed = page.ranges()[0]
    page.press("Chart")
    page.choose("Charts", "2")
    page.wait(
        lambda: len(page.script("return document.querySelectorAll('.st-key-grid .st-key-cell2')")), "two"
    )
    page.wait_for_updates(2)
    assert page.script("return document.querySelector('.cf-plot').dataset.mark") == "the same"
    assert (page.mode(), page.ranges()[0]) == ("free", zoomed)
    assert "charts=2" in page.driver.current_url


def test_each_further_chart_has_a_picker_of_its_own(page: Page) -> None:
    page.open(FOUR)
    page.wait(lambda: _drawn(page) == 4, "four charts")
    page.choose_symbol(LIVE, key="symbol3")
    page.wait(lambda: _symbols(page) == [LIVE, GAPPED, LIVE, OLD], "another symbol in the third")
    assert f"symbol3={LIVE}" in page.driver.current_url
    page.driver.refresh()
    page.wait(lambda: _symbols(page) == [LIVE, GAPPED, LIVE, OLD], "the same after a reload")


def test_a_cell_without_candles_leaves_the_others_alone(page: Page) -> None:
    page.open("charts=3&symbol2=NOSUCHUSDT")
    page.wait_for_text("NOSUCHUSDT is not followed")
    page.wait(lambda: _drawn(page) >= 1, "a chart beside it")
    page.wait_for_updates(2)
    assert page.driver.title.endswith(LIVE)


@pytest.mark.slow
def test_four_charts_fit_desktop_and_phone(page: Page, pictures: Path) -> None:
    page.open(FOUR)
    page.wait(lambda: _drawn(page) == 4, "four charts")
    for name, size, is_dark in LOOKS:
        page.look_like(size, is_dark=is_dark)
        page.wait(lambda: _fits(page, size), f"the charts fit: {name}")  # noqa: B023
        page.wait_for_updates(1)
        page.save(pictures / f"grid-{name}.png")
        shrink(pictures / f"grid-{name}.png")


def _fits(page: Page, size: tuple[int, int]) -> bool:
    """Return whether the charts fit: on a desktop two rows of two without scrolling, on a phone one
    column."""
    found: dict[str, Any] = page.script(
        "const main = document.querySelector('[data-testid=stMain]');"
        "const boxes = [...document.querySelectorAll('.cf-chart')].map((one) => one.getBoundingClientRect());"
        "return {across: main.scrollWidth, down: main.scrollHeight,"
        " lefts: new Set(boxes.map((one) => one.left)).size,"
        " least: Math.min(...boxes.map((one) => one.height)),"
        " right: Math.max(...boxes.map((one) => one.right))}"
    )
    width, height = size
    is_phone = size == PHONE
    return (
        found["across"] <= width
        and found["right"] <= width
        and found["least"] >= 160
        and found["lefts"] == (1 if is_phone else 2)
        and (is_phone or found["down"] <= height)
    )


def _drawn(page: Page) -> int:
    return int(page.script("return document.querySelectorAll('.cf-plot .main-svg:first-child').length"))


def _modes(page: Page) -> list[str]:
    return list(
        page.script("return [...document.querySelectorAll('.cf-chart')].map((one) => one.dataset.mode)")
    )


def _symbols(page: Page) -> list[str]:
    return list(
        page.script("return [...document.querySelectorAll('.cf-symbol')].map((one) => one.textContent)")
    )
