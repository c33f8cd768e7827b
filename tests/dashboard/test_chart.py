"""The chart in a real browser, while trades arrive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.dashboard.browser import DESKTOP, MARKS_OF_A_REFRESH, PHONE, SMALL_PHONE, Page
from tests.dashboard.conftest import LIVE
from tests.dashboard.feed import now_us
from tests.dashboard.picture import shrink

LOOKS = (
    ("desktop-dark", DESKTOP, True),
    ("desktop-light", DESKTOP, False),
    ("phone-dark", PHONE, True),
    ("phone-light", SMALL_PHONE, False),
)

# Marks the chart's nodes, then counts the chart nodes that are removed from or added to the page.
WATCH = """
const plot = document.querySelector('.cf-plot');
plot.dataset.mark = 'the same';
plot.querySelector('.main-svg').dataset.mark = 'the same';
window.removedCharts = 0;
window.addedCharts = 0;
const isChart = (node) => node.nodeType === 1
    && (node.matches('.cf-chart, .cf-plot, .main-svg') || node.querySelector('.cf-plot, .main-svg'));
new MutationObserver((changes) => {
  for (const change of changes) {
    window.removedCharts += [...change.removedNodes].filter(isChart).length;
    window.addedCharts += [...change.addedNodes].filter(isChart).length;
  }
}).observe(document.body, {childList: true, subtree: true});
"""
WATCHED = """
return [document.querySelector('.cf-plot').dataset.mark,
        document.querySelector('.cf-plot .main-svg').dataset.mark, window.removedCharts, window.addedCharts]
"""


def test_every_candle_of_the_look_back_is_drawn_and_the_header_has_price_and_change(page: Page) -> None:
    page.open()
    count = page.wait_for_candles()
    assert 360 <= count <= 362  # 30 minutes of 5-second candles, and one or two at the edges
    times = page.times()
    assert times == sorted(set(times))
    assert times[-1] * 1_000 <= now_us()
    assert page.script("return document.querySelector('.cf-plot').data[1].y.every((volume) => volume > 0)")
    header = page.script("return document.querySelector('.cf-header').innerText")
    assert LIVE in header
    assert page.script("return /^[\\d,]+\\.\\d\\d$/.test(document.querySelector('.cf-price').innerText)")
    assert page.script("return /%\\)$/.test(document.querySelector('.cf-change').innerText)")


def test_a_zoom_by_mouse_stays_through_updates_on_the_same_node(page: Page) -> None:
    page.open()
    page.wait_for_candles()
    before = page.ranges()
    page.drag_over_chart((0.55, 0.25), (0.8, 0.75))
    page.wait(lambda: page.mode() == "free", "the chart is zoomed")
    page.wait_for_updates(1)
    zoomed = page.ranges()
    assert before[0][0] < zoomed[0][0] < zoomed[0][1] < before[0][1]
    newest = page.newest()
    page.script(WATCH)

    page.wait(lambda: page.newest() > newest, "a new candle")
    page.wait_for_updates(1)

    assert page.ranges() == zoomed
    assert page.script(WATCHED) == ["the same", "the same", 0, 0]
    page.driver.find_element("css selector", ".cf-live").click()
    page.wait(lambda: page.mode() == "following", "back to live")
    page.wait(lambda: page.ranges()[0][1] > before[0][1], "the newest candle in sight")


def test_a_zoom_by_wheel_stays_too_and_a_double_click_goes_back_to_live(page: Page) -> None:
    page.open()
    page.wait_for_candles()
    whole = page.ranges()[0]
    page.turn_wheel_over_chart(-400)
    page.wait(lambda: page.mode() == "free", "the chart is zoomed")
    zoomed = page.ranges()
    assert zoomed[0][1] - zoomed[0][0] < whole[1] - whole[0]
    page.wait_for_updates(2)
    assert page.ranges() == zoomed
    page.double_click_chart()
    page.wait(lambda: page.mode() == "following" and page.ranges()[0][1] >= whole[1], "back to live")


def test_before_any_zoom_the_chart_follows_the_newest_candle(page: Page) -> None:
    page.open()
    page.wait_for_candles()
    first = page.ranges()[0]
    newest = page.newest()
    page.wait(lambda: page.newest() > newest, "a new candle")
    page.wait_for_updates(1)
    start, end = page.ranges()[0]
    assert page.mode() == "following"
    assert (start > first[0], end > first[1]) == (True, True)
    assert start < page.newest() < end


def test_performance_entries_of_a_refresh_are_cleared(page: Page) -> None:
    """Streamlit never clears its performance entries: the browser grew by 43 MB an hour."""
    page.open()
    page.wait_for_candles()
    page.wait_for_updates(2)
    assert page.marks() <= MARKS_OF_A_REFRESH


def test_an_update_does_not_cut_a_drag_short(page: Page) -> None:
    page.open()
    page.wait_for_candles()
    page.wait_for_updates(1)
    held = page.script(
        "const drag = document.querySelector(\".cf-plot .nsewdrag[data-subplot='xy']\");"
        "drag.dispatchEvent(new PointerEvent('pointerdown', {bubbles: true}));"
        "return document.querySelector('.cf-chart').dataset.updates"
    )
    header = page.script("return document.querySelector('.cf-price').innerText")
    page.wait(
        lambda: page.script("return document.querySelector('.cf-price').innerText") != header, "a new price"
    )
    assert page.script("return document.querySelector('.cf-chart').dataset.updates") == held
    page.script("window.dispatchEvent(new PointerEvent('pointerup'))")
    page.wait_for_updates(1)


def test_the_page_fits_desktop_and_phone_in_light_and_dark(page: Page, pictures: Path) -> None:
    page.open()
    page.wait_for_candles()
    for name, size, is_dark in LOOKS:
        page.look_like(size, is_dark=is_dark)
        page.wait(lambda: _fits(page, size, is_dark=is_dark), f"the page fits: {name}")  # noqa: B023
        page.wait_for_updates(1)
        page.save(pictures / f"{name}.png")
        shrink(pictures / f"{name}.png")


def _fits(page: Page, size: tuple[int, int], *, is_dark: bool) -> bool:
    """Return whether the page needs no scrolling, the chart reaches the window's bottom, and the theme is
    right."""
    box: dict[str, Any] = page.script(
        "const main = document.querySelector('[data-testid=stMain]');"
        "const chart = document.querySelector('.cf-chart').getBoundingClientRect();"
        "const plot = document.querySelector('.cf-plot .main-svg').getBoundingClientRect();"
        "return {across: main.scrollWidth, down: main.scrollHeight, bottom: chart.bottom,"
        " height: chart.height, plot: plot.height,"
        " ground: getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor}"
    )
    width, height = size
    channels = [int(channel) for channel in box["ground"].strip("rgb()").split(",")]
    return (
        box["across"] <= width
        and box["down"] <= height
        and height - 20 < box["bottom"] <= height
        and box["height"] > 0.4 * height
        and abs(box["plot"] - box["height"]) < 2
        and (sum(channels) < 100) == is_dark
    )
