from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candleflow.dashboard.choice import Period
from candleflow.dashboard.colours import FALLING, FORECAST, INCOMPLETE, LINES, REPAIRED, RISING
from candleflow.dashboard.figure import PLAIN_LOOKS, figure
from candleflow.dashboard.looks import Kind, Looks, Overlay, Pane
from candleflow.dashboard.patch import difference
from candleflow.dashboard.traces import as_stored
from candleflow.market.stored import StoredCandle
from candleflow.market.window import SECOND_US
from candleflow.store.forecasts import KeptForecast
from tests.unit.dashboard.examples import NOON, candle, candles

NOON_MS = NOON // 1_000


def drawn(
    shown: list[StoredCandle],
    until: int = NOON,
    looks: Looks = PLAIN_LOOKS,
    before: Sequence[StoredCandle] = (),
    forecasts: Sequence[KeptForecast] | None = None,
) -> dict[str, Any]:
    return figure(shown, 5, Period(None, until, is_past=False), 2, looks, before, forecasts)


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
    assert prices["x"] == [NOON_MS, NOON_MS + 5_000, NOON_MS + 10_000]  # and an empty place for the next
    assert prices["close"] == [101.0, 99.5, None]
    assert (prices["open"][0], prices["high"][0], prices["low"][0]) == (100.0, 102.0, 99.0)


def test_the_crosshair_gets_every_field_of_a_candle_to_the_last_digit() -> None:
    """Values that no double holds are sent as text, as JavaScript's numbers are doubles."""
    long = Decimal("74226072.2557665109185678")
    shown = drawn([candle(0, quote_volume=long, volume=Decimal("9999999999.12345678")), candle(1)])
    facts = shown["facts"]
    assert shown["data"][1]["y"] == ["9999999999.12345678", 1.5]
    assert facts["quote_volume"] == ["74226072.2557665109185678", 151.5]
    assert (facts["taker_buy_volume"][0], facts["taker_buy_quote_volume"][0]) == (0.6, 60.6)
    assert (facts["trade_count"][0], facts["first_trade_id"][0], facts["last_trade_id"][0]) == (10, 0, 9)
    assert (facts["is_closed"][0], facts["is_complete"][0], facts["source"][0]) == (1, 1, "trades")


@given(st.decimals(0, 10**20, allow_nan=False, places=16))
def test_a_value_is_sent_as_a_number_only_if_no_digit_is_lost(value: Decimal) -> None:
    value_sent = as_stored(value)
    assert Decimal(json.loads(json.dumps(value_sent), parse_float=str)) == value


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


@pytest.mark.parametrize(("close", "colour"), [("101.5", RISING), ("99.25", FALLING)])
def test_the_last_price_has_a_line_in_the_colour_of_its_direction(close: str, colour: str) -> None:
    (line,) = drawn([candle(0, close=Decimal(close))])["layout"]["shapes"]
    assert (line["y0"], line["y1"], line["line"]["color"]) == (float(close), float(close), colour)


@pytest.mark.parametrize("colour", [RISING, FALLING, INCOMPLETE, REPAIRED, FORECAST, *LINES.values()])
@pytest.mark.parametrize("ground", ["#ffffff", "#0f131a"])
def test_the_colours_have_enough_contrast_on_both_backgrounds(colour: str, ground: str) -> None:
    assert contrast(colour, ground) >= 3


def test_a_gap_of_whole_candles_is_shaded_with_the_number_of_missing_trades() -> None:
    layout = drawn([candle(0), candle(1), candle(5), candle(6)])["layout"]
    (shaded,) = [one for one in layout["shapes"] if one["type"] == "rect"]
    assert (shaded["x0"], shaded["x1"]) == (NOON_MS + 7_500, NOON_MS + 22_500)
    assert "30 missing" in [one["text"] for one in layout["annotations"]]


def test_a_period_without_trades_is_no_gap() -> None:
    layout = drawn([candle(0), candle(3, first_trade_id=10, last_trade_id=19)])["layout"]
    assert [one["type"] for one in layout["shapes"]] == ["line"]


def test_a_candle_that_changed_after_it_closed_is_marked() -> None:
    marks = {trace["name"]: trace for trace in drawn([candle(0), candle(1, revision=2)])["data"]}
    assert marks["repaired"]["x"] == [NOON_MS + 5_000]


@pytest.mark.parametrize("kind", list(Kind))
def test_the_candles_own_prices_are_in_the_figure_whatever_is_drawn(kind: Kind) -> None:
    found = drawn(candles(3), looks=Looks(kind))
    assert found["data"][0]["close"][:3] == [101.0] * 3
    assert found["data"][0]["visible"] is (kind in (Kind.CANDLES, Kind.BARS))


def test_lines_and_panes_are_there_as_chosen_each_on_an_axis_of_its_own() -> None:
    looks = Looks(overlays=tuple(Overlay), panes=tuple(Pane), periods=(("SMA", 5), ("RSI", 3)))
    found = drawn(candles(60), looks=looks)
    names = [trace["name"] for trace in found["data"]]
    assert {"SMA 5", "EMA 50", "VWAP 20", "Bollinger 20", "RSI", "MACD", "Taker buys", "Trades"} <= set(names)
    axes = {trace["name"]: trace["yaxis"] for trace in found["data"] if "yaxis" in trace}
    assert [axes[name] for name in ("SMA 5", "RSI", "MACD", "Taker buys", "Trades")] == [
        "y", "y4", "y5", "y6", "y7",
    ]  # fmt: skip
    domains = [found["layout"][f"yaxis{number}"]["domain"] for number in ("", 2, 4, 5, 6, 7)]
    assert all(0 <= low < high <= 1 for low, high in domains)
    assert all(lower[1] < upper[0] for upper, lower in pairwise(domains)), "one below the other"


def test_the_uid_of_a_trace_is_valid_in_a_css_selector() -> None:
    shown = drawn(candles(40), looks=Looks(overlays=tuple(Overlay), panes=tuple(Pane)))
    uids = [trace["uid"] for trace in shown["data"]]
    assert len(set(uids)) == len(uids)
    assert all(re.fullmatch(r"[A-Za-z][\w-]*", uid) for uid in uids)


def test_a_line_with_another_period_is_the_same_line() -> None:
    """Plotly remembers hidden lines by uid."""
    usual, others = (
        Looks(overlays=tuple(Overlay)),
        Looks(overlays=tuple(Overlay), periods=tuple((name, 7) for name in Overlay)),
    )
    plain, changed = (drawn(candles(60), looks=looks)["data"] for looks in (usual, others))
    assert [one["uid"] for one in plain] == [one["uid"] for one in changed]
    assert [one["name"] for one in plain] != [one["name"] for one in changed]


def test_lines_begin_with_the_first_candle_where_there_are_enough_before() -> None:
    looks = Looks(overlays=(Overlay.SMA,))
    shown = candles(60)
    line = drawn(shown[30:], looks=looks, before=shown[:30])["data"][-1]
    assert line["y"] == [101.0] * 30
    assert drawn(shown[30:], looks=looks)["data"][-1]["y"][:19] == [None] * 19


def test_on_a_logarithmic_scale_the_price_line_is_at_its_price() -> None:
    layout = drawn(candles(1), looks=Looks(is_log=True))["layout"]
    assert layout["yaxis"]["type"] == "log"
    assert layout["shapes"][0]["y0"] == 101.0


def forecast(at: int, centre: float = 100.0) -> KeptForecast:
    return KeptForecast(
        open_time=NOON + at * 5 * SECOND_US,
        made_at=NOON,
        model="last close",
        forecast=centre,
        lower=centre - 0.5,
        upper=centre + 0.75,
        last_close=Decimal(100),
        actual=None,
    )


def traces_of(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["uid"]: one for one in found["data"]}


def test_without_forecasts_the_figure_is_as_it_was() -> None:
    assert "forecast" not in traces_of(drawn(candles(3)))
    assert drawn(candles(3), forecasts=None) == drawn(candles(3))


def test_the_next_forecast_is_drawn_after_the_last_candle_with_its_interval() -> None:
    found = drawn(candles(3), forecasts=[forecast(2), forecast(3, 101.234)])
    shown = traces_of(found)["forecast"]
    assert shown["x"] == [NOON_MS + 15_000]
    assert shown["y"] == [101.234]
    assert (shown["error_y"]["array"], shown["error_y"]["arrayminus"]) == ([0.75], [0.5])
    assert shown["x"][0] <= found["layout"]["xaxis"]["range"][1] - 5_000
    assert "past-forecast" not in traces_of(found)


def test_a_forecast_is_no_longer_ahead_once_its_candle_exists() -> None:
    """Its trace stays, so that a refresh is a small patch."""
    found = drawn(candles(3), forecasts=[forecast(2)])
    assert traces_of(found)["forecast"]["x"] == []
    assert len(found["data"]) == len(drawn(candles(3), forecasts=[forecast(3)])["data"])


def test_past_forecasts_are_drawn_on_demand_with_their_intervals() -> None:
    looks = Looks(past_forecasts=True)
    found = traces_of(drawn(candles(3), looks=looks, forecasts=[forecast(1), forecast(2, 101), forecast(3)]))
    assert found["past-forecast"]["x"] == [NOON_MS + 5_000, NOON_MS + 10_000]
    assert found["past-forecast"]["y"] == [100.0, 101]
    assert found["past-lower"]["y"] == [99.5, 100.5]
    assert found["past-upper"]["y"] == [100.75, 101.75]
    assert found["past-forecast"]["line"]["dash"] == "dot"
    assert found["forecast"]["x"] == [NOON_MS + 15_000]


def test_a_figure_with_forecasts_is_plain_json() -> None:
    found = drawn(candles(3), looks=Looks(past_forecasts=True), forecasts=[forecast(2), forecast(3)])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_new_forecast_is_a_small_part_of_a_refresh() -> None:
    """With 300 past forecasts on the chart, only the new one is sent."""
    shown, looks = candles(301), Looks(past_forecasts=True)
    made = [forecast(at, 100 + at % 7 / 10) for at in range(303)]
    plain = difference(drawn(shown[:300]), drawn(shown[1:]))
    before = drawn(shown[:300], looks=looks, forecasts=made[:301])
    after = drawn(shown[1:], looks=looks, forecasts=made[1:302])
    more = len(json.dumps(difference(before, after))) - len(json.dumps(plain))
    assert more < 700
