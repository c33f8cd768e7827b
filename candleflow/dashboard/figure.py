"""Candles to a Plotly figure: a pure function, whose result is plain JSON."""

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
"""What the crosshair tells beside prices and volume; true or false in one digit, as it travels so often."""


def figure(
    candles: Sequence[StoredCandle],
    bucket_seconds: int,
    period: Period,
    price_places: int,
    looks: Looks = PLAIN_LOOKS,
    before: Sequence[StoredCandle] = (),
    forecasts: Sequence[KeptForecast] | None = None,
) -> Json:
    """Prices, volume below, panes below that; ``{"data": [...], "layout": {...}, "facts": {...}}``.

    ``before``: candles before the first that is drawn, which its lines are derived from. ``forecasts``: of
    the candles drawn and of the next; None where there are none to be had. ``data`` begins with the candles'
    own prices, drawn or not, and the volumes; ``facts`` has what else the crosshair tells.
    Times are in milliseconds, Plotly's own unit; a candle stands at its open time, as on any trading chart.
    """
    times = [one.open_time // 1_000 for one in candles]
    bucket_ms = bucket_seconds * 1_000
    shown = layout.time_range(candles, bucket_seconds, period)
    ahead = []
    if forecasts is not None:
        shown[1] = max(shown[1], times[-1] + 2 * bucket_ms)  # with room for the next one, there or not
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
        "layout": layout.axes(shown, price_places, looks)
        | layout.notes(candles, bucket_ms, price_places, looks),
        "facts": {"x": times, **_facts(candles)},
    }


def _facts(candles: Sequence[StoredCandle]) -> Json:
    return {name: [told(getattr(one, name)) for one in candles] for name, told in _FACTS.items()}
