"""The CSV and the Parquet download contain exactly the stored candles, for any candles."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from candleflow.dashboard.download import Export, as_csv, as_parquet
from tests.made_symbols import SYMBOLS
from tests.unit.dashboard.examples import candle

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = 253_402_300_799_000_000 // 2

# The extremes of prices and quantities, with eight decimal places, and of their product, with sixteen.
units = st.integers(0, 10**24)
amounts = st.builds(lambda digits, places: Decimal(digits).scaleb(-places), units, st.integers(0, 16))
counts = st.integers(0, 2**63 - 1)
stored = st.builds(
    candle,
    place=st.just(0),
    open_time=st.integers(0, LATEST),
    **dict.fromkeys(
        ("open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume",
         "taker_buy_quote_volume"), amounts),
    **dict.fromkeys(("trade_count", "first_trade_id", "last_trade_id"), counts),
    is_closed=st.booleans(),
    is_complete=st.booleans(),
    revision=st.integers(0, 2**31 - 1),
    source=st.sampled_from(["trades", "kline", "archive", "mixed", "quiet"]),
)  # fmt: skip
exports = st.builds(
    Export,
    symbol=SYMBOLS,
    bucket_seconds=st.sampled_from([1, 5, 90, 60, 14_400, 86_400]),
    candles=st.lists(stored, min_size=1, max_size=5),
    is_simulated=st.booleans(),
)


def expected(export: Export) -> list[dict[str, Any]]:
    times = [(one.open_time, one.open_time + export.bucket_us) for one in export.candles]
    return [
        {name: value for name, value in one._asdict().items() if name != "updated_at"}
        | {"symbol": export.symbol, "interval": export.interval}
        | {"open_time": _moment(opens), "end_time": _moment(ends)}
        for one, (opens, ends) in zip(export.candles, times, strict=True)
    ]


def _moment(time: int) -> datetime:
    return EPOCH + timedelta(microseconds=time)


@given(exports)
def test_the_parquet_read_back_is_what_is_stored(export: Export) -> None:
    assert pq.read_table(io.BytesIO(as_parquet(export))).to_pylist() == expected(export)


@given(exports)
def test_the_csv_read_back_is_what_is_stored_to_the_last_zero(export: Export) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(export).decode())))
    assert [_read(row) for row in rows] == expected(export)
    for row, one in zip(rows, export.candles, strict=True):
        assert Decimal(row["volume"]).as_tuple() == one.volume.as_tuple()


def _read(row: dict[str, str]) -> dict[str, Any]:
    readers: list[tuple[Callable[[str], object], str]] = [
        (Decimal, "open high low close volume quote_volume taker_buy_volume taker_buy_quote_volume"),
        (int, "trade_count first_trade_id last_trade_id revision"),
        (datetime.fromisoformat, "open_time end_time"),
        ("true".__eq__, "is_closed is_complete"),
        (str, "symbol interval source"),
    ]
    return {name: read(row[name]) for read, names in readers for name in names.split()}
