"""Candles to a Plotly figure: a pure function, whose result is plain JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from candleflow.dashboard import layout, traces
from candleflow.dashboard.choice import Period
from candleflow.dashboard.looks import Looks
from candleflow.market.stored import StoredCandle
from candleflow.store.forecasts import KeptForecast

Json = dict[str, Any]

PLAIN_LOOKS: Final = Looks()


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

    ``before``: candles before the first that is drawn, which its lines are reckoned from. ``forecasts``: of
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
    reckoned = traces.Reckoned(candles, before, times, price_places)
    return {
        "data": [
            traces.prices(candles, times, bucket_ms, looks.kind),
            traces.volumes(candles, times, bucket_ms),
            *traces.marks(candles, times, bucket_ms),
            *traces.other_prices(reckoned, bucket_ms, looks.kind),
            *traces.overlays(reckoned, looks),
            *traces.panes(reckoned, bucket_ms, looks),
            *ahead,
        ],
        "layout": layout.axes(shown, price_places, looks)
        | layout.notes(candles, bucket_ms, price_places, looks),
        "facts": {"x": times, **_facts(candles)},
    }


def _facts(candles: Sequence[StoredCandle]) -> Json:
    """What is true or false is told in one digit, as it travels with each candle."""
    return {
        "quote_volume": [traces.as_stored(one.quote_volume) for one in candles],
        "taker_buy_volume": [traces.as_stored(one.taker_buy_volume) for one in candles],
        "taker_buy_quote_volume": [traces.as_stored(one.taker_buy_quote_volume) for one in candles],
        "trade_count": [one.trade_count for one in candles],
        "first_trade_id": [one.first_trade_id for one in candles],
        "last_trade_id": [one.last_trade_id for one in candles],
        "is_closed": [int(one.is_closed) for one in candles],
        "is_complete": [int(one.is_complete) for one in candles],
        "revision": [one.revision for one in candles],
        "source": [one.source for one in candles],
    }
