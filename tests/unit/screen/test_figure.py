from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from candleflow.market.window import SECOND_US
from candleflow.screen.choice import Period
from candleflow.screen.colours import FALLING, INCOMPLETE, LINES, REPAIRED, RISING
from candleflow.screen.figure import figure
from tests.unit.screen.examples import NOON, ExampleCandle, candle, candles

NOON_MS = NOON // 1_000


def drawn(shown: list[ExampleCandle], until: int = NOON) -> dict[str, Any]:
    return figure(shown, 5, Period(None, until, is_past=False), 2)


def contrast(colour: str, ground: str) -> float:
    """The contrast ratio of WCAG 2.1, 1 to 21."""

    def luminance(hexadecimal: str) -> float:
        channels = [int(hexadecimal[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(colour), luminance(ground)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_a_figure_is_plain_json() -> None:
    assert json.loads(json.dumps(drawn(candles(3)), allow_nan=False)) == drawn(candles(3))


def test_every_candle_is_drawn_at_its_open_time_with_its_prices() -> None:
    prices = drawn([candle(0), candle(1, close=Decimal("99.5"))])["data"][0]
    assert prices["type"] == "candlestick"
    assert prices["x"] == [NOON_MS, NOON_MS + 5_000, NOON_MS + 10_000]  # and the place of the next
    assert prices["close"] == [101.0, 99.5, None]
    assert (prices["open"][0], prices["high"][0], prices["low"][0]) == (100.0, 102.0, 99.0)


def test_volume_is_coloured_by_direction() -> None:
    volumes = drawn([candle(0), candle(1, close=Decimal("99.5")), candle(2, close=Decimal("100"))])["data"][1]
    assert volumes["y"] == [1.5, 1.5, 1.5]
    assert volumes["marker"]["color"] == [1, 0, 1]
    assert volumes["marker"]["colorscale"] == [[0, FALLING], [1, RISING]]


def test_incomplete_candles_and_only_those_are_marked() -> None:
    hatching, cross, repaired = drawn([candle(0), candle(1, is_complete=False), candle(2)])["data"][2:]
    assert hatching["x"] == cross["x"] == [NOON_MS + 5_000]
    assert hatching["width"] == 5_000
    assert hatching["marker"]["pattern"]["shape"] == "/"
    assert repaired["x"] == []


def test_a_lone_candle_is_as_wide_as_its_bucket_and_not_as_the_page() -> None:
    shown = drawn([candle(0)])
    first, last = shown["layout"]["xaxis"]["range"]
    assert last - first >= 60 * 5_000
    assert shown["data"][0]["x"][1] - shown["data"][0]["x"][0] == 5_000


def test_the_time_axis_reaches_past_the_periods_end() -> None:
    end = NOON + 120 * SECOND_US
    _, last = drawn(candles(3), until=end)["layout"]["xaxis"]["range"]
    assert end / 1_000 < last < end / 1_000 + 30_000


@pytest.mark.parametrize(
    ("close", "text", "colour"), [("101.5", "101.50", RISING), ("99.25", "99.25", FALLING)]
)
def test_the_last_price_is_written_on_the_axis_in_its_direction(close: str, text: str, colour: str) -> None:
    layout = drawn([candle(0, close=Decimal(close))])["layout"]
    assert layout["annotations"][0]["text"] == text
    assert layout["annotations"][0]["bgcolor"] == layout["shapes"][0]["line"]["color"] == colour


@pytest.mark.parametrize("colour", [RISING, FALLING, INCOMPLETE, REPAIRED, *LINES.values()])
@pytest.mark.parametrize("ground", ["#ffffff", "#0f131a"])
def test_the_colours_stand_out_on_both_grounds(colour: str, ground: str) -> None:
    assert contrast(colour, ground) >= 3
