"""Axes, panes and annotations of the chart, as Plotly's layout. Pure: plain JSON out.

Colours of text and grid are set by ``assets/chart.css``, from Streamlit's light or dark theme.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

from candleflow.dashboard.choice import Period
from candleflow.dashboard.colours import FALLING, INCOMPLETE, PLAIN, RISING
from candleflow.dashboard.looks import MACD_PERIODS, Looks, Pane
from candleflow.market.stored import StoredCandle
from candleflow.market.window import SECOND_US, floor_time

_FEWEST_BUCKETS: Final = 60
"""Minimum width of the time axis, in candles: otherwise the first candle of all would fill the page."""
_PANEL_GAP: Final = 0.03
_VOLUME_HEIGHT: Final = 0.2
_PANE_HEIGHT: Final = 0.15
_ABOVE_MARKS: Final = 0.04
"""Height that the legend leaves free at the foot of the prices, for the marks of incomplete and repaired
candles."""
_ANY_DISTANCE: Final = 10_000
"""Hover distance in pixels, wider than any screen. Plotly's value for "any", -1, finds no point in 4.1."""
_TOP: Final = 10
"""Top margin in pixels, more than half a label's height. With less, Plotly widens the margin whenever a label
is at an axis's end, so the chart would jump as volumes change."""
_MOST_GAPS: Final = 50
"""Maximum number of gaps that are shaded, the newest: more can't be distinguished on one chart."""

Json = dict[str, Any]


def pane_axis(at: int) -> str:
    """Return the value axis of pane ``at``, from 0. y, y2 and y3 are of prices, volume and marks."""
    return f"y{4 + at}"


def time_range(candles: Sequence[StoredCandle], bucket_seconds: int, period: Period) -> list[float]:
    """Return the time axis's range in milliseconds: from the first candle to just past the period's end."""
    bucket_us = bucket_seconds * SECOND_US
    last = max(floor_time(period.until, bucket_us), candles[-1].open_time)
    first = min(candles[0].open_time, last - _FEWEST_BUCKETS * bucket_us)
    margin = max(bucket_us, (last - first) // 50)
    return [(first - bucket_us / 2) / 1_000, (last + margin) / 1_000]


def axes(shown: list[float], price_places: int, looks: Looks) -> Json:
    below = len(looks.panes) * (_PANE_HEIGHT + _PANEL_GAP)
    volume_top = below + _VOLUME_HEIGHT
    return {
        "autosize": True,
        "margin": {"l": 6, "r": 6, "t": _TOP, "b": 38},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": bool(looks.overlays),
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": round(volume_top + _PANEL_GAP + _ABOVE_MARKS, 4),  # the readout is at the top
            "yanchor": "bottom",
            "bgcolor": "rgba(0,0,0,0)",
            "itemdoubleclick": False,
        },
        "hovermode": "x",
        "hoverdistance": _ANY_DISTANCE,
        "bargap": 0,
        "barmode": "overlay",
        "font": {"size": 12},
        "xaxis": {
            "type": "date",
            "range": shown,
            "anchor": pane_axis(len(looks.panes) - 1) if looks.panes else "y2",
            "rangeslider": {"visible": False},
            "showgrid": True,
            "hoverformat": "%Y-%m-%d %H:%M:%S",
        },
        "yaxis": {
            "side": "right",
            "type": "log" if looks.is_log else "linear",
            "domain": [volume_top + _PANEL_GAP, 1],
            "tickformat": f",.{price_places}f",
            "automargin": True,
            "zeroline": False,
        },
        "yaxis2": _small_axis(below, volume_top) | {"rangemode": "tozero"},
        "yaxis3": {"overlaying": "y", "range": [0, 1], "fixedrange": True, "visible": False},
        **{f"yaxis{4 + at}": _pane_layout(at, pane, looks) for at, pane in enumerate(looks.panes)},
    }


def _small_axis(bottom: float, top: float) -> Json:
    return {
        "side": "right",
        "domain": [round(bottom, 4), round(top, 4)],
        "fixedrange": True,
        "nticks": 3,
        "automargin": True,
        "zeroline": False,
    }


def _pane_bottom(at: int, looks: Looks) -> float:
    """Return the bottom of pane ``at``. The first pane is the highest."""
    return (len(looks.panes) - 1 - at) * (_PANE_HEIGHT + _PANEL_GAP)


def _pane_layout(at: int, pane: Pane, looks: Looks) -> Json:
    bottom = _pane_bottom(at, looks)
    axis = _small_axis(bottom, bottom + _PANE_HEIGHT)
    if pane in (Pane.RSI, Pane.TAKER):
        marks = [30, 70] if pane is Pane.RSI else [25, 50, 75]
        return axis | {"range": [0, 100], "tickvals": marks}
    return axis | ({"rangemode": "tozero"} if pane is Pane.TRADES else {})


def notes(candles: Sequence[StoredCandle], bucket_ms: int, looks: Looks) -> Json:
    """Return the shapes and annotations: the last price's line, the panes' titles, the gaps."""
    newest = candles[-1]
    colour = RISING if newest.close >= newest.open else FALLING
    price = float(newest.close)
    shapes = [
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": price,
            "y1": price,
            "line": {"color": colour, "width": 1, "dash": "dot"},
        }
    ]
    texts = [_pane_title(at, pane, looks) for at, pane in enumerate(looks.panes)]
    for begin, end, missing in _gaps(candles, bucket_ms):
        shapes.append(
            {
                "type": "rect",
                "xref": "x",
                "yref": "paper",
                "x0": begin,
                "x1": end,
                "y0": 0,
                "y1": 1,
                "fillcolor": INCOMPLETE,
                "opacity": 0.14,
                "line": {"width": 0},
                "layer": "below",
            }
        )
        texts.append(
            {
                "x": (begin + end) / 2,
                "yref": "paper",
                "y": 0.9,
                "text": f"{missing:,} missing",
                "textangle": -90,
                "showarrow": False,
                "font": {"color": INCOMPLETE, "size": 12},
            }
        )
    return {"shapes": shapes, "annotations": texts}


def _pane_title(at: int, pane: Pane, looks: Looks) -> Json:
    period = f" {looks.period('RSI')}" if pane is Pane.RSI else ""
    period = " " + "/".join(map(str, MACD_PERIODS)) if pane is Pane.MACD else period
    unit = " %" if pane is Pane.TAKER else ""
    return {
        "xref": "paper",
        "yref": "paper",
        "x": 0,
        "xanchor": "left",
        "y": round(_pane_bottom(at, looks) + _PANE_HEIGHT, 4),
        "yanchor": "top",
        "text": f"{pane}{period}{unit}",
        "showarrow": False,
        "font": {"color": PLAIN, "size": 11},
    }


def _gaps(candles: Sequence[StoredCandle], bucket_ms: int) -> Iterator[tuple[int, int, int]]:
    """Yield the newest gaps of whole candles: begin and end in milliseconds, number of missing trades."""
    found = (
        (before.open_time // 1_000 + bucket_ms, after.open_time // 1_000, missing)
        for before, after in pairwise(candles)
        if (missing := after.first_trade_id - before.last_trade_id - 1) > 0
    )
    wide = [gap for gap in found if gap[1] > gap[0]]
    # A candle is drawn centred on its open time, so shading begins half a candle earlier.
    return (
        (begin - bucket_ms // 2, end - bucket_ms // 2, missing) for begin, end, missing in wide[-_MOST_GAPS:]
    )
