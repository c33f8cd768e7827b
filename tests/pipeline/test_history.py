"""History loaded at the first start: with PostgreSQL and the simulator's REST, and with all processes."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import psycopg2
import pytest

from candleflow.audit.continuity import unrecorded_gaps
from candleflow.exchange.history import TradeHistory
from candleflow.exchange.rest import ExchangeRest
from candleflow.history import first_sight as history_module
from candleflow.history.first_sight import HistoryLoader, _Missing
from candleflow.history.kline_ids import CHUNK_US
from candleflow.market.candle import Candle, fold
from candleflow.market.kline import Kline
from candleflow.market.stored import StoredCandle
from candleflow.market.trade import Trade
from candleflow.market.window import SECOND_US, Windows, floor_time, roll_up_windows
from candleflow.settings import Settings
from candleflow.simulator.market import SeededMarket
from candleflow.simulator.server import Simulator
from candleflow.stack.process import free_port
from candleflow.store.reader import CandleReader
from candleflow.telemetry import read_heartbeat
from tests.pipeline.producing import until
from tests.pipeline.test_recording import Run, free_ports
from tests.processes import awaited, environment, started
from tests.store.processor import Processor
from tests.store.trades import FIVE_SECONDS
from tests.store_fixtures import Database

SYMBOL: Final = "BTCUSDT"
RATE: Final = 2
HOURS: Final = 0.25
"""A quarter of an hour, extended back to a whole hour: up to an hour and a quarter."""
SLIDING: Final = Windows.of_seconds(5, 1)
EITHER: Final = pytest.mark.parametrize(
    "windows",
    [
        pytest.param(FIVE_SECONDS, id="tumbling"),
        pytest.param(SLIDING, id="sliding", marks=pytest.mark.slow),
    ],
)


@dataclass
class Scene:
    """A database, a processor that has read the whole topic, and the simulated exchange."""

    settings: Settings
    market: SeededMarket
    processor: Processor
    reader: CandleReader
    now: int

    @property
    def since(self) -> int:
        return floor_time(self.now - int(HOURS * 3_600 * SECOND_US), 3_600 * SECOND_US)

    def trades(self, since: int, until: int) -> list[Trade]:
        """Return the exchange's trades; times in whole milliseconds, as in the stream."""
        ids = self.market.id_at(SYMBOL, since), self.market.id_at(SYMBOL, until)
        return [
            replace(one, trade_time=one.trade_time // 1_000 * 1_000)
            for one in self.market.trades(SYMBOL, ids)
        ]

    def loader(self) -> HistoryLoader:
        return HistoryLoader(self.settings, [self.settings.exchange.rest_url or ""], self.reader)

    async def load(self) -> None:
        """Run the loader once, as the auditor does."""
        reads = asyncio.create_task(self._read_all())
        try:
            async with asyncio.timeout(60):
                await self.loader().run()
        finally:
            reads.cancel()

    async def _read_all(self) -> None:
        while True:  # the processor reports once a second that it has read the whole topic
            self.processor.close_quiet(0)
            await asyncio.sleep(0.1)

    def stored(self, interval: str) -> list[StoredCandle]:
        return self.reader.within(SYMBOL, interval, 0, self.now + 3_600 * SECOND_US)

    def gaps(self) -> tuple[tuple[int, int], ...]:
        held = self.reader.id_ranges(SYMBOL, 0, self.now + 3_600 * SECOND_US)
        return unrecorded_gaps(held, ())

    def bounds(self) -> tuple[int, int]:
        """Return the first and the last trade id in the candles."""
        held = self.reader.id_ranges(SYMBOL, 0, self.now + 3_600 * SECOND_US)
        return held[0][0], held[-1][1] - 1


@asynccontextmanager
async def on_stage(
    database: Database, windows: Windows = FIVE_SECONDS, market: SeededMarket | None = None
) -> AsyncIterator[Scene]:
    market = market or SeededMarket(1, RATE, [SYMBOL])
    async with Simulator(market) as simulator:
        settings = database.settings_with(
            exchange_ws_url=simulator.ws_url,
            exchange_rest_url=simulator.rest_url,
            symbols=SYMBOL,
            history_hours=HOURS,
            window_seconds=windows.size_us // SECOND_US,
            slide_seconds=windows.slide_us // SECOND_US,
        )
        with closing(CandleReader.from_settings(settings)) as reader:
            processor = Processor(database.writer(), windows)
            yield Scene(settings, market, processor, reader, time.time_ns() // 1_000)


def fields(candle: Candle | StoredCandle) -> tuple[Any, ...]:
    names = set(Candle.__dataclass_fields__) - {"trade_ids"}
    return tuple(getattr(candle, name) for name in sorted(names))


def assert_all_right(scene: Scene, windows: Windows) -> None:
    """Check that every stored candle matches the exchange's trades, and all but the first are complete."""
    first, last = scene.bounds()
    trades = [
        replace(one, trade_time=one.trade_time // 1_000 * 1_000)
        for one in scene.market.trades(SYMBOL, (first, last + 1))
    ]
    for name, each in (
        (windows.interval, windows),
        ("1m", roll_up_windows("1m")),
        ("1h", roll_up_windows("1h")),
    ):
        expected = {key: replace(one, interval=name) for key, one in fold(trades, each).items()}
        stored = scene.stored(name)
        assert sorted(map(fields, expected.values())) == sorted(map(fields, stored))
        unproved = [one.open_time for one in stored if not one.is_complete]
        first_end = stored[0].open_time + each.size_us
        assert all(at < first_end for at in unproved), (
            "only a candle without a previous one may be incomplete"
        )


@pytest.mark.parametrize("windows", [FIVE_SECONDS, SLIDING], ids=["tumbling", "sliding"])
async def test_an_empty_database_gets_complete_candles_of_the_last_hours(
    database: Database, windows: Windows
) -> None:
    async with on_stage(database, windows) as scene:
        await scene.load()
        stored = scene.stored(windows.interval)
        first = scene.trades(scene.since, scene.now)[0].trade_time
        assert stored[0].open_time + windows.size_us - windows.slide_us == floor_time(first, windows.slide_us)
        assert stored[-1].open_time > scene.now - 30 * SECOND_US
        assert {one.source for one in stored} == {"kline"}
        assert [one.revision for one in stored] == [0] * len(stored)
        assert all(one.is_closed for one in stored[: -windows.size_us // windows.slide_us])
        assert_all_right(scene, windows)
        assert scene.gaps() == ()
        # A second run changes nothing.
        await scene.load()
        assert scene.stored(windows.interval) == stored


@EITHER
async def test_between_history_and_live_candles_only_the_trades_at_the_boundary_are_missing(
    database: Database, windows: Windows
) -> None:
    async with on_stage(database, windows) as scene:
        trades = scene.trades(scene.now - 75 * SECOND_US, scene.now)
        seconds = [one.trade_time // SECOND_US for one in trades]
        # The first live trade has one before it in its second, and an earlier window in its minute.
        at = next(
            at
            for at, second in enumerate(seconds)
            if second in seconds[:at]
            and any(second // 60 == one // 60 and one // 5 < second // 5 for one in seconds[:at])
        )
        live = trades[at:]
        scene.processor.merge(live)
        await scene.load()
        ((lower, upper),) = scene.gaps()
        assert upper == live[0].trade_id
        missing = scene.trades(scene.since, scene.now)
        missing = [one for one in missing if lower <= one.trade_id < upper]
        pane = floor_time(live[0].trade_time, windows.slide_us)
        assert all(floor_time(one.trade_time, windows.slide_us) == pane for one in missing)
        sources = {one.open_time: one.source for one in scene.stored("1m")}
        assert sources[floor_time(live[0].trade_time, 60 * SECOND_US)] == "mixed"
        scene.processor.merge(missing)
        assert scene.gaps() == ()
        assert_all_right(scene, windows)


async def test_candles_that_reach_back_far_enough_stay_unchanged(database: Database) -> None:
    async with on_stage(database) as scene:
        ago = scene.now - int(HOURS * 3_600 * SECOND_US) - 60 * SECOND_US
        scene.processor.merge(scene.trades(ago, ago + 120 * SECOND_US))
        before = scene.stored("5s")
        await scene.load()
        assert scene.stored("5s") == before


@EITHER
async def test_an_interrupted_load_resumes_at_the_next_start(
    database: Database, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_chunk = HistoryLoader._load_chunk

    async def load_one_chunk(loader: HistoryLoader, history: TradeHistory, missing: _Missing) -> None:
        await load_chunk(loader, history, missing)
        first.cancel()

    async with on_stage(database, windows) as scene:
        with monkeypatch.context() as patched:
            patched.setattr(HistoryLoader, "_load_chunk", load_one_chunk)
            first = asyncio.create_task(scene.load())
            await asyncio.gather(first, return_exceptions=True)
        assert first.cancelled()
        assert scene.stored(windows.interval)[0].open_time > scene.since
        await scene.load()
        assert scene.stored(windows.interval)[0].open_time < scene.since + 60 * SECOND_US
        assert scene.gaps() == ()
        assert_all_right(scene, windows)


async def test_trades_that_come_while_klines_are_loaded_are_not_loaded_twice(database: Database) -> None:
    async with on_stage(database) as scene:
        end = floor_time(scene.now - 10 * SECOND_US, 5 * SECOND_US)
        since = end - CHUNK_US
        scene.processor.merge(scene.trades(end - 100 * SECOND_US, scene.now))
        async with TradeHistory([scene.settings.exchange.rest_url or ""]) as history:
            end_id = await history.id_at(SYMBOL, end)
            assert end_id is not None
            missing = _Missing(SYMBOL, since, end, end_id)
            loader = scene.loader()
            while missing.until > missing.since:
                await loader._load_chunk(history, missing)
        assert scene.gaps() == ()
        assert_all_right(scene, FIVE_SECONDS)


async def test_a_minute_with_inconsistent_klines_is_filled_from_trades(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with on_stage(database) as scene:
        minute = floor_time(scene.now - 400 * SECOND_US, 60 * SECOND_US)
        members = scene.trades(minute, minute + 60 * SECOND_US)
        lost = floor_time(members[len(members) // 2].trade_time, SECOND_US)
        ask = ExchangeRest.klines

        async def without_one(rest: ExchangeRest, *what: Any, **times: Any) -> list[Kline]:
            return [one for one in await ask(rest, *what, **times) if one.open_time != lost]

        monkeypatch.setattr(ExchangeRest, "klines", without_one)
        await scene.load()
        assert scene.gaps() == ((members[0].trade_id, members[-1].trade_id + 1),)
        assert "don't match trades" in caplog.text
        scene.processor.merge(members)
        assert_all_right(scene, FIVE_SECONDS)


class Listed(SeededMarket):
    """A market whose symbols were listed at ``listed_at``."""

    listed_at = 0

    def id_range(self, symbol: str, now: int) -> tuple[int, int]:
        return self.id_at(symbol, self.listed_at), self.id_at(symbol, now)


async def test_a_new_listing_is_loaded_from_its_first_trade(database: Database) -> None:
    market = Listed(1, RATE, [SYMBOL])
    ago = market.id_at(SYMBOL, time.time_ns() // 1_000 - 200 * SECOND_US)
    earlier = list(market.trades(SYMBOL, (ago - 1_000, ago)))
    # A listing begins with its first trade, in the middle of a second: pick one without another before it.
    first = next(
        one
        for before, one in reversed(list(pairwise(earlier)))
        if before.trade_time < one.trade_time and before.trade_time > floor_time(one.trade_time, SECOND_US)
    )
    market.listed_at = first.trade_time
    async with on_stage(database, market=market) as scene:
        await scene.load()
        assert scene.bounds()[0] == first.trade_id
        async with TradeHistory([scene.settings.exchange.rest_url or ""]) as history:
            assert await scene.loader()._find_missing(history, SYMBOL) is None


@pytest.mark.slow
async def test_an_unreachable_exchange_is_retried(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "_LONGEST_PAUSE_SECONDS", 0.2)
    async with on_stage(database) as scene:
        port = free_port()
        loader = HistoryLoader(scene.settings, [f"http://127.0.0.1:{port}"], scene.reader)
        reads = asyncio.create_task(scene._read_all())
        loading = asyncio.create_task(loader.run())
        try:
            await until(lambda: "can't be reached" in loader.state, 30)
            async with Simulator(scene.market, port=port):
                await asyncio.wait_for(loading, 60)
        finally:
            loading.cancel()
            reads.cancel()
        assert loader.state == ""
        assert_all_right(scene, FIVE_SECONDS)


async def test_with_zero_hours_nothing_is_loaded(database: Database) -> None:
    async with on_stage(database) as scene:
        exchange = scene.settings.exchange.model_copy(update={"history_hours": 0.0})
        settings = scene.settings.model_copy(update={"exchange": exchange})
        await asyncio.wait_for(HistoryLoader(settings, ["http://127.0.0.1:1"], scene.reader).run(), 5)
        assert scene.stored("5s") == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_first_start_has_complete_and_correct_candles_of_the_last_hours(tmp_path: Path) -> None:
    """With all processes: klines, live trades, and the trades between them, which the auditor has filled."""
    names = ("simulator_port", "kafka", "postgres", "dashboard_port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    variables = environment(
        exchange="simulator",
        symbols=SYMBOL,
        simulator_rate=RATE,
        simulator_port=ports["simulator_port"],
        kafka_bootstrap=f"127.0.0.1:{ports['kafka']}",
        postgres_url=f"postgresql://candleflow@127.0.0.1:{ports['postgres']}/candleflow",
        dashboard_port=ports["dashboard_port"],
        data_dir=tmp_path / "data",
        history_hours=HOURS,
        spark_memory="500m",
    )
    ours = [sys.executable, "-m", "candleflow"]
    began = time.time_ns() // 1_000
    with started([*ours, "up"], variables, tmp_path / "up.log") as process:
        run = Run(process, variables, tmp_path / "up.log")
        url = str(awaited(lambda: run.status().get("postgres_url"), 120, run.said))
        since = floor_time(began - int(HOURS * 3_600 * SECOND_US), 3_600 * SECOND_US)

        def is_whole() -> bool:
            """Whether klines and live trades are stored, with at most one gap between them."""
            stored = rows(url, "SELECT source, is_complete, open_time FROM candles WHERE interval = '5s'")
            found = {source for source, _, _ in stored}
            begins_at = min((at.timestamp() for *_, at in stored), default=math.inf)
            incomplete = [at for _, is_complete, at in stored if not is_complete]
            return (
                "trades" in found
                and begins_at * SECOND_US < since + 60 * SECOND_US
                and len(incomplete) == 1  # the very first candle
            )

        awaited(is_whole, 300, run.said)
        verified = subprocess.run(
            [*ours, "verify", "--from", iso(since), "--json"],
            env=variables, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert verified.returncode == 0, verified.stdout + verified.stderr
        counts = json.loads(verified.stdout)["intervals"]
        assert counts["5s"]["equal"] > 0.9 * (began - since) / (5 * SECOND_US)
        assert counts["5s"]["incomplete"] <= 1
        heartbeat = read_heartbeat(tmp_path / "data" / "run", "audit")
        assert heartbeat is not None
        assert heartbeat.counts["different"] == 0
        assert "history" not in heartbeat.message


def iso(time_us: int) -> str:
    return f"{datetime.fromtimestamp(time_us / SECOND_US, UTC):%Y-%m-%dT%H:%M:%S}"


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    try:
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()
    except psycopg2.Error:
        return []  # not yet
