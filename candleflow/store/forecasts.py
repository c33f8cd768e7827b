"""Store forecasts in PostgreSQL: each is kept before its window begins, and scored once.

All changes go through the SQL functions that ``roles.py`` lists for the forecaster. Times are microseconds
since the epoch, UTC. Forecast prices are floats, real prices are exact decimals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple, Self

from candleflow.market.stored import StoredCandle
from candleflow.market.window import SECOND_US, Windows
from candleflow.settings import Settings
from candleflow.store import credentials
from candleflow.store.credentials import Dsn, Role
from candleflow.store.pool import Pool
from candleflow.store.reader import with_quiet
from candleflow.store.sql import CANDLE_COLUMNS, TILES_TIME, as_time, microseconds

ANSWER_SECONDS: Final = 12.0
"""Deadline of a query; above the role's statement_timeout, so that the server ends a slow one first."""

_CONNECTIONS: Final = 2


class NewForecast(NamedTuple):
    """A forecast to store: of the close of the symbol's finest candle that opens at ``open_time``."""

    symbol: str
    open_time: int
    model: str
    version: int
    forecast: float
    lower: float
    upper: float
    last_close: float


class KeptForecast(NamedTuple):
    """A stored forecast; ``actual`` is None until its candle is closed and complete."""

    open_time: int
    made_at: int
    model: str
    forecast: float
    lower: float
    upper: float
    last_close: Decimal
    actual: Decimal | None


class Close(NamedTuple):
    """The real close of a complete candle, or of a quiet one (a window without trades)."""

    symbol: str
    open_time: int
    close: Decimal


class ForecastStore:
    """Reads and writes forecasts; thread-safe. Methods raise StoreError while PostgreSQL can't answer."""

    def __init__(self, dsn: Dsn, windows: Windows) -> None:
        self._pool = Pool(dsn, _CONNECTIONS)
        self._windows = windows

    @classmethod
    def from_settings(cls, settings: Settings, role: Role) -> Self:
        """Create the store for the forecaster or the reader role; opens no connection yet."""
        return cls(credentials.dsn(settings, role), settings.windows)

    def candles(self, since: Mapping[str, int | None], limit: int) -> dict[str, list[StoredCandle]]:
        """Return the newest ``limit`` closed finest candles of each symbol, oldest first.

        ``since`` has the earliest open time per symbol (None: no limit). Quiet windows are filled in by
        ``with_quiet``; of sliding windows, only those that don't overlap count. Incomplete candles are
        included, so that the caller sees where the sequence breaks.
        """
        rows = self._rows(
            _CANDLES,
            {
                "symbols": list(since),
                "sinces": [as_time(at or 0) for at in since.values()],
                "interval": self._windows.interval,
                "seconds": self._windows.size_us // SECOND_US,
                "limit": limit,
            },
        )
        found: dict[str, list[StoredCandle]] = {}
        for symbol, *row in rows:
            found.setdefault(symbol, []).append(StoredCandle(symbol, self._windows.interval, *row))
        return {
            symbol: with_quiet(candles[::-1], self._windows.size_us, limit)
            for symbol, candles in found.items()
        }

    def keep(self, made: Sequence[NewForecast]) -> int:
        """Store the forecasts whose window hasn't begun and that aren't stored yet; return how many."""
        return self._count("SELECT keep_forecasts(%(rows)s, %(interval)s)", [one._asdict() for one in made])

    def score(self, closes: Sequence[Close]) -> int:
        """Store the real closes of forecasts that have none yet; return how many were scored."""
        rows = [one._asdict() | {"close": str(one.close)} for one in closes]
        return self._count("SELECT score_forecasts(%(rows)s, %(interval)s)", rows)

    def drop_before(self, time: int, most: int) -> int:
        """Delete up to ``most`` forecasts of windows that began before ``time``; return how many."""
        ((dropped,),) = self._rows(
            "SELECT drop_forecasts(%(before)s, %(most)s)", {"before": time, "most": most}
        )
        return int(dropped)

    def recent(self, symbol: str, since: int, limit: int) -> list[KeptForecast]:
        """Return the newest ``limit`` forecasts of windows that open at ``since`` or later, oldest first."""
        rows = self._rows(
            _RECENT,
            {
                "symbol": symbol,
                "interval": self._windows.interval,
                "since": as_time(since),
                "limit": limit,
            },
        )
        return [KeptForecast(*row) for row in reversed(rows)]

    def close(self) -> None:
        """Close the idle connections; the object stays usable."""
        self._pool.drop_idle()

    def _count(self, query: str, rows: Sequence[Mapping[str, Any]]) -> int:
        if not rows:
            return 0
        ((count,),) = self._rows(query, {"rows": json.dumps(rows), "interval": self._windows.interval})
        return int(count)

    def _rows(self, query: str, arguments: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        # may_repeat: every function that is called here is idempotent.
        return self._pool.rows(query, arguments, within_seconds=ANSWER_SECONDS, may_repeat=True)


_CANDLES: Final = f"""
    SELECT wanted.symbol, c.* FROM unnest(%(symbols)s, %(sinces)s::timestamptz[]) wanted (symbol, since)
        CROSS JOIN LATERAL (
            SELECT {CANDLE_COLUMNS} FROM candles
            WHERE symbol = wanted.symbol AND interval = %(interval)s AND open_time >= wanted.since
                AND is_closed AND {TILES_TIME}
            ORDER BY candles.open_time DESC LIMIT %(limit)s
        ) c
"""  # nosec B608 # noqa: S608 - constants of this module
_RECENT: Final = f"""
    SELECT {microseconds("open_time")}, {microseconds("made_at")}, model, forecast, lower,
        upper, last_close, actual
    FROM forecasts
    WHERE symbol = %(symbol)s AND interval = %(interval)s AND open_time >= %(since)s
    ORDER BY forecasts.open_time DESC LIMIT %(limit)s
"""  # nosec B608 # noqa: S608 - constants of this module
