"""What a refresh sends, and what it leaves unchanged, in a real browser."""

from __future__ import annotations

from contextlib import closing
from copy import deepcopy
from random import Random
from typing import Any

import pytest

from candleflow.dashboard.delivery import Delivery
from candleflow.store.reader import CandleReader
from tests.dashboard.browser import Page
from tests.dashboard.conftest import LIVE, Running
from tests.dashboard.server import page_server
from tests.unit.dashboard.receiving import Receiver

LINES = {
    "SMA": {"SMA 20"},
    "Bollinger": {"Bollinger 20"},
    "RSI": {"RSI"},
    "MACD": {"MACD", "MACD signal"},
}
REFRESHES = 4
REFRESH_BYTES = 5_000
MESSAGES = 1_000
POINTS = 1_000
# Decodes messages with patch.js: the value of each, or null if its base is not known.
_RECEIVED = """
const [messages, done] = arguments;
const names = performance.getEntriesByType("resource").map((one) => one.name);
import(names.find((one) => one.includes("/patch.js"))).then(({ received }) => {
  const holder = {};
  done(messages.map((one) => received(holder, one, () => {}) ?? null));
});
"""
KINDS = ("price", "close", "heikin-ashi")
# The uids of the visible traces.
_SHOWN = """
return document.querySelector('.cf-plot').data.filter((one) => one.visible !== false).map((one) => one.uid)
"""
_DRAWN = """
const [prices, volumes] = document.querySelector('.cf-plot').data;
return volumes.x.map((time, at) => [time, prices.open[at], prices.close[at], volumes.y[at]]);
"""


@pytest.fixture
def live(page: Page) -> Page:
    """The page, with candles drawn and the whole figure received."""
    page.open()
    page.wait_for_candles()
    page.wait_for_updates(1)
    return page


def test_a_refresh_sends_only_what_changed(page: Page, running: Running) -> None:
    """With one symbol: with four, the strip of symbols adds 1.3 kB."""
    with page_server(running.settings.model_copy(update={"symbols": (LIVE,)})) as server:
        alone = Page(page.driver, server.url)
        alone.open()
        alone.wait_for_candles()
        alone.wait_for_updates(2)
        alone.received()
        alone.wait_for_updates(REFRESHES, seconds=60)
        received = alone.received()
        print(f"bytes a refresh: {received.per_refresh:.0f}, the largest message {max(received.sizes)}")
        assert received.per_refresh < REFRESH_BYTES
        page.driver.get("about:blank")


def test_what_is_drawn_after_some_refreshes_is_what_is_stored(live: Page, running: Running) -> None:
    newest = live.newest()
    live.wait(lambda: live.newest() > newest, "a new candle")
    live.wait_for_updates(1)
    drawn = live.script(_DRAWN)
    with closing(CandleReader.from_settings(running.settings)) as reader:
        stored = reader.candles(LIVE, 5, drawn[0][0] * 1_000, 2 * len(drawn))
    expected = [
        [one.open_time // 1_000, float(one.open), float(one.close), float(one.volume)] for one in stored
    ]
    settled = len(drawn) - 2  # the last candle grows, and the one before may just have changed
    assert drawn[:settled] == expected[:settled]


def test_a_browser_that_lost_the_figure_gets_it_whole(live: Page) -> None:
    """A message whose base the browser does not know, as after a lost message."""
    live.script(
        "const parse = JSON.parse;"
        "JSON.parse = (text) => {"
        "  const found = parse(text);"
        "  if (!found?.plotly || found.patch === undefined) return found;"
        "  [found.base, found.next, JSON.parse, window.hasLost] = ['lost', undefined, parse, true];"
        "  return found;"
        "}"
    )
    live.wait(lambda: live.script("return window.hasLost"), "a patch that can't be applied")
    live.wait_for_updates(2)


def test_the_browser_decodes_messages_to_the_values_sent(live: Page) -> None:
    """Values change in all ways, every third message is lost, and sometimes a whole value is sent again."""
    random, delivery, receiver = Random(1), Delivery("view"), Receiver()
    value: dict[str, Any] = {
        "x": list(range(POINTS)), "y": [0] * POINTS, "items": [{"of": [1]}, {}], "words": "",
    }  # fmt: skip
    messages: list[dict[str, Any]] = []
    expected: list[dict[str, Any] | None] = []
    for _ in range(MESSAGES):
        value = _changed(deepcopy(value), random)
        delivery = Delivery("view") if random.random() < 0.02 else delivery
        message = delivery.message(value)
        if random.random() < 1 / 3:
            continue
        messages.append(message)
        try:
            receiver.received(message)
        except LookupError:
            expected.append(None)
        else:
            expected.append(value)
    assert live.driver.execute_async_script(_RECEIVED, messages) == expected
    assert sum("next" in one for one in messages) > 10
    assert None in expected


def _changed(value: dict[str, Any], random: Random) -> dict[str, Any]:
    if random.random() < 0.5:
        value["x"] = [*value["x"][1:], value["x"][-1] + 1]
        value["y"] = [*value["y"][1:], random.random()]
    value["y"][random.randrange(POINTS)] = random.choice([None, True, 1, 1.5, "<b>"])
    value["items"][random.randrange(2)]["of"] = [random.randrange(9)] * random.randrange(4)
    value["words"] = "word " * random.randrange(120)
    for key in ("a", "b"):
        if random.random() < 0.1:
            value.pop(key, None)
        elif random.random() < 0.1:
            value[key] = {"of": random.randrange(9)}
    return value


@pytest.mark.slow
def test_a_change_of_overlays_and_panes_leaves_the_zoom(live: Page) -> None:
    """All overlays and panes; test_crosshair.py has a faster test with some of them."""
    live.drag_over_chart((0.55, 0.25), (0.8, 0.75))
    live.wait(lambda: live.mode() == "free", "the chart is zoomed")
    live.wait_for_updates(1)
    zoomed = live.ranges()
    live.press("Chart")
    for label in LINES:
        live.press(label)
        live.wait(lambda: LINES[label] <= set(_names(live)), f"the lines of {label}")  # noqa: B023
        assert live.ranges() == zoomed
    for label in ("SMA", "MACD"):
        live.press(label)
        live.wait(lambda: LINES[label].isdisjoint(_names(live)), f"no line of {label}")  # noqa: B023
    live.wait_for_updates(2)
    assert live.ranges() == zoomed
    assert "below=RSI" in live.driver.current_url


def test_prices_are_drawn_in_other_ways(page: Page) -> None:
    page.open()
    page.wait_for_candles()
    page.press("Chart")
    for kind, uid in (("Bars", "price"), ("Line", "close"), ("Heikin-Ashi", "heikin-ashi")):
        page.choose("Chart type", kind)
        page.wait(lambda: set(page.script(_SHOWN)) & set(KINDS) == {uid}, f"{kind} alone")  # noqa: B023
    assert "prices=Heikin-Ashi" in page.driver.current_url


def test_times_can_be_in_the_viewers_time_zone(page: Page) -> None:
    page.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Kathmandu"})
    try:
        page.open("times=Local")
        page.wait_for_candles()
        shown = page.newest()
        page.open()
        page.wait_for_candles()
        ahead = (shown - page.newest()) / 60_000
        assert 344 < ahead <= 345, "Nepal is 5 h 45 min ahead"
    finally:
        page.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})


def test_the_title_is_the_price(live: Page) -> None:
    live.wait(lambda: live.driver.title.endswith(LIVE), "the title")
    assert live.driver.title.split(" ")[0].replace(",", "").replace(".", "").isdigit()


def _names(page: Page) -> list[str]:
    return list(page.script("return (document.querySelector('.cf-plot')?.data ?? []).map((one) => one.name)"))
