"""Fill the table of candles, so that a benchmark can run on a database with history."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from typing import Final

import psycopg2

from bench.topic import WINDOWS
from candleflow.market.window import ROLL_UPS, SECOND_US

# For each interval, closed candles up to `until`, oldest first. The intervals come from the schema's
# roll_ups(). Trade ids begin at 1, so they can't be adjacent to those of later trades.
_FILL: Final = """
    INSERT INTO candles (symbol, interval, open_time, end_time, open, high, low, close, volume, quote_volume,
        taker_buy_volume, taker_buy_quote_volume, trade_count, first_trade_id, last_trade_id, trade_ids,
        is_closed, is_complete, updated_at)
    SELECT s.symbol, i.name, w.opens, w.opens + i.size, 1, 1, 1, 1, 1, 1, 0, 0, 1, n, n,
        int8multirange(int8range(n, n + 1)), true, true, w.opens + i.size
    FROM unnest(%(symbols)s) s(symbol)
        CROSS JOIN LATERAL (
            SELECT r.name, %(span_us)s / r.size_us AS windows, r.size_us * interval '1 microsecond' AS size
            FROM (SELECT %(finest)s AS name, %(finest_us)s AS size_us UNION ALL SELECT * FROM roll_ups()) r
        ) i
        CROSS JOIN LATERAL generate_series(1, i.windows) n
        CROSS JOIN LATERAL (SELECT %(until)s - (i.windows + 1 - n) * i.size AS opens) w
"""


def span_us(rows: int, symbols: int) -> int:
    """Return the microseconds of history in which ``symbols`` symbols have about ``rows`` candles.

    The candles of all intervals count. There are at most ``rows``; the difference is less than one candle for
    each symbol and interval.
    """
    sizes = (WINDOWS.size_us, *(seconds * SECOND_US for seconds in ROLL_UPS.values()))
    return int(rows / symbols / sum(1 / size for size in sizes))


def fill(url: str, rows: int, symbols: Sequence[str], until: datetime) -> int:
    """Insert about ``rows`` candles, the last of which end at ``until``; return their number.

    ``until`` is the beginning of a day, so that a candle of each interval can end there. ``url`` is a
    superuser's, because the table is vacuumed and analyzed and a checkpoint is done. So the next measurement
    doesn't include that work.
    """
    arguments = {
        "symbols": list(symbols),
        "span_us": span_us(rows, len(symbols)),
        "finest": WINDOWS.interval,
        "finest_us": WINDOWS.size_us,
        "until": until,
    }
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(_FILL, arguments)
        stored: int = cursor.rowcount
        cursor.execute("VACUUM (ANALYZE) candles")
        cursor.execute("CHECKPOINT")
    return stored
