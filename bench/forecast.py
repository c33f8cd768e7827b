"""Measure the cost of forecasting: ``python -m bench.forecast``.

One candle of each of 500 symbols arrives at once, as at the end of a window. For each one the model learns
and makes a new forecast, on one core and without the database. Memory is that of all models.
"""

from __future__ import annotations

import argparse
import statistics
import time
import tracemalloc

from bench import machine
from candleflow.forecast.race import Race
from tests.made_candles import SIZE_US, market


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--windows", type=int, default=40, help="number of windows to measure (40)")
    arguments = parser.parse_args()
    print(machine.describe())
    candles = market(1, 150 + arguments.windows)
    tracemalloc.start()
    races = [Race(SIZE_US) for _ in range(arguments.symbols)]
    for race in races:
        for candle in candles[:30]:
            race.add(candle)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    for race in races:
        for candle in candles[30:150]:
            race.add(candle)
    seconds = []
    for candle in candles[150:]:
        began = time.process_time()
        made = [race.add(candle) for race in races]
        seconds.append(time.process_time() - began)
        if None in made:
            raise SystemExit("a symbol had no forecast, so the times measured are not valid")
    print(
        f"{arguments.symbols} symbols: {statistics.median(seconds) * 1_000:.0f} ms of processor time a window"
    )
    print(f"the slowest of {len(seconds)}: {max(seconds) * 1_000:.0f} ms; memory {held / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
