"""Candles to a Plotly figure: a pure function, whose result is plain JSON.

Decimals become floats here and nowhere before: a pixel is coarser than a double. Text and grid colours are
left to the component's style sheet, which takes them from the page's theme, light or dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from candleflow.market.window import SECOND_US, floor_time
from candleflow.screen.choice import Period
from candleflow.screen.source import ShownCandle

# Blue and orange stay apart in all three kinds of colour blindness, where red and green do not (Okabe and
# Ito, "Color Universal Design", 2008). Both have a contrast of 3:1 or more on white and on the dark ground.
RISING: Final = "#1a85d6"
FALLING: Final = "#d9650a"
INCOMPLETE: Final = "#c95cb0"

_FEWEST_BUCKETS: Final = 60
"""The time axis spans at least so many, so that the first candles of a day are not as wide as the page."""
_PANEL_GAP: Final = 0.03
_VOLUME_HEIGHT: Final = 0.2

Json = dict[str, Any]


def figure(candles: Sequence[ShownCandle], bucket_seconds: int, period: Period, price_places: int) -> Json:
    """Candlesticks, volume below, and a mark on each incomplete candle: ``{"data": [...], "layout": {...}}``.

    Times are in milliseconds, Plotly's own unit; a candle stands at its open time, as on any trading chart.
    """
    times = [one.open_time // 1_000 for one in candles]
    bucket_ms = bucket_seconds * 1_000
    return {
        "data": [
            _prices(candles, times, bucket_ms),
            _volumes(candles, times, bucket_ms),
            *_incomplete_marks(candles, times, bucket_ms),
        ],
        "layout": _layout(candles, _time_range(candles, bucket_seconds, period), price_places),
    }


def _prices(candles: Sequence[ShownCandle], times: list[int], bucket_ms: int) -> Json:
    # Plotly makes candles as wide as the least distance of two. A last place without a candle sets that
    # distance where trades are rare, or there is one candle only.
    return {
        "type": "candlestick",
        "name": "price",
        "x": [*times, times[-1] + bucket_ms],
        "open": [*(float(one.open) for one in candles), None],
        "high": [*(float(one.high) for one in candles), None],
        "low": [*(float(one.low) for one in candles), None],
        "close": [*(float(one.close) for one in candles), None],
        "increasing": {"line": {"color": RISING, "width": 1}, "fillcolor": RISING},
        "decreasing": {"line": {"color": FALLING, "width": 1}, "fillcolor": FALLING},
        "hoverinfo": "none",
    }


def _volumes(candles: Sequence[ShownCandle], times: list[int], bucket_ms: int) -> Json:
    return {
        "type": "bar",
        "name": "volume",
        "x": times,
        "y": [float(one.volume) for one in candles],
        "width": bucket_ms * 0.7,
        "yaxis": "y2",
        "marker": {
            # One digit a candle in place of a colour's seven characters.
            "color": [int(one.close >= one.open) for one in candles],
            "colorscale": [[0, FALLING], [1, RISING]],
            "cmin": 0,
            "cmax": 1,
            "opacity": 0.65,
            "line": {"width": 0},
        },
        "hoverinfo": "none",
    }


def _incomplete_marks(candles: Sequence[ShownCandle], times: list[int], bucket_ms: int) -> list[Json]:
    """A band over each incomplete candle, and a cross at its foot that shows however narrow the band is."""
    marked = [time for time, one in zip(times, candles, strict=True) if not one.is_complete]
    band = {
        "type": "bar",
        "name": "incomplete",
        "x": marked,
        "y": [1] * len(marked),
        "width": bucket_ms,
        "yaxis": "y3",
        "marker": {"color": INCOMPLETE, "opacity": 0.18, "line": {"width": 0}},
        "hoverinfo": "skip",
    }
    cross = {
        "type": "scatter",
        "name": "incomplete",
        "mode": "markers",
        "x": marked,
        "y": [0.015] * len(marked),
        "yaxis": "y3",
        "marker": {
            "color": INCOMPLETE,
            "symbol": "x-thin",
            "size": 7,
            "line": {"color": INCOMPLETE, "width": 2},
        },
        "hoverinfo": "skip",
    }
    return [band, cross]


def _time_range(candles: Sequence[ShownCandle], bucket_seconds: int, period: Period) -> list[float]:
    """From the first candle to just past the period's end, in milliseconds."""
    bucket_us = bucket_seconds * SECOND_US
    last = max(floor_time(period.until, bucket_us), candles[-1].open_time)
    first = min(candles[0].open_time, last - _FEWEST_BUCKETS * bucket_us)
    margin = max(bucket_us, (last - first) // 50)
    return [(first - bucket_us / 2) / 1_000, (last + margin) / 1_000]


def _layout(candles: Sequence[ShownCandle], time_range: list[float], price_places: int) -> Json:
    newest = candles[-1]
    colour = RISING if newest.close >= newest.open else FALLING
    floor = _VOLUME_HEIGHT + _PANEL_GAP
    return {
        "autosize": True,
        "margin": {"l": 6, "r": 6, "t": 6, "b": 38},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "hovermode": "x",
        "hoverdistance": -1,
        "spikedistance": -1,
        "bargap": 0,
        "barmode": "overlay",
        "font": {"size": 12},
        "xaxis": {
            "type": "date",
            "range": time_range,
            "anchor": "y2",
            "rangeslider": {"visible": False},
            "showgrid": True,
            "showspikes": True,
            "spikemode": "across",
            "spikesnap": "hovered data",
            "spikethickness": 1,
            "spikedash": "dot",
            "hoverformat": "%Y-%m-%d %H:%M:%S",
        },
        "yaxis": {
            "side": "right",
            "domain": [floor, 1],
            "tickformat": f",.{price_places}f",
            "automargin": True,
            "zeroline": False,
            "showspikes": True,
            "spikemode": "across",
            "spikesnap": "cursor",
            "spikethickness": 1,
            "spikedash": "dot",
        },
        "yaxis2": {
            "side": "right",
            "domain": [0, _VOLUME_HEIGHT],
            "rangemode": "tozero",
            "fixedrange": True,
            "nticks": 3,
            "automargin": True,
            "zeroline": False,
        },
        "yaxis3": {"overlaying": "y", "range": [0, 1], "fixedrange": True, "visible": False},
        "shapes": [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": float(newest.close),
                "y1": float(newest.close),
                "line": {"color": colour, "width": 1, "dash": "dot"},
            }
        ],
        "annotations": [
            {
                "xref": "paper",
                "x": 1,
                "xanchor": "left",
                "y": float(newest.close),
                "yanchor": "middle",
                "text": f"{newest.close:,.{price_places}f}",
                "showarrow": False,
                "bgcolor": colour,
                "borderpad": 2,
                "font": {"color": "#ffffff", "size": 12},
            }
        ],
    }
