"""How long PostgreSQL takes to merge a micro-batch into every interval, with few candles stored and many.

    python -m bench.merge [stored candles]

A real server of its own (the wheel's, durable as it comes), the schema as it is, batches as the processor
sends them. Each time is one call with its commit, seen from the client; beside it is the processor time that
the server spent, which other work on the machine doesn't change.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psutil

from bench import servers
from candleflow.errors import StoreError
from candleflow.market.window import SECOND_US, Windows
from candleflow.settings import Settings, load
from candleflow.store import credentials, schema
from candleflow.store.credentials import Role

WINDOWS: Final = Windows.of_seconds(5)
BEGINS_AT: Final = 1_700_000_100 * SECOND_US
BATCHES_PER_WINDOW: Final = 20
SHAPES: Final = ((1, 1, 600), (1, 2, 300), (200, 1, 100), (200, 2, 100), (1, 2_000, 10))
"""Symbols, windows of each in a batch, batches."""

_FILL: Final = """
    INSERT INTO candles (symbol, interval, open_time, end_time, open, high, low, close, volume, quote_volume,
        taker_buy_volume, taker_buy_quote_volume, trade_count, first_trade_id, last_trade_id, trade_ids,
        is_closed, is_complete, updated_at)
    SELECT 'OLD' || n %% 200, '5s', opens, opens + interval '5 s', 1, 1, 1, 1, 1, 1, 0, 0, 1, n, n,
        int8multirange(int8range(n, n + 1)), true, true, opens
    FROM generate_series(1, %s) n,
        LATERAL (SELECT timestamptz '2020-01-01 00:00Z' + n / 200 * interval '5 s' AS opens)
"""
_MERGE: Final = "SELECT merge_batch(%s, 'bench', %s, %s, %s, %s, %s) ->> 'status'"


def batches(symbols: int, windows: int, count: int) -> Iterator[list[dict[str, Any]]]:
    """Partials as a live market makes them: ids in sequence, each batch beginning in the window of the last.

    Batches of one window stay in it for BATCHES_PER_WINDOW of them.
    """
    next_id = dict.fromkeys((f"S{symbols}X{windows}N{n}" for n in range(symbols)), 1)
    for batch in range(count):
        passed = batch // BATCHES_PER_WINDOW if windows == 1 else batch * (windows - 1)
        oldest = BEGINS_AT + passed * WINDOWS.size_us
        partials = []
        for symbol, first_id in next_id.items():
            partials += [
                _partial(symbol, oldest + window * WINDOWS.size_us, first_id + 10 * window)
                for window in range(windows)
            ]
            next_id[symbol] += 10 * windows
        yield partials


def _partial(symbol: str, open_time: int, first_id: int) -> dict[str, Any]:
    return {
        "symbol": symbol, "open_time": open_time, "last_trade_time": open_time + SECOND_US,
        "open": "61000.01000000", "high": "61002.50000000", "low": "60999.00000000", "close": "61001.12",
        "volume": "1.23456789", "quote_volume": "75309.8765432112345678", "taker_buy_volume": "0.5",
        "taker_buy_quote_volume": "30500.0050000000000000", "trade_count": 10, "first_trade_id": first_id,
        "last_trade_id": first_id + 9, "trade_ids": f"{{[{first_id},{first_id + 10})}}",
    }  # fmt: skip


def measure(settings: Settings) -> None:
    """Print a line for each shape of batch."""
    windows = json.dumps(
        {"interval": WINDOWS.interval, "size_us": WINDOWS.size_us, "slide_us": WINDOWS.slide_us}
    )
    with closing(credentials.dsn(settings, Role.WRITER).connect()) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("SELECT claim_topic('bench', 'id', 'bench')")
        claimed = (cursor.fetchone() or ({},))[0]
        server = psutil.Process(connection.info.backend_pid)
        run_id, reached = claimed["run_id"], claimed["offsets"]
        for symbols, per_symbol, count in SHAPES:
            times, cpu_before = [], sum(server.cpu_times()[:2])
            for partials in batches(symbols, per_symbol, count):
                expected, reached = reached, {"0": reached.get("0", 0) + len(partials)}
                arguments = [json.dumps(one) for one in (expected, reached, partials, {"received": 1})]
                began = time.perf_counter()
                cursor.execute(_MERGE, (run_id, *arguments, windows))
                times.append((time.perf_counter() - began) * 1_000)
                if cursor.fetchone() != ("merged",):
                    raise StoreError("a batch was not merged")
            cpu = (sum(server.cpu_times()[:2]) - cpu_before) / count * 1_000
            times = sorted(times[count // 10 :])
            print(
                f"  {symbols:>4} symbols x {per_symbol:>4} windows: p50 {times[len(times) // 2]:7.1f} ms"
                f"   p99 {times[int(len(times) * 0.99)]:7.1f} ms   server's CPU {cpu:7.1f} ms",
                flush=True,
            )


def main() -> None:
    stored = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder, servers.postgres(Path(folder)) as server:
        settings = load(
            postgres_url=f"postgresql://candleflow@127.0.0.1:{server.port}/candleflow",
            data_dir=Path(folder),
        )
        server.provide(settings.postgres.owner, settings.postgres.database)
        schema.apply(settings)
        print("stored candles: none")
        measure(settings)
        with closing(credentials.dsn(settings, Role.OWNER).connect()) as owner, owner.cursor() as cursor:
            cursor.execute("TRUNCATE candles, symbols")
            cursor.execute(_FILL, (stored,))
            owner.commit()
        print(f"stored candles: {stored:,}")
        measure(settings)


if __name__ == "__main__":
    main()
