"""Candles as a CSV or Parquet file, with every value exactly as stored. Pure: bytes out.

A spreadsheet takes no field of the CSV for a formula: symbols begin with a letter or a digit
(``market.symbol``), there is no other text from outside, and no number is negative.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from candleflow.market.stored import StoredCandle
from candleflow.market.window import SECOND_US

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"))
_DECIMAL: Final = pa.decimal128(38, 18)
_WIDE_DECIMAL: Final = pa.decimal256(76, 18)
"""For a column with a value of 10^20 or more, such as a quote volume in a currency of very low worth."""
_TIME: Final = pa.timestamp("us", tz="UTC")

_DECIMALS: Final = (
    "open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume",
)  # fmt: skip
_OTHERS: Final = {
    "trade_count": pa.int64(),
    "first_trade_id": pa.int64(),
    "last_trade_id": pa.int64(),
    "is_closed": pa.bool_(),
    "is_complete": pa.bool_(),
    "revision": pa.int32(),
    "source": pa.string(),
}


@dataclass(frozen=True, slots=True)
class Export:
    """The content of a file: a symbol's candles of one length, oldest first, at least one."""

    symbol: str
    bucket_seconds: int
    candles: Sequence[StoredCandle]
    is_simulated: bool

    @property
    def interval(self) -> str:
        """The candles' length in its largest unit: ``5s``, ``90s``, ``4h``."""
        for size, unit in _UNITS:
            if self.bucket_seconds % size == 0:
                return f"{self.bucket_seconds // size}{unit}"
        return f"{self.bucket_seconds}s"

    @property
    def bucket_us(self) -> int:
        return self.bucket_seconds * SECOND_US

    def file_name(self, ending: str) -> str:
        """Return such as ``BTCUSDT_5s_2026-11-23T203000Z_2026-11-23T210000Z.csv``: first open, last end.

        Files of simulated trades have SIMULATED in their names, as people pass files on without the page.
        """
        begin, end = self.candles[0].open_time, self.candles[-1].open_time + self.bucket_us
        times = [f"{_moment(time):%Y-%m-%dT%H%M%SZ}" for time in (begin, end)]
        marks = ["SIMULATED"] if self.is_simulated else []
        return "_".join([self.symbol, self.interval, *times, *marks]) + f".{ending}"


def as_csv(export: Export) -> bytes:
    """Return UTF-8 with a header line; times in UTC by ISO 8601, decimals with every stored place."""
    names = ["symbol", "interval", "open_time", "end_time", *_DECIMALS, *_OTHERS]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(_row(export, one) for one in export.candles)
    return text.getvalue().encode()


def _row(export: Export, candle: StoredCandle) -> list[str]:
    times = (candle.open_time, candle.open_time + export.bucket_us)
    figures = (getattr(candle, name) for name in (*_DECIMALS, *_OTHERS))
    return [export.symbol, export.interval, *map(_iso, times), *map(_text, figures)]


def _text(value: Decimal | int | bool | str) -> str:  # noqa: FBT001 - a column may hold booleans
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:f}" if isinstance(value, Decimal) else str(value)  # never 0E-8


def _iso(time: int) -> str:
    return _moment(time).isoformat().replace("+00:00", "Z")


def _moment(time: int) -> datetime:
    seconds, microseconds = divmod(time, SECOND_US)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)


def as_parquet(export: Export) -> bytes:
    """Return the CSV's columns with types: timestamps in microseconds UTC, decimal128(38, 18).

    The file's metadata has ``symbol``, ``interval`` and ``simulated`` (``true`` or ``false``).
    """
    count = len(export.candles)
    opens = [one.open_time for one in export.candles]
    columns = {
        "symbol": pa.array([export.symbol] * count, pa.string()),
        "interval": pa.array([export.interval] * count, pa.string()),
        "open_time": pa.array(opens, _TIME),
        "end_time": pa.array([time + export.bucket_us for time in opens], _TIME),
        **{name: _decimals(_values(export, name)) for name in _DECIMALS},
        **{name: pa.array(_values(export, name), kind) for name, kind in _OTHERS.items()},
    }
    metadata = {
        "symbol": export.symbol,
        "interval": export.interval,
        "simulated": str(export.is_simulated).lower(),
    }
    file = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), file)
    return file.getvalue()


def _values(export: Export, name: str) -> list[Any]:
    return [getattr(one, name) for one in export.candles]


def _decimals(values: list[Decimal]) -> pa.Array:
    try:
        return pa.array(values, _DECIMAL)
    except pa.ArrowInvalid:
        return pa.array(values, _WIDE_DECIMAL)


FORMATS: Final[dict[str, tuple[str, str, Callable[[Export], bytes]]]] = {
    "CSV": ("csv", "text/csv", as_csv),
    "Parquet": ("parquet", "application/vnd.apache.parquet", as_parquet),
}
"""By label: the file extension, the media type, and the function that returns the file's bytes."""
