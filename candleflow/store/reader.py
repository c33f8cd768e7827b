"""Read candles for the dashboard, of any bucket size that a stored interval divides.

A stored interval is read directly. Another bucket (15 s, 30 s) is aggregated in SQL from the coarsest stored
interval that divides it, by the same rules as every candle. Of sliding windows, only those that don't overlap
count. Times are microseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Self

from candleflow.errors import MarketError
from candleflow.market.stored import DayOfSymbol, OpenGap, OpenGaps, StoredCandle, SymbolState
from candleflow.market.window import ROLL_UPS, SECOND_US, Windows
from candleflow.settings import Settings
from candleflow.store import credentials
from candleflow.store.credentials import Dsn, Role
from candleflow.store.pool import Pool
from candleflow.store.sql import CANDLE_COLUMNS, CAUGHT_UP, TILES_TIME, as_time, microseconds

CONNECTIONS: Final = 4
"""Enough for twenty viewers: a query takes a few milliseconds."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """A stored interval that a bucket is read from; ``parts`` of its candles make one bucket."""

    interval: str
    seconds: int
    parts: int


class CandleReader:
    """Reads candles as the reader role; thread-safe. Methods raise StoreError if PostgreSQL is away."""

    def __init__(self, dsn: Dsn, windows: Windows, *, connections: int = CONNECTIONS) -> None:
        self._pool = Pool(dsn, connections)
        self._windows = windows

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Create the reader for the database in ``settings``; opens no connection yet."""
        return cls(credentials.dsn(settings, Role.READER), settings.windows)

    def has_bucket(self, bucket_seconds: int) -> bool:
        """Return whether a stored interval divides the bucket."""
        try:
            self._stored_for(bucket_seconds)
        except MarketError:
            return False
        return True

    def candles(self, symbol: str, bucket_seconds: int, since: int | None, limit: int) -> list[StoredCandle]:
        """Return the newest ``limit`` candles that open at ``since`` or later (None: no limit), oldest first.

        Quiet windows are filled in by ``with_quiet``. Raises MarketError for a bucket that no stored interval
        divides.
        """
        stored = self._stored_for(bucket_seconds)
        name = stored.interval if stored.parts == 1 else f"{bucket_seconds}s"
        rows = self._rows(*self._question(symbol, bucket_seconds, since, limit))
        candles = [StoredCandle(symbol, name, *row) for row in reversed(rows)]
        return with_quiet(candles, bucket_seconds * SECOND_US, limit)

    def open_gaps(
        self, symbol: str, bucket_seconds: int, since: int | None, limit: int, newest: int
    ) -> OpenGaps:
        """Return the gaps in the trade ids of the candles that ``candles`` returns for the same arguments.

        The totals count all gaps; only the ``newest`` are listed. Raises MarketError as ``candles`` does.
        """
        parts, arguments = self._parts(symbol, bucket_seconds, since, limit)
        rows = self._rows(_OPEN_GAPS.format(parts=parts), arguments | {"newest": newest})
        if not rows:
            return OpenGaps(0, 0, ())
        count, trades = rows[0][:2]
        return OpenGaps(int(count), int(trades), tuple(OpenGap(*map(int, row[2:])) for row in rows))

    def within(self, symbol: str, interval: str, since: int, until: int) -> list[StoredCandle]:
        """Return the candles of a stored interval that open in [since, until), and the next one, oldest
        first.

        The next one shows whether trade ids are missing at the end.
        """
        rows = self._rows(
            _WITHIN,
            {
                "symbol": symbol,
                "interval": interval,
                "since": as_time(since),
                "until": as_time(until),
            },
        )
        return [StoredCandle(symbol, interval, *row) for row in sorted(rows)]

    def first_open_time(self, symbol: str, interval: str) -> int | None:
        """Return the open time of the symbol's first candle of a stored interval, None if it has none."""
        rows = self._rows(_FIRST, {"symbol": symbol, "interval": interval})
        return int(rows[0][0]) if rows else None

    def id_ranges(self, symbol: str, since: int, until: int) -> list[tuple[int, int]]:
        """Return the trade ids in the finest candles that open at ``since`` or later and end by ``until``.

        The result is ordered ranges ``[lower, upper)``, nearly always one.
        """
        rows = self._rows(
            _ID_RANGES,
            {
                "symbol": symbol,
                "interval": self._windows.interval,
                "since": as_time(since),
                "until": as_time(until),
            },
        )
        return [(int(lower), int(upper)) for lower, upper in rows]

    def caught_up_at(self, topic: str) -> int | None:
        """Return when the processor last had merged the whole topic; None if it never had."""
        rows = self._rows(CAUGHT_UP, {"topic": topic})
        return int(rows[0][0]) if rows else None

    def symbols(self) -> list[SymbolState]:
        """Return every symbol that has had a trade, ordered by name."""
        return [SymbolState(*row) for row in self._rows(_SYMBOLS, {})]

    def days(self) -> list[DayOfSymbol]:
        """Return the last 24 hours of each symbol, ordered by name: at most 96 candles of 15 minutes each."""
        return [
            DayOfSymbol(symbol, tuple(open_times), tuple(closes), first_open)
            for symbol, open_times, closes, first_open in self._rows(_DAYS, {})
        ]

    def counts(self) -> dict[str, int]:
        """Return the number of records by outcome, such as ``merged`` or ``rejected: not JSON``."""
        return {outcome: int(records) for outcome, records in self._rows(_COUNTS, {})}

    def close(self) -> None:
        """Close the idle connections; the object stays usable."""
        self._pool.drop_idle()

    def _rows(self, query: str, arguments: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        return self._pool.rows(query, arguments, may_repeat=True)

    def _question(
        self, symbol: str, bucket_seconds: int, since: int | None, limit: int
    ) -> tuple[str, dict[str, Any]]:
        """Return the query for a bucket's candles, and its arguments."""
        parts, arguments = self._parts(symbol, bucket_seconds, since, limit)
        is_stored = self._stored_for(bucket_seconds).parts == 1
        return (_STORED_CANDLES if is_stored else _FOLDED_CANDLES).format(parts=parts), arguments

    def _parts(
        self, symbol: str, bucket_seconds: int, since: int | None, limit: int
    ) -> tuple[str, dict[str, Any]]:
        """Return the query for the stored candles that make up a bucket, and its arguments."""
        stored = self._stored_for(bucket_seconds)
        bucket_us = bucket_seconds * SECOND_US
        opens_from = None if since is None else -(-since // bucket_us) * bucket_us
        tiles = stored.interval != self._windows.interval or self._windows.is_tumbling
        return _PARTS.format(condition="" if tiles else f"AND {TILES_TIME}"), {
            "symbol": symbol,
            "interval": stored.interval,
            "seconds": stored.seconds,
            "bucket_seconds": bucket_seconds,
            "opens_from": "-infinity" if opens_from is None else as_time(opens_from),
            "limit": limit,
            "part_limit": limit * stored.parts,
        }

    def _stored_for(self, bucket_seconds: int) -> _Stored:
        """Return the coarsest stored interval that divides the bucket."""
        finest = self._windows.size_us // SECOND_US
        stored = {self._windows.interval: finest} | {
            name: seconds for name, seconds in ROLL_UPS.items() if seconds > finest
        }
        fitting = [(seconds, name) for name, seconds in stored.items() if bucket_seconds % seconds == 0]
        if bucket_seconds < 1 or not fitting:
            raise MarketError(f"candles of {bucket_seconds} s can't be made of {self._windows.interval} ones")
        seconds, name = max(fitting)
        return _Stored(name, seconds, bucket_seconds // seconds)


def with_quiet(candles: Sequence[StoredCandle], size_us: int, limit: int) -> list[StoredCandle]:
    """Fill quiet windows between the candles with flat candles; return the newest ``limit``, oldest first.

    Like Binance's klines without trades, a flat candle has the previous close. A window is quiet only if the
    trade ids continue across it without a gap; where ids are missing, nothing is filled in.
    """
    filled: list[StoredCandle] = []
    for before in reversed(candles):
        after = filled[-1] if filled else before
        opens = range(after.open_time - size_us, before.open_time, -size_us)
        if opens and after.first_trade_id == before.last_trade_id + 1:
            filled += [_quiet(before, after, at) for at in opens[: max(0, limit - len(filled))]]
        filled.append(before)
    return filled[:limit][::-1]


def _quiet(before: StoredCandle, after: StoredCandle, open_time: int) -> StoredCandle:
    nothing = Decimal(0)
    return before._replace(
        open_time=open_time,
        open=before.close,
        high=before.close,
        low=before.close,
        volume=nothing,
        quote_volume=nothing,
        taker_buy_volume=nothing,
        taker_buy_quote_volume=nothing,
        trade_count=0,
        first_trade_id=before.last_trade_id + 1,
        is_closed=True,
        is_complete=True,
        revision=0,
        source="quiet",
        updated_at=after.updated_at,
    )


_PARTS: Final = """
    SELECT * FROM candles
    WHERE symbol = %(symbol)s AND interval = %(interval)s AND open_time >= %(opens_from)s::timestamptz
        {condition}
    ORDER BY open_time DESC LIMIT %(part_limit)s
"""

_STORED_CANDLES: Final = f"SELECT {CANDLE_COLUMNS} FROM ({{parts}}) part"  # nosec B608 # noqa: S608 - constants of this module

# A gap lies between one range of ids and the next.
_OPEN_GAPS: Final = f"""
    WITH part AS MATERIALIZED (
        SELECT *, coalesce(trade_ids, held_ids(ROW(stored.*)::candles)) AS held FROM ({{parts}}) stored
    ),
    range AS (SELECT unnest(range_agg(held)) AS ids FROM part),
    hole AS (
        SELECT upper(ids) AS first_id, lead(lower(ids)) OVER (ORDER BY ids) AS held_again FROM range
    ),
    newest AS (
        SELECT count(*) OVER () AS holes, sum(held_again - first_id) OVER () AS trades, first_id, held_again
        FROM hole WHERE held_again IS NOT NULL ORDER BY first_id DESC LIMIT %(newest)s
    )
    SELECT holes, trades, first_id, held_again - 1,
        (SELECT {microseconds("max(open_time)")} FROM part WHERE held @> first_id - 1),
        (SELECT {microseconds("min(end_time)")} FROM part WHERE held @> held_again)
    FROM newest ORDER BY first_id DESC
"""  # nosec B608 # noqa: S608 - constants of this module

_OF_INTERVAL: Final = "FROM candles WHERE symbol = %(symbol)s AND interval = %(interval)s"
_WITHIN: Final = f"""
    (SELECT {CANDLE_COLUMNS} {_OF_INTERVAL} AND open_time >= %(since)s AND open_time < %(until)s)
    UNION ALL
    (SELECT {CANDLE_COLUMNS} {_OF_INTERVAL} AND open_time >= %(until)s ORDER BY open_time LIMIT 1)
"""
_FIRST: Final = f"SELECT {microseconds('open_time')} {_OF_INTERVAL} ORDER BY open_time LIMIT 1"

_ID_RANGES: Final = """
    SELECT lower(ids), upper(ids) FROM (
        SELECT unnest(range_agg(held_ids(candles))) AS ids FROM candles
        WHERE symbol = %(symbol)s AND interval = %(interval)s AND open_time >= %(since)s
            AND end_time <= %(until)s
    ) range ORDER BY 1
"""

# The newest limit * parts stored candles contain every part of the newest limit buckets: what LIMIT cuts off
# belongs to older buckets. min() and max() over (id, price) pairs select open and close: for 12,000 parts
# that took 25 ms, sorted arrays 31 ms.
_FOLDED_CANDLES: Final = f"""
    WITH part AS (
        SELECT *, date_bin(make_interval(secs => %(bucket_seconds)s), open_time,
            timestamptz '1970-01-01 00:00Z') AS opens
        FROM ({{parts}}) newest
    )
    SELECT {microseconds("opens")},
        (min(ARRAY[first_trade_id, open]))[2], max(high), min(low), (max(ARRAY[last_trade_id, close]))[2],
        sum(volume), sum(quote_volume), sum(taker_buy_volume), sum(taker_buy_quote_volume),
        sum(trade_count)::bigint, min(first_trade_id), max(last_trade_id),
        bool_or(is_closed AND end_time = opens + make_interval(secs => %(bucket_seconds)s))
            OR opens + make_interval(secs => %(bucket_seconds)s)
                <= (SELECT newest_open_time FROM symbols WHERE symbol = %(symbol)s),
        bool_and(is_complete) AND sum(trade_count) = max(last_trade_id) - min(first_trade_id) + 1,
        sum(revision)::integer,
        CASE WHEN min(source) = max(source) THEN min(source) ELSE 'mixed' END,
        {microseconds("max(updated_at)")}
    FROM part GROUP BY opens ORDER BY opens DESC LIMIT %(limit)s
"""  # nosec B608 # noqa: S608 - constants of this module

_SYMBOLS: Final = f"""
    SELECT s.symbol, s.last_trade_id, s.last_price, {microseconds("s.last_trade_time")},
        {microseconds("s.updated_at")}, day.open, {microseconds("day.open_time")}
    FROM symbols s LEFT JOIN LATERAL (
        SELECT c.open, c.open_time FROM candles c
        WHERE c.symbol = s.symbol AND c.interval = '1m'
            AND c.open_time >= s.last_trade_time - interval '24 hours'
        ORDER BY c.open_time LIMIT 1
    ) day ON true
    ORDER BY s.symbol
"""  # nosec B608 # noqa: S608 - constants of this module

# A day has at most 96 candles of 15 minutes. The LIMIT makes the planner walk the index from its end; without
# it, it would expect a third of all candles to match the per-symbol start of the day.
_DAYS: Final = f"""
    SELECT s.symbol, array_agg({microseconds("c.open_time")} ORDER BY c.open_time),
        array_agg(c.close ORDER BY c.open_time), (array_agg(c.open ORDER BY c.open_time))[1]
    FROM symbols s CROSS JOIN LATERAL (
        SELECT open_time, open, close FROM candles
        WHERE symbol = s.symbol AND interval = '15m' AND open_time > s.last_trade_time - interval '24 hours'
        ORDER BY open_time DESC LIMIT 96
    ) c
    GROUP BY s.symbol ORDER BY s.symbol
"""  # nosec B608 # noqa: S608 - constants of this module

_COUNTS: Final = "SELECT outcome, sum(records) FROM record_counts GROUP BY outcome ORDER BY outcome"
