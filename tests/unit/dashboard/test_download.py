from __future__ import annotations

import csv
import io
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from candleflow.dashboard.download import Export, as_csv, as_parquet
from candleflow.market.window import SECOND_US
from tests.unit.dashboard.examples import candle, candles


def export(count: int = 3, *, bucket_seconds: int = 5, is_simulated: bool = False) -> Export:
    return Export("BTCUSDT", bucket_seconds, candles(count), is_simulated)


def test_the_csv_has_every_field_as_stored() -> None:
    example = candle(1, volume=Decimal("0.00000010"), quote_volume=Decimal("0E-8"), is_complete=False)
    lines = as_csv(Export("BTCUSDT", 5, [example], is_simulated=False)).decode().splitlines()
    names, values = lines
    assert names == (
        "symbol,interval,open_time,end_time,open,high,low,close,volume,quote_volume,taker_buy_volume,"
        "taker_buy_quote_volume,trade_count,first_trade_id,last_trade_id,is_closed,is_complete,revision,source"
    )
    assert values == (
        "BTCUSDT,5s,2024-08-08T12:00:05Z,2024-08-08T12:00:10Z,100.00,102.00,99.00,101.00,0.00000010,"
        "0.00000000,0.6,60.6,10,10,19,true,false,0,trades"
    )


def test_a_spreadsheet_takes_no_field_of_the_csv_for_a_formula() -> None:
    rows = csv.reader(io.StringIO(as_csv(export()).decode()))
    assert all(field[0].isalnum() for row in rows for field in row)


def test_the_parquet_has_the_same_columns_typed() -> None:
    table = pq.read_table(io.BytesIO(as_parquet(export())))
    assert ",".join(table.column_names) == as_csv(export()).decode().splitlines()[0]
    assert table.schema.field("open_time").type == pa.timestamp("us", tz="UTC")
    assert table.schema.field("quote_volume").type == pa.decimal128(38, 18)
    assert table.schema.field("is_complete").type == pa.bool_()
    assert table.num_rows == 3


def test_a_value_too_large_for_a_column_widens_it_and_stays_exact() -> None:
    huge = Decimal("123456789012345678901234.0000000000000001")
    example = candle(0, quote_volume=huge)
    table = pq.read_table(io.BytesIO(as_parquet(Export("BTCUSDT", 5, [example], is_simulated=False))))
    assert table.column("quote_volume").to_pylist() == [huge]


@pytest.mark.parametrize("is_simulated", [True, False])
def test_simulated_candles_are_marked_in_the_file_name_and_inside(is_simulated: bool) -> None:
    made = export(is_simulated=is_simulated)
    mark = "_SIMULATED" if is_simulated else ""
    assert made.file_name("csv") == f"BTCUSDT_5s_2024-08-08T120000Z_2024-08-08T120015Z{mark}.csv"
    metadata = pq.read_schema(io.BytesIO(as_parquet(made))).metadata
    assert metadata[b"simulated"] == str(is_simulated).lower().encode()
    assert (metadata[b"symbol"], metadata[b"interval"]) == (b"BTCUSDT", b"5s")


@pytest.mark.parametrize(
    ("seconds", "interval"),
    [(5, "5s"), (90, "90s"), (60, "1m"), (900, "15m"), (14_400, "4h"), (86_400, "1d")],
)
def test_the_interval_is_in_its_largest_unit(seconds: int, interval: str) -> None:
    assert export(bucket_seconds=seconds).interval == interval


def test_a_candle_ends_where_the_next_may_open() -> None:
    table = pq.read_table(io.BytesIO(as_parquet(export(bucket_seconds=60))))
    spans = zip(table.column("open_time").to_pylist(), table.column("end_time").to_pylist(), strict=True)
    assert {end - begin for begin, end in spans} == {pa.scalar(60 * SECOND_US, pa.duration("us")).as_py()}
