"""Candles to a Plotly figure: a pure function that returns plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from candleflow.dashboard import layout, traces
from candleflow.dashboard.choice import Period
from candleflow.dashboard.looks import Looks
from candleflow.market.stored import StoredCandle
from candleflow.store.forecasts import KeptForecast

Json = dict[str, Any]

PLAIN_LOOKS: Final = Looks()

_FACTS: Final[dict[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(("quote_volume", "taker_buy_volume", "taker_buy_quote_volume"), traces.as_stored),
    **dict.fromkeys(
        ("trade_count", "first_trade_id", "last_trade_id", "is_closed", "is_complete", "revision"), int
    ),
    "source": str,
}
"""Fields that the crosshair's readout shows besides prices and volume, and how each is converted for JSON.
Booleans become 0 or 1, to keep messages small."""


def figure(
    candles: Sequence[StoredCandle],
    bucket_seconds: int,
    period: Period,
    price_places: int,
    looks: Looks = PLAIN_LOOKS,
    before: Sequence[StoredCandle] = (),
    forecasts: Sequence[KeptForecast] | None = None,
) -> Json:
    """Return ``{"data": [...], "layout": {...}, "facts": {...}}``: prices, volume below, then the panes.

    ``before``: candles before the first one drawn, to warm up the indicators. ``forecasts``: of the candles
    drawn and the next one; None if forecasts are not drawn. ``data`` begins with the candles' own prices,
    visible or not, then the volumes. ``facts`` has the other fields of the crosshair's readout.
    Times are in milliseconds, Plotly's unit. A candle's time is its open time, as on any trading chart.
    """
    times = [one.open_time // 1_000 for one in candles]
    bucket_ms = bucket_seconds * 1_000
    shown = layout.time_range(candles, bucket_seconds, period)
    ahead = []
    if forecasts is not None:
        shown[1] = max(shown[1], times[-1] + 2 * bucket_ms)  # room for the next candle's forecast
        last, with_past = candles[-1].open_time, looks.past_forecasts
        ahead = list(traces.forecasts(forecasts, last, price_places, with_past=with_past))
    derived = traces.Derived(candles, before, times, price_places)
    return {
        "data": [
            traces.prices(candles, times, bucket_ms, looks.kind),
            traces.volumes(candles, times, bucket_ms),
            *traces.marks(candles, times, bucket_ms),
            *traces.other_prices(derived, bucket_ms, looks.kind),
            *traces.overlays(derived, looks),
            *traces.panes(derived, bucket_ms, looks),
            *ahead,
        ],
        "layout": layout.axes(shown, price_places, looks) | layout.notes(candles, bucket_ms, looks),
        "facts": {"x": times, **_facts(candles)},
    }


def _facts(candles: Sequence[StoredCandle]) -> Json:
    return {name: [convert(getattr(one, name)) for one in candles] for name, convert in _FACTS.items()}
