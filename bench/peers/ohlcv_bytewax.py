"""Make the candles with Bytewax: KafkaSource, fold_window over event time, and one upsert a batch.

Bytewax has no sink for PostgreSQL, so this uses a DynamicSink, as its documentation describes. Rows are
collected for at most a second before they are written.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import orjson
import psycopg2
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.run import cli_main
from psycopg2.extras import execute_values

WINDOW = timedelta(seconds=5)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATE = timedelta(seconds=10)
BATCH_ROWS = 1_000
BATCH_TIME = timedelta(seconds=1)

CREATE = """
    CREATE TABLE candles (symbol text, open_time timestamptz, open double precision, high double precision,
        low double precision, close double precision, volume double precision, trade_count bigint,
        PRIMARY KEY (symbol, open_time))
"""
UPSERT = """
    INSERT INTO candles VALUES %s ON CONFLICT (symbol, open_time) DO UPDATE SET open = excluded.open,
        high = excluded.high, low = excluded.low, close = excluded.close, volume = excluded.volume,
        trade_count = excluded.trade_count
"""


@dataclass(slots=True)
class Trade:
    time: datetime
    price: float
    quantity: float


@dataclass(slots=True)
class Candle:
    open: float = 0.0
    high: float = 0.0
    low: float = 0.0
    close: float = 0.0
    volume: float = 0.0
    trade_count: int = 0


def parse(message: Any) -> tuple[str, Trade]:
    trade = orjson.loads(message.value)
    time = datetime.fromtimestamp(trade["T"] / 1_000, UTC)
    return trade["s"], Trade(time, float(trade["p"]), float(trade["q"]))


def fold(candle: Candle, trade: Trade) -> Candle:
    price = trade.price
    if candle.trade_count == 0:
        candle.open = candle.high = candle.low = price
    candle.high = max(candle.high, price)
    candle.low = min(candle.low, price)
    candle.close = price
    candle.volume += trade.quantity
    candle.trade_count += 1
    return candle


def merge(earlier: Candle, later: Candle) -> Candle:
    """Never called: Bytewax merges only session windows, not tumbling ones."""
    raise NotImplementedError


def row(item: tuple[str, tuple[int, Candle]]) -> tuple[Any, ...]:
    symbol, (window, c) = item
    return symbol, EPOCH + window * WINDOW, c.open, c.high, c.low, c.close, c.volume, c.trade_count


class PostgresPartition(StatelessSinkPartition):
    def __init__(self) -> None:
        self._connection = psycopg2.connect("")  # libpq reads PGHOST, PGPORT, ... from the environment

    def write_batch(self, items: list[tuple[str, list[tuple[Any, ...]]]]) -> None:
        with self._connection, self._connection.cursor() as cursor:
            execute_values(cursor, UPSERT, [one for _, rows in items for one in rows], page_size=BATCH_ROWS)

    def close(self) -> None:
        self._connection.close()


class PostgresSink(DynamicSink):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> PostgresPartition:
        return PostgresPartition()


def dataflow() -> Dataflow:
    flow = Dataflow("ohlcv")
    messages = op.input(
        "trades", flow, KafkaSource([os.environ["KAFKA_BOOTSTRAP"]], [os.environ["KAFKA_TOPIC"]])
    )
    trades = op.map("parse", messages, parse)
    clock = win.EventClock(ts_getter=lambda trade: trade.time, wait_for_system_duration=LATE)
    windower = win.TumblingWindower(length=WINDOW, align_to=EPOCH)
    candles = win.fold_window("candles", trades, clock, windower, Candle, fold, merge)
    rows = op.key_on("together", op.map("row", candles.down, row), lambda _: "all")
    op.output("postgres", op.collect("batch", rows, BATCH_TIME, BATCH_ROWS), PostgresSink())
    return flow


def main() -> None:
    with psycopg2.connect("") as connection, connection.cursor() as cursor:
        cursor.execute(CREATE)
    flow = dataflow()
    print("about to read", flush=True)
    cli_main(flow)


if __name__ == "__main__":
    main()
