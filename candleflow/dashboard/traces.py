"""Candles, indicators, marks and forecasts as Plotly traces. Pure: plain JSON out.

Exact decimals become doubles only here: a double is precise enough for drawing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import cached_property
from typing import Any, Final

import pandas as pd

from candleflow.dashboard import indicators
from candleflow.dashboard.colours import (
    FALLING,
    FORECAST,
    FORECAST_GROUND,
    INCOMPLETE,
    INCOMPLETE_GROUND,
    LINES,
    PLAIN,
    REPAIRED,
    RISING,
)
from candleflow.dashboard.layout import pane_axis
from candleflow.dashboard.looks import MACD_PERIODS, Kind, Looks, Overlay, Pane
from candleflow.market.stored import StoredCandle
from candleflow.store.forecasts import KeptForecast

_PANE_PLACES: Final = 2
_SURE_LETTERS: Final = sys.float_info.dig
"""Any number of up to this many digits (15) survives the conversion to a double and back."""

Json = dict[str, Any]

_SILENT: Final[Json] = {"hoverinfo": "skip", "showlegend": False}
"""Options of a trace that has no hover label and no legend entry."""


def as_stored(value: Decimal) -> float | str:
    """Return ``value`` as a number if a double holds all its digits, else as text, which Plotly reads too."""
    text = str(value)
    number = float(text)
    if len(text) <= _SURE_LETTERS or Decimal(repr(number)) == value:
        return number
    return f"{value:f}"


def _uid(name: str) -> str:
    """Return an id without spaces: Plotly uses it in a CSS selector when it removes the trace."""
    return name.replace(" ", "-")


def prices(candles: Sequence[StoredCandle], times: list[int], bucket_ms: int, kind: Kind) -> Json:
    """Return the trace of the candles' own prices; invisible if the viewer chose another kind."""
    # Plotly makes candles as wide as the smallest distance between two. An empty last element sets that
    # distance if trades are rare, or if there is only one candle.
    return {
        "type": "ohlc" if kind is Kind.BARS else "candlestick",
        "uid": "price",
        "name": "price",
        "visible": kind in (Kind.CANDLES, Kind.BARS),
        "x": [*times, times[-1] + bucket_ms],
        "open": [*(as_stored(one.open) for one in candles), None],
        "high": [*(as_stored(one.high) for one in candles), None],
        "low": [*(as_stored(one.low) for one in candles), None],
        "close": [*(as_stored(one.close) for one in candles), None],
        **_directions(kind),
    }


def _directions(kind: Kind) -> Json:
    rising, falling = (_direction(kind, colour) for colour in (RISING, FALLING))
    return {"increasing": rising, "decreasing": falling, "hoverinfo": "none", "showlegend": False}


def _direction(kind: Kind, colour: str) -> Json:
    if kind is Kind.BARS:
        return {"line": {"color": colour, "width": 1.5}}
    return {"line": {"color": colour, "width": 1}, "fillcolor": colour}


def volumes(candles: Sequence[StoredCandle], times: list[int], bucket_ms: int) -> Json:
    # A colour scale: one digit a candle instead of a colour's seven characters.
    directions = [int(one.close >= one.open) for one in candles]
    coloured = {"color": directions, "colorscale": [[0, FALLING], [1, RISING]], "cmin": 0, "cmax": 1}
    amounts = [as_stored(one.volume) for one in candles]
    return _bars("volume", times, amounts, bucket_ms, "y2", coloured) | {"hoverinfo": "none"}


class Derived:
    """Values derived from the candles, cut to the candles drawn, and rounded for Plotly."""

    def __init__(
        self,
        candles: Sequence[StoredCandle],
        before: Sequence[StoredCandle],
        times: list[int],
        price_places: int,
    ) -> None:
        self._candles = [*before, *candles]
        self.times = times
        self.price_places = price_places + 1

    @cached_property
    def all(self) -> pd.DataFrame:
        """The candles' table, made at first use."""
        return indicators.table(self._candles)

    def points(self, values: pd.Series, places: int | None = None) -> list[float | None]:
        digits = self.price_places if places is None else places
        drawn = values.iloc[-len(self.times) :]
        return [None if math.isnan(one) else round(one, digits) for one in drawn]

    def line(
        self,
        name: str,
        values: pd.Series,
        colour: str,
        *,
        axis: str = "y",
        places: int | None = None,
        period: int | None = None,
    ) -> Json:
        """Return a line's trace. ``period`` is in its name, not in its uid: a line that the viewer has hidden
        in the legend stays hidden when its period changes."""
        return {
            "type": "scatter",
            "mode": "lines",
            "uid": _uid(name),
            "name": name if period is None else f"{name} {period}",
            "x": self.times,
            "y": self.points(values, places),
            "yaxis": axis,
            "line": {"color": colour, "width": 1.5},
            "hoverinfo": "skip",
            "showlegend": axis == "y",
        }


def other_prices(derived: Derived, bucket_ms: int, kind: Kind) -> Iterator[Json]:
    """Yield the trace of prices drawn as a line or as Heikin-Ashi."""
    if kind is Kind.LINE:
        closes = derived.line("close", derived.all["close"], RISING)
        yield closes | {"line": {"color": RISING, "width": 2}, "hoverinfo": "none", "showlegend": False}
    elif kind is Kind.HEIKIN_ASHI:
        averaged = indicators.heikin_ashi(derived.all)
        yield {
            "type": "candlestick",
            "uid": "heikin-ashi",
            "name": "Heikin-Ashi",
            "x": [*derived.times, derived.times[-1] + bucket_ms],
            **{name: [*derived.points(averaged[name]), None] for name in averaged.columns},
            **_directions(kind),
        }


def overlays(derived: Derived, looks: Looks) -> Iterator[Json]:
    for overlay in looks.overlays:
        closes = derived.all["close"]
        period, colour = looks.period(overlay), LINES[overlay]
        if overlay is Overlay.SMA:
            yield derived.line(overlay, indicators.sma(closes, period), colour, period=period)
        elif overlay is Overlay.EMA:
            yield derived.line(overlay, indicators.ema(closes, period), colour, period=period)
        elif overlay is Overlay.VWAP:
            yield derived.line(overlay, indicators.vwap(derived.all, period), colour, period=period)
        else:
            bands = indicators.bollinger(closes, period)
            yield derived.line(overlay, bands.middle, colour, period=period) | {"legendgroup": overlay}
            for edge in ("upper", "lower"):
                band = derived.line(f"{overlay} {edge}", getattr(bands, edge), colour)
                band |= {"line": {"color": colour, "width": 1, "dash": "dot"}, "showlegend": False}
                yield band | {"legendgroup": overlay}


def panes(derived: Derived, bucket_ms: int, looks: Looks) -> Iterator[Json]:
    for at, pane in enumerate(looks.panes):
        axis = pane_axis(at)
        if pane is Pane.RSI:
            values = indicators.rsi(derived.all["close"], looks.period("RSI"))
            yield derived.line("RSI", values, LINES[Overlay.VWAP], axis=axis, places=_PANE_PLACES)
        elif pane is Pane.MACD:
            found = indicators.macd(derived.all["close"], *MACD_PERIODS)
            histogram = derived.points(found.histogram)
            yield _bars("MACD histogram", derived.times, histogram, bucket_ms, axis)
            yield derived.line("MACD", found.line, RISING, axis=axis)
            yield derived.line("MACD signal", found.signal, FALLING, axis=axis)
        elif pane is Pane.TAKER:
            values = indicators.taker_share(derived.all)
            yield derived.line("Taker buys", values, LINES[Overlay.EMA], axis=axis, places=_PANE_PLACES)
        else:
            counts = derived.points(derived.all["trade_count"], 0)
            yield _bars("Trades", derived.times, counts, bucket_ms, axis)


def _bars(
    name: str, times: list[int], values: Sequence[Any], bucket_ms: int, axis: str, colour: Json | None = None
) -> Json:
    return {
        "type": "bar",
        "uid": _uid(name),
        "name": name,
        "x": times,
        "y": values,
        "width": bucket_ms * 0.7,
        "yaxis": axis,
        "marker": (colour or {"color": PLAIN}) | {"opacity": 0.65, "line": {"width": 0}},
        **_SILENT,
    }


def marks(candles: Sequence[StoredCandle], times: list[int], bucket_ms: int) -> list[Json]:
    """Return the traces of marks: hatching over each incomplete candle, a cross at its foot (visible however
    narrow the candle is), and a diamond at the foot of each candle that changed after it had closed."""
    incomplete = [time for time, one in zip(times, candles, strict=True) if not one.is_complete]
    repaired = [time for time, one in zip(times, candles, strict=True) if one.revision]
    hatching = {
        "type": "bar",
        "uid": "incomplete",
        "name": "incomplete",
        "x": incomplete,
        "y": [1] * len(incomplete),
        "width": bucket_ms,
        "yaxis": "y3",
        "marker": {
            "color": INCOMPLETE_GROUND,
            "line": {"width": 0},
            "pattern": {"shape": "/", "fgcolor": INCOMPLETE, "fgopacity": 0.7, "size": 7, "solidity": 0.15},
        },
        **_SILENT,
    }
    cross = _points("incomplete foot", incomplete, 0.015, INCOMPLETE, "x-thin")
    return [hatching, cross, _points("repaired", repaired, 0.04, REPAIRED, "diamond")]


def _points(name: str, times: list[int], height: float, colour: str, symbol: str) -> Json:
    return {
        "type": "scatter",
        "uid": _uid(name),
        "name": name,
        "mode": "markers",
        "x": times,
        "y": [height] * len(times),
        "yaxis": "y3",
        "marker": {"color": colour, "symbol": symbol, "size": 7, "line": {"color": colour, "width": 2}},
        **_SILENT,
    }


def forecasts(
    found: Sequence[KeptForecast], last: int, price_places: int, *, with_past: bool
) -> Iterator[Json]:
    """Yield the traces of forecasts: of the candle after ``last`` (an open time), and of earlier ones.

    The next candle's trace exists even without a forecast: adding or removing a trace would make a refresh
    send the whole figure.
    """
    digits = price_places + 1
    if with_past:
        yield from _past([one for one in found if one.open_time <= last], digits)
    ahead = [one for one in found if one.open_time > last][-1:]
    yield {
        "type": "scatter",
        "mode": "markers",
        "uid": "forecast",
        "name": "forecast",
        "x": [one.open_time // 1_000 for one in ahead],
        "y": [round(one.forecast, digits) for one in ahead],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [round(one.upper - one.forecast, digits) for one in ahead],
            "arrayminus": [round(one.forecast - one.lower, digits) for one in ahead],
            "color": FORECAST,
            "thickness": 1.5,
            "width": 5,
        },
        "marker": {"color": FORECAST, "symbol": "diamond-open", "size": 8, "line": {"width": 1.5}},
        **_SILENT,
    }


def _past(found: Sequence[KeptForecast], digits: int) -> Iterator[Json]:
    """Yield the past forecasts as a dotted line over a band of their intervals."""
    times = [one.open_time // 1_000 for one in found]
    for name, width in (("lower", 0), ("upper", 0), ("forecast", 1.5)):
        ground = {"fill": "tonexty", "fillcolor": FORECAST_GROUND} if name == "upper" else {}
        yield {
            "type": "scatter",
            "mode": "lines",
            "uid": f"past-{name}",
            "name": f"past {name}",
            "x": times,
            "y": [round(getattr(one, name), digits) for one in found],
            "line": {"color": FORECAST, "width": width, "dash": "dot"},
            **_SILENT,
        } | ground
