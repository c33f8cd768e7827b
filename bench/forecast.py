"""What forecasting costs: ``python -m bench.forecast``.

A candle of each of 500 symbols comes at once, as at a window's end, and each is learned from and forecast
again, on one core and without the database. Memory is that of all learners.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
import tracemalloc
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from bench import machine
from candleflow.forecast.race import Race
from candleflow.market.window import SECOND_US

SIZE_US: Final = 5 * SECOND_US


@dataclass(frozen=True, slots=True)
class MadeCandle:
    """A closed candle of a random walk."""

    open_time: int
    close: Decimal
    volume: Decimal
    quote_volume: Decimal
    taker_buy_volume: Decimal
    trade_count: int


def walk(count: int) -> list[MadeCandle]:
    """``count`` candles in a row."""
    chance = random.Random(1)  # nosec B311 # prices, the same each time
    price, candles = 60_000.0, []
    for at in range(count):
        price *= 1 + chance.gauss(0, 2e-4)
        volume = Decimal(f"{chance.uniform(0.1, 5):.5f}")
        close = Decimal(f"{price:.2f}")
        buys = (volume / 3).quantize(Decimal("0.00001"))
        candles.append(MadeCandle(at * SIZE_US, close, volume, volume * close, buys, chance.randint(1, 99)))
    return candles


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--windows", type=int, default=40, help="windows that are measured (40)")
    arguments = parser.parse_args()
    print(machine.describe())
    candles = walk(150 + arguments.windows)
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
        made = [race.add(replace(candle)) for race in races]
        seconds.append(time.process_time() - began)
        if None in made:
            raise SystemExit("a symbol had no forecast: what was measured is not what it costs")
    print(
        f"{arguments.symbols} symbols: {statistics.median(seconds) * 1_000:.0f} ms of processor time a window"
    )
    print(f"the slowest of {len(seconds)}: {max(seconds) * 1_000:.0f} ms; memory {held / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
