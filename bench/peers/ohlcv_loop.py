"""Make the candles in a plain loop: confluent-kafka, orjson, a dict, and an upsert of changes each second.

    python ohlcv_loop.py            floats, and the six fields of an OHLCV bar
    python ohlcv_loop.py --exact    decimals, and every field of Binance's kline

confluent-kafka is much faster than kafka-python. State is only in memory, and offsets are committed after the
rows. So a restart in the middle of a window would lose the window's earlier trades or count some twice.
"""

from __future__ import annotations

import os
import sys
import time
from decimal import Decimal, getcontext
from typing import Any

import orjson
import psycopg2
from confluent_kafka import Consumer
from psycopg2.extras import execute_values

WINDOW_MS = 5_000
WRITE_SECONDS = 1.0
RECORDS = 10_000

FLOAT_FIELDS = {
    "open": "double precision", "high": "double precision", "low": "double precision",
    "close": "double precision", "volume": "double precision", "trade_count": "bigint",
}  # fmt: skip
EXACT_FIELDS = {
    "open": "numeric", "high": "numeric", "low": "numeric", "close": "numeric", "volume": "numeric",
    "quote_volume": "numeric", "taker_buy_volume": "numeric", "taker_buy_quote_volume": "numeric",
    "trade_count": "bigint", "first_trade_id": "bigint", "last_trade_id": "bigint",
}  # fmt: skip

Key = tuple[str, int]


def fold_floats(candles: dict[Key, list[Any]], records: list[Any]) -> set[Key]:
    """Aggregate the records, which come in order of trade id; return the keys of the changed candles."""
    changed = set()
    for record in records:
        trade = orjson.loads(record.value())
        price, quantity = float(trade["p"]), float(trade["q"])
        key = (trade["s"], trade["T"] // WINDOW_MS * WINDOW_MS)
        candle = candles.get(key)
        if candle is None:
            candles[key] = [price, price, price, price, quantity, 1]
        else:
            if price > candle[1]:
                candle[1] = price
            elif price < candle[2]:
                candle[2] = price
            candle[3] = price
            candle[4] += quantity
            candle[5] += 1
        changed.add(key)
    return changed


def fold_decimals(candles: dict[Key, list[Any]], records: list[Any]) -> set[Key]:
    """Like ``fold_floats``, but exact and with every field."""
    changed = set()
    zero = Decimal(0)
    for record in records:
        trade = orjson.loads(record.value())
        price, quantity, trade_id = Decimal(trade["p"]), Decimal(trade["q"]), trade["t"]
        quote = price * quantity
        key = (trade["s"], trade["T"] // WINDOW_MS * WINDOW_MS)
        candle = candles.get(key)
        if candle is None:
            candle = candles[key] = [
                price,
                price,
                price,
                price,
                zero,
                zero,
                zero,
                zero,
                0,
                trade_id,
                trade_id,
            ]
        if price > candle[1]:
            candle[1] = price
        elif price < candle[2]:
            candle[2] = price
        candle[3] = price
        candle[4] += quantity
        candle[5] += quote
        if not trade["m"]:
            candle[6] += quantity
            candle[7] += quote
        candle[8] += 1
        candle[10] = trade_id
        changed.add(key)
    return changed


def main() -> None:
    is_exact = "--exact" in sys.argv[1:]
    fields, fold = (EXACT_FIELDS, fold_decimals) if is_exact else (FLOAT_FIELDS, fold_floats)
    getcontext().prec = 60
    columns = ", ".join(fields)
    connection = psycopg2.connect("")  # libpq reads PGHOST, PGPORT, ... from the environment
    with connection, connection.cursor() as cursor:
        typed = ", ".join(f"{name} {type_}" for name, type_ in fields.items())
        cursor.execute(
            f"CREATE TABLE candles (symbol text, open_time bigint, {typed}, PRIMARY KEY (symbol, open_time))"
        )
    upsert = (
        f"INSERT INTO candles (symbol, open_time, {columns}) VALUES %s "  # nosec B608 # noqa: S608 - names from above
        f"ON CONFLICT (symbol, open_time) DO UPDATE SET "
        + ", ".join(f"{name} = excluded.{name}" for name in fields)
    )
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP"],
            "group.id": os.environ["KAFKA_GROUP"],
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([os.environ["KAFKA_TOPIC"]])
    print("about to read", flush=True)
    candles: dict[Key, list[Any]] = {}
    changed: set[Key] = set()
    written_at = time.monotonic()
    while True:
        changed |= fold(candles, consumer.consume(RECORDS, timeout=0.2))
        if changed and time.monotonic() - written_at >= WRITE_SECONDS:
            with connection, connection.cursor() as cursor:
                execute_values(cursor, upsert, [(*key, *candles[key]) for key in changed], page_size=1_000)
            consumer.commit(asynchronous=True)
            changed.clear()
            written_at = time.monotonic()


if __name__ == "__main__":
    main()
