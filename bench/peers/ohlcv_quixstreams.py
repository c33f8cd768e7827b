"""Make the candles with Quix Streams: its tumbling window and aggregations, closed windows to PostgreSQLSink.

State store, changelog topic, commit interval (5 s) and guarantee (at least once) are the defaults. The sink
upserts by primary key, so a window that is written twice is stored once.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from quixstreams import Application
from quixstreams.dataframe.windows.aggregations import Count, First, Last, Max, Min, Sum
from quixstreams.sinks.community.postgresql import PostgreSQLSink

WINDOW = timedelta(seconds=5)


def trade_time(value: Any, headers: Any, timestamp: float, timestamp_type: Any) -> int:
    return int(value["T"])


def numbers(trade: dict[str, Any]) -> dict[str, float]:
    return {"price": float(trade["p"]), "quantity": float(trade["q"])}


def row(candle: dict[str, Any], symbol: str, timestamp: int, headers: Any) -> dict[str, Any]:
    fields = {name: value for name, value in candle.items() if name not in ("start", "end")}
    return {"symbol": symbol, "open_time": candle["start"], **fields}


def main() -> None:
    app = Application(
        broker_address=os.environ["KAFKA_BOOTSTRAP"],
        consumer_group=os.environ["KAFKA_GROUP"],
        auto_offset_reset="earliest",
        state_dir="state",
        loglevel="WARNING",
    )
    trades = app.topic(
        os.environ["KAFKA_TOPIC"],
        key_deserializer="str",
        value_deserializer="json",
        timestamp_extractor=trade_time,
    )
    sink = PostgreSQLSink(
        host=os.environ["PGHOST"],
        port=int(os.environ["PGPORT"]),
        dbname=os.environ["PGDATABASE"],
        user=os.environ["PGUSER"],
        password=os.environ["PGPASSWORD"],
        table_name="candles",
        primary_key_columns=["symbol", "open_time"],
        upsert_on_primary_key=True,
        include_metadata=False,
    )
    candles = (
        app.dataframe(trades)
        .apply(numbers)
        .tumbling_window(WINDOW)
        .agg(
            open=First("price"),
            high=Max("price"),
            low=Min("price"),
            close=Last("price"),
            volume=Sum("quantity"),
            trade_count=Count(),
        )
        .final()
        .apply(row, metadata=True)
    )
    candles.sink(sink)
    print("about to read", flush=True)
    app.run()


if __name__ == "__main__":
    main()
