"""The crosshair's readout shows the stored values; crosshair, zoom and hidden lines stay through changes."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extras import RealDictCursor
from selenium.webdriver.common.keys import Keys

from candleflow.market.window import SECOND_US
from candleflow.settings import Settings
from candleflow.store import credentials
from candleflow.store.credentials import Role
from tests.dashboard.browser import DESKTOP, PHONE, Page
from tests.dashboard.closely import hidden, hide_average, look_closely
from tests.dashboard.conftest import LONG_AGO, Running

EXACT = "EXACTUSDT"
CANDLES = 24
_DECIMALS = (
    "open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume",
)  # fmt: skip
_STORED = """
SELECT * FROM candles
WHERE symbol = %s AND interval = '5s' AND open_time = %s::timestamp AT TIME ZONE 'UTC'
"""
# Fields that are cut off, or that lie over the price axis.
_OUT_OF_SIGHT = """
const axis = document.querySelector(".cf-plot .nsewdrag[data-subplot='xy']").getBoundingClientRect().right;
return [...document.querySelectorAll('.cf-readout span')].filter((one) => {
  const box = one.getBoundingClientRect();
  return box.left < 0 || box.right > axis + 1 || one.scrollWidth > Math.ceil(box.width);
}).map((one) => one.dataset.field);
"""
_TOUCH = "Emulation.setTouchEmulationEnabled"


@pytest.fixture(scope="module")
def exact(running: Running) -> None:
    """Send candles of two trades each, with the maximum number of digits: no double holds their products."""
    for at in range(LONG_AGO - CANDLES * 5 * SECOND_US, LONG_AGO, 5 * SECOND_US):
        running.feed.send(EXACT, [at, at + 1], quantity="1234.56780001", price=Decimal("60123.12345678"))
        running.feed.send(EXACT, [at + SECOND_US], quantity="0.00000003", price=Decimal("60000.1") + at % 7)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_readout_shows_every_field_of_the_candle_as_stored(
    page: Page, running: Running, pictures: Path, size: tuple[int, int]
) -> None:
    page.open(f"symbol={EXACT}&look_back=5+m&candle=5+s&overlays=SMA", size=size)
    page.wait_for_candles()
    newest = page.readout()
    assert ("taker_buy_quote_volume" in newest) == (size == DESKTOP), "on a phone when pointed at"
    _point(page, size)
    page.wait(lambda: page.is_pointed_at() and page.readout()["time"] != newest["time"], "another candle")
    readout = page.readout()
    stored = _stored(running.settings, readout["time"].partition(" to ")[0])
    assert readout == _in_words(stored, readout)
    assert len(f"{stored['quote_volume'].normalize():f}") > 18, "more than a double can hold"
    assert page.script(_OUT_OF_SIGHT) == []
    page.save(pictures / f"crosshair-{'phone' if size == PHONE else 'desktop'}.png")


def _point(page: Page, size: tuple[int, int]) -> None:
    if size == DESKTOP:
        page.point_at_chart(0.9)
        return
    page.driver.execute_cdp_cmd(_TOUCH, {"enabled": True})
    try:
        page.tap_chart(0.9)
    finally:
        page.driver.execute_cdp_cmd(_TOUCH, {"enabled": False})


def _stored(settings: Settings, opened: str) -> dict[str, Any]:
    """Return the candle's row in PostgreSQL."""
    reader = credentials.dsn(settings, Role.READER)
    with closing(reader.connect()) as found, found.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(_STORED, (EXACT, opened))
        (row,) = cursor.fetchall()
    return dict(row)


def _in_words(row: dict[str, Any], readout: dict[str, str]) -> dict[str, str]:
    """Return the expected readout. Decimals are compared as numbers: trailing zeros may be missing."""
    share = round(100 * row["taker_buy_volume"] / row["volume"])
    return {
        "time": f"{row['open_time']:%Y-%m-%d %H:%M:%S} to {row['end_time']:%H:%M:%S}",
        **{name: _same(row[name], readout[name]) for name in _DECIMALS},
        "taker_share": f"{share} %",
        "trade_count": str(row["trade_count"]),
        "trade_ids": f"{row['first_trade_id']}-{row['last_trade_id']}",
        "source": row["source"],
        "is_closed": "closed" if row["is_closed"] else "forming",
        "is_complete": "complete" if row["is_complete"] else "incomplete",
    }


def _same(stored: Decimal, readout: str) -> str:
    return readout if Decimal(readout.replace(",", "")) == stored else f"not {readout} but {stored}"


def test_zoom_pan_hidden_lines_and_crosshair_stay_through_a_change_of_overlays(
    page: Page, pictures: Path
) -> None:
    """Controls are used by keyboard, so that the pointer stays on its candle."""
    left = look_closely(page)
    page.press_by_key("Chart")
    for label, uid in (("EMA", "EMA"), ("RSI", "RSI")):
        page.press_by_key(label)
        page.wait(lambda: uid in page.lines(), f"the line of {label}")  # noqa: B023
        page.wait_for_updates(1)
        left.assert_as_it_was()
    page.save(pictures / "change-of-overlays.png")
    for label in ("EMA", "RSI"):
        page.press_by_key(label)
        page.wait(lambda: label not in page.lines(), f"no line of {label}")  # noqa: B023
        page.wait_for_updates(1)
        left.assert_as_it_was()


def test_a_hidden_line_stays_hidden_with_another_period(page: Page) -> None:
    page.open("overlays=SMA")
    page.wait_for_candles()
    hide_average(page)
    page.press_by_key("Chart")
    field = page.wait(lambda: page.driver.find_elements("css selector", ".st-key-sma input"), "its period")[0]
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys("9", Keys.ENTER)
    page.wait(lambda: page.lines().get("SMA") == "SMA 9", "the other period")
    page.wait_for_updates(1)
    assert hidden(page) == ["SMA"]
