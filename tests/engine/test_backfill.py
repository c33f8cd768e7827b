"""Lines of an archive through Spark, with a store in memory."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, cast

import pytest
from pyspark.sql import SparkSession

from candleflow.engine import trades
from candleflow.history.backfill import Day, Loaded, Loader
from candleflow.market.window import SECOND_US, Windows
from candleflow.store.history import HistoryStore

DAY = Day("BTCUSDT", date(2024, 8, 9))


class MemoryStore:
    def __init__(self) -> None:
        self.partials: list[str] = []
        self.transactions = 0

    def load(self, partials: list[str], *_: Any) -> None:
        self.partials += partials
        self.transactions += 1


def line(trade_id: int, price: str) -> str:
    time_ms = (DAY.since + trade_id * SECOND_US) // 1_000
    return f"{trade_id},{price},1.0,1.0,{time_ms},True,True\n"


def test_a_part_with_many_impossible_numbers_is_loaded_in_smaller_ones(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each bad line is counted, though the driver decodes only a few at once."""
    monkeypatch.setattr(trades, "UNREAD_LIMIT", 4)
    part = tmp_path / "part.csv"
    prices = ["1.0" if number % 3 else "0.0" for number in range(30)]
    part.write_text("".join(line(number, price) for number, price in enumerate(prices)))
    store, loaded = MemoryStore(), Loaded()
    loader = Loader(spark, cast(HistoryStore, store), Windows.of_seconds(1), DAY, loaded)
    loader.load(part)
    assert (loaded.trades, loaded.merged, loaded.candles) == (20, 20, 20)
    assert loaded.rejected.total() == 10
    assert loaded.example is not None
    assert loaded.example[0] == line(0, "0.0").rstrip("\n")
    assert store.transactions == 5
    assert list(tmp_path.iterdir()) == [part]
