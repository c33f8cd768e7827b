"""Parts of queries that several stores share, and times as PostgreSQL has them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def as_time(at: int) -> datetime:
    """Microseconds since the epoch as PostgreSQL's ``timestamptz``."""
    return _EPOCH + timedelta(microseconds=at)


def microseconds(timestamp: str) -> str:
    """SQL for a ``timestamptz`` as microseconds since the epoch."""
    return f"(extract(epoch FROM {timestamp}) * 1000000)::bigint"


# In a CASE, of which the planner expects that half the rows pass. Of a bare equation it expects one in 200,
# and would rather read the whole table than walk the index until the limit is reached.
TILES_TIME: Final = """
    CASE WHEN date_bin(make_interval(secs => %(seconds)s), open_time, timestamptz '1970-01-01 00:00Z')
        = open_time THEN true ELSE false END
"""
"""Of sliding windows, whether a candle is one of those that cover each time once; ``seconds``: their size."""

CANDLE_COLUMNS: Final = f"""
    {microseconds("open_time")}, open, high, low, close, volume, quote_volume,
        taker_buy_volume, taker_buy_quote_volume, trade_count, first_trade_id, last_trade_id, is_closed,
        is_complete, revision, source, {microseconds("updated_at")}
"""
"""Of the table ``candles``, in the order of StoredCandle's fields from ``open_time`` on."""

CAUGHT_UP: Final = f"""
    SELECT {microseconds("caught_up_at")} FROM topics
    WHERE topic = %(topic)s AND caught_up_at IS NOT NULL
"""  # nosec B608 # noqa: S608 - constants of this module
"""When the processor last said that it had read the whole topic."""
