"""SQL fragments that several stores share, and conversion of times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def as_time(at: int) -> datetime:
    """Convert microseconds since the epoch to a datetime, which psycopg2 passes as ``timestamptz``."""
    return _EPOCH + timedelta(microseconds=at)


def microseconds(timestamp: str) -> str:
    """Return SQL that converts a ``timestamptz`` to microseconds since the epoch."""
    return f"(extract(epoch FROM {timestamp}) * 1000000)::bigint"


# A CASE, because the planner then expects half of the rows to pass. For a plain equation it expects one in
# 200, and reads the whole table instead of walking the index until the limit is reached.
TILES_TIME: Final = """
    CASE WHEN date_bin(make_interval(secs => %(seconds)s), open_time, timestamptz '1970-01-01 00:00Z')
        = open_time THEN true ELSE false END
"""
"""Whether a candle is one of the sliding windows that don't overlap. ``seconds`` is the window size."""

CANDLE_COLUMNS: Final = f"""
    {microseconds("open_time")}, open, high, low, close, volume, quote_volume,
        taker_buy_volume, taker_buy_quote_volume, trade_count, first_trade_id, last_trade_id, is_closed,
        is_complete, revision, source, {microseconds("updated_at")}
"""
"""Columns of ``candles``, in the order of StoredCandle's fields from ``open_time`` on."""

CAUGHT_UP: Final = f"""
    SELECT {microseconds("caught_up_at")} FROM topics
    WHERE topic = %(topic)s AND caught_up_at IS NOT NULL
"""  # nosec B608 # noqa: S608 - constants of this module
"""When the processor last had merged the whole topic."""
