"""Keyboard control of the page, and the chart's description for screen readers."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.dashboard.browser import Page
from tests.dashboard.closely import hidden, hide_average
from tests.dashboard.conftest import GAPPED, LIVE

WINDOW_MS = 5_000


@pytest.fixture
def live(page: Page) -> Page:
    page.open("candle=5+s")
    page.wait_for_candles()
    return page


def struck(page: Page, *keys: str) -> list[list[float]]:
    """Press the keys; return the axes' ranges once they have changed."""
    before = page.ranges()
    page.hit(*keys)
    return page.wait(lambda: page.ranges() if page.ranges() != before else None, f"{keys!r} moves the chart")


def test_arrows_zoom_and_pan_and_the_chart_stays_there(live: Page) -> None:
    whole = live.ranges()[0]
    live.mark_chart()
    closer = struck(live, Keys.ARROW_UP)[0]
    assert live.mode() == "free"
    assert closer[1] - closer[0] == pytest.approx((whole[1] - whole[0]) / 1.25)
    assert live.newest() < closer[1] <= live.newest() + 2 * WINDOW_MS
    earlier = struck(live, Keys.ARROW_LEFT)
    assert earlier[0][1] - earlier[0][0] == pytest.approx(closer[1] - closer[0])
    assert closer[0] - earlier[0][0] == pytest.approx(0.2 * (closer[1] - closer[0]), rel=0.01)
    live.wait_for_updates(2)
    assert live.ranges() == earlier
    assert live.is_same_chart()
    assert struck(live, Keys.ARROW_RIGHT)[0][0] > earlier[0][0]
    assert struck(live, "-")[0][0] < earlier[0][0]


def test_home_shows_the_oldest_and_end_goes_back_to_live(live: Page) -> None:
    whole = live.ranges()[0]
    struck(live, "+", "+", "+")
    oldest = struck(live, Keys.HOME)[0]
    assert oldest[0] == pytest.approx(whole[0], abs=2 * WINDOW_MS)
    assert oldest[1] < whole[1] - 60_000
    struck(live, Keys.END)
    assert live.mode() == "following"
    live.wait(lambda: live.ranges()[0][1] >= whole[1], "the newest candle in sight")


def test_zooming_out_to_all_candles_is_live_again(live: Page) -> None:
    struck(live, Keys.ARROW_UP)
    struck(live, Keys.ARROW_DOWN)
    live.hit(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    live.wait(lambda: live.mode() == "following", "all is in sight")


def test_the_price_axis_fits_the_visible_candles_and_the_mouse_can_zoom_further(live: Page) -> None:
    for _ in range(8):
        struck(live, Keys.ARROW_UP)
    (begin, end), (lowest, highest) = live.ranges()
    seen = live.script(
        "const [prices] = document.querySelector('.cf-plot').data;"
        "const isIn = (price, at) =>"  # the last has no price: it is the empty place at the live edge
        " price !== null && prices.x[at] >= arguments[0] && prices.x[at] <= arguments[1];"
        "return [prices.low, prices.high].map((one) => one.filter(isIn))",
        begin,
        end,
    )
    low, high = min(seen[0]), max(seen[1])
    assert lowest < low < high < highest
    assert high - low > 0.8 * (highest - lowest)
    live.drag_over_chart((0.3, 0.3), (0.7, 0.7))
    live.wait(lambda: live.ranges()[0] != [begin, end], "the mouse zooms further")
    live.wait_for_updates(1)
    zoomed = live.ranges()
    live.wait_for_updates(2)
    assert live.ranges() == zoomed
    assert struck(live, Keys.ARROW_LEFT)[0][0] < zoomed[0][0]


def test_a_hidden_trace_and_a_logarithmic_axis_keep_through_keys(page: Page) -> None:
    page.open("log=true&overlays=SMA")
    page.wait_for_candles()
    hide_average(page)
    _, (lowest, highest) = struck(page, Keys.ARROW_UP)
    assert 4 < lowest < highest < 5, "tens of thousands, as logarithms"
    page.wait_for_updates(2)
    assert hidden(page) == ["SMA"]


def test_brackets_change_the_look_back_and_comma_and_period_the_candle(live: Page) -> None:
    live.hit("]")
    live.wait(lambda: live.chosen("Look-back") == "1 h", "a longer look-back")
    live.hit("[")
    live.wait(lambda: live.chosen("Look-back") == "30 m", "a shorter one")
    live.hit(".")
    live.wait(lambda: live.chosen("Candle") == "15 s", "longer candles")
    live.hit(",")
    live.wait(lambda: live.chosen("Candle") == "5 s", "shorter ones")


def test_a_slash_focuses_the_symbol_picker_where_keys_type_text(live: Page) -> None:
    live.hit("/")
    live.wait(lambda: _focused(live, ".st-key-symbol input"), "the picker has the focus")
    before = live.ranges()
    live.hit("h", "o", "l", "e", "?", "+", Keys.HOME, Keys.ARROW_LEFT)
    assert live.driver.find_elements("css selector", "dialog") == []
    assert live.mode() == "following"
    assert live.ranges()[0][1] - live.ranges()[0][0] == pytest.approx(before[0][1] - before[0][0], rel=0.01)
    live.hit(Keys.ESCAPE)
    _click_chart(live)
    live.hit("/")
    live.wait(lambda: _focused(live, ".st-key-symbol input"), "the picker has the focus")
    live.hit(GAPPED)
    live.hit(Keys.ENTER)
    live.wait(lambda: live.script("return document.querySelector('.cf-symbol').innerText") == GAPPED, "it")


def test_a_question_mark_lists_the_keys_and_escape_closes_the_list(live: Page, pictures: Path) -> None:
    live.hit("?")
    live.wait(lambda: "the oldest candles" in live.text(), "the list")
    live.save(pictures / "keys.png")
    live.hit(Keys.ARROW_LEFT)
    live.wait_for_updates(2)
    assert live.mode() == "following", "the list has the keys"
    live.hit(Keys.ESCAPE)
    live.wait(lambda: not live.driver.find_elements("css selector", "dialog"), "the list gone")
    live.driver.find_element("css selector", ".cf-help").click()
    live.wait(lambda: live.driver.find_elements("css selector", "dialog[open]"), "the list by mouse")
    live.press("Close")


def test_shortcuts_of_browser_and_system_still_work(live: Page) -> None:
    for modifier in (Keys.CONTROL, Keys.ALT, Keys.META):
        for key in (Keys.ARROW_UP, "]"):
            actions = ActionChains(live.driver).key_down(modifier).send_keys(key).key_up(modifier)
            actions.perform()
    live.wait_for_updates(2)
    assert (live.mode(), live.chosen("Look-back")) == ("following", "30 m")


def test_arrows_choose_among_buttons_that_have_the_focus(live: Page) -> None:
    live.choose("Candle", "15 s")
    live.wait(lambda: live.chosen("Candle") == "15 s", "chosen")
    live.hit(Keys.ARROW_RIGHT)
    live.wait_for_updates(2)
    assert live.mode() == "following"
    _click_chart(live)
    struck(live, Keys.ARROW_UP)
    assert live.mode() == "free"


def test_the_chart_has_a_description_for_screen_readers(page: Page) -> None:
    page.open(f"symbol={GAPPED}")
    page.wait_for_candles()
    page.wait_for_updates(1)
    plot = page.driver.find_element("css selector", ".cf-plot")
    assert plot.aria_role == "image"
    assert plot.accessible_name.startswith("Price chart, ")
    assert plot.accessible_name.endswith(GAPPED)
    description = page.script(
        "return document.getElementById(arguments[0].getAttribute('aria-describedby')).innerText", plot
    )
    assert "candles, the first at 20" in description
    assert "2 incomplete." in description


def test_the_focus_is_visible_and_reduced_motion_is_respected(live: Page, pictures: Path) -> None:
    live.driver.find_element("css selector", ".cf-help").click()
    live.wait(lambda: live.driver.find_elements("css selector", "dialog[open]"), "the list")
    live.hit(Keys.ESCAPE)
    live.wait(lambda: not live.driver.find_elements("css selector", "dialog"), "the list gone")
    ActionChains(live.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    style = "return getComputedStyle(document.querySelector('.cf-plot'))[arguments[0]]"
    live.wait(lambda: _focused(live, ".cf-plot"), "the chart has the focus")
    assert live.script(style, "outlineStyle") == "solid"
    live.save(pictures / "focus.png")
    assert live.script(style, "transitionDuration") != "0s"
    live.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    )
    assert live.script(style, "transitionDuration") == "0s"
    assert LIVE in live.driver.title


def _click_chart(page: Page) -> None:
    """Click the chart, which moves the focus to it."""
    page.point_at_chart(0.5)
    ActionChains(page.driver).click().perform()


def _focused(page: Page, selector: str) -> bool:
    return bool(page.script("return document.activeElement?.matches(arguments[0])", selector))
