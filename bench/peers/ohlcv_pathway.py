"""Make the candles with Pathway: kafka.read of JSON, windowby a tumbling window, postgres.write (snapshot).

Open and close are the prices of the lowest and highest trade id. The reducers ``earliest`` and ``latest``
would not do, because they know only the order of mini-batches, not that of rows within one. Each window is
written once, after event time has passed its end. Pathway has the Business Source License and is used here
only for measurement.
"""

from __future__ import annotations

import os

import pathway as pw

WINDOW_MS = 5_000


class Trade(pw.Schema):
    symbol: str = pw.column_definition(name="s")
    trade_id: int = pw.column_definition(name="t")
    price: str = pw.column_definition(name="p")
    quantity: str = pw.column_definition(name="q")
    trade_time: int = pw.column_definition(name="T")


def main() -> None:
    received = pw.io.kafka.read(
        {
            "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP"],
            "group.id": os.environ["KAFKA_GROUP"],
            "auto.offset.reset": "earliest",
        },
        topic=os.environ["KAFKA_TOPIC"],
        schema=Trade,
        format="json",
        autocommit_duration_ms=1_000,
    )
    trades = received.select(
        symbol=pw.this.s,
        trade_time=pw.this.T,
        price=pw.this.p.str.parse_float(),
        quantity=pw.this.q.str.parse_float(),
        trade_id=pw.this.t,
    )
    trades = trades.with_columns(numbered=pw.make_tuple(pw.this.trade_id, pw.this.price))
    candles = trades.windowby(
        trades.trade_time,
        window=pw.temporal.tumbling(duration=WINDOW_MS),
        behavior=pw.temporal.exactly_once_behavior(),
        instance=trades.symbol,
    ).reduce(
        symbol=pw.this._pw_instance,
        open_time=pw.this._pw_window_start,
        open=pw.reducers.min(pw.this.numbered).get(1),
        high=pw.reducers.max(pw.this.price),
        low=pw.reducers.min(pw.this.price),
        close=pw.reducers.max(pw.this.numbered).get(1),
        volume=pw.reducers.sum(pw.this.quantity),
        trade_count=pw.reducers.count(),
    )
    pw.io.postgres.write(
        candles,
        {
            "host": os.environ["PGHOST"],
            "port": os.environ["PGPORT"],
            "dbname": os.environ["PGDATABASE"],
            "user": os.environ["PGUSER"],
            "password": os.environ["PGPASSWORD"],
        },
        "candles",
        init_mode="create_if_not_exists",
        output_table_type="snapshot",
        primary_key=[candles.symbol, candles.open_time],
    )
    print("about to read", flush=True)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


if __name__ == "__main__":
    main()
