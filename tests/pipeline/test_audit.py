"""The auditor on real PostgreSQL and Kafka, with the simulator's REST, and the producer that fills gaps."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import pytest

from candleflow.audit.process import AGAIN_US, BEHIND_US, SETTLE_US, Auditor
from candleflow.broker import gap_log
from candleflow.broker.gap_log import encode, read_all
from candleflow.exchange.addresses import addresses
from candleflow.exchange.history import TradeHistory
from candleflow.exchange.rate_limit import Share
from candleflow.market.gap import GapEvent, GapEventKind
from candleflow.market.payload import decode_payload
from candleflow.market.trade import Trade
from candleflow.market.window import DAY_US, SECOND_US
from candleflow.settings import Settings
from candleflow.simulator.audience import Faults
from candleflow.simulator.market import SeededMarket
from candleflow.simulator.server import Simulator
from tests.broker.test_gap_log import noted_records, write
from tests.broker.topics import remove_topics
from tests.pipeline.producing import Tail, producing, until
from tests.store.processor import Processor
from tests.store.trades import FIVE_SECONDS
from tests.store_fixtures import Database

SYMBOL: Final = "BTCUSDT"
RATE: Final = 5
MARKET: Final = SeededMarket(1, RATE, [SYMBOL])
AGO_US: Final = 900 * SECOND_US
"""The candles cover the ten minutes that began a quarter of an hour ago."""
SPAN_US: Final = 600 * SECOND_US


@dataclass
class Scene:
    settings: Settings
    database: Database
    processor: Processor
    began_at: int

    def trades(self) -> list[Trade]:
        """Return all trades of the ten minutes, from the start of a window; times in ms, as in the stream."""
        since = self.began_at - self.began_at % (60 * SECOND_US)
        ids = MARKET.id_at(SYMBOL, since), MARKET.id_at(SYMBOL, since + SPAN_US)
        return [
            replace(one, trade_time=one.trade_time // 1_000 * 1_000) for one in MARKET.trades(SYMBOL, ids)
        ]

    def store(self, trades: list[Trade]) -> None:
        self.processor.merge(trades)
        self.processor.close_quiet(self.began_at + AGO_US)

    def let_pass(self, seconds: float) -> int:
        """Act as if the processor had read the whole topic ``seconds`` from now; return that time."""
        now = time.time_ns() // 1_000 + int(seconds * SECOND_US)
        with self.database.owner().cursor() as cursor:
            cursor.execute("UPDATE topics SET caught_up_at = to_timestamp(%s)", (now / SECOND_US,))
        return now

    def gaps_found(self, after_seconds: float = 60) -> list[tuple[int, int, str]]:
        auditor = Auditor(self.settings)
        found = auditor.find_gaps(self.let_pass(after_seconds))
        return [(one.first_trade_id, one.last_trade_id, one.why) for one in found]

    def is_all_complete(self) -> bool:
        """Whether all candles but the first of each interval are complete."""
        with self.database.reader().cursor() as cursor:
            cursor.execute(
                "SELECT bool_and(is_complete) FROM (SELECT is_complete, row_number() OVER"
                " (PARTITION BY interval ORDER BY open_time) AS at FROM candles) c WHERE at > 1"
            )
            return bool((cursor.fetchone() or (False,))[0])


@asynccontextmanager
async def on_stage(database: Database, bootstrap: str) -> AsyncIterator[Scene]:
    remove_topics(bootstrap)
    gap_log.ensure_topic(bootstrap, "trades.gaps", 1)
    async with Simulator(MARKET) as simulator:
        settings = database.settings_with(
            kafka_bootstrap=bootstrap,
            exchange_ws_url=simulator.ws_url,
            exchange_rest_url=simulator.rest_url,
            symbols=SYMBOL,
        )
        processor = Processor(database.writer(), FIVE_SECONDS)
        yield Scene(settings, database, processor, time.time_ns() // 1_000 - AGO_US)


async def test_an_unreported_gap_is_found_and_filled_once(database: Database, kafka_bootstrap: str) -> None:
    async with on_stage(database, kafka_bootstrap) as scene:
        trades = scene.trades()
        lacking = trades[700:760]
        scene.store([one for one in trades if one not in lacking])
        assert not scene.is_all_complete()
        expected = [(lacking[0].trade_id, lacking[-1].trade_id, "audit")]
        assert await asyncio.to_thread(scene.gaps_found) == expected
        async with producing(scene.settings) as producer:
            await until(lambda: producer._intake.filled == len(lacking))
            await until(lambda: producer._counts()["missing"] == 0)
        fetched = [trade for trade in topic_trades(kafka_bootstrap) if trade.trade_id <= lacking[-1].trade_id]
        assert fetched == lacking
        scene.store(fetched)
        assert scene.is_all_complete()
        assert await asyncio.to_thread(scene.gaps_found, 120) == []


def topic_trades(bootstrap: str) -> list[Trade]:
    tail = Tail(bootstrap, "trades")
    tail.begins_at = 0
    found = [decode_payload(record.value, time.time_ns() // 1_000, 10**9) for record in tail.read()]
    assert all(isinstance(one, Trade) for one in found)
    return [one for one in found if isinstance(one, Trade)]


@pytest.mark.parametrize(
    ("why", "ago_us", "is_fetched_again"),
    [("jump", 0, True), ("audit", 0, False), ("audit", AGAIN_US, True)],
    ids=["jump", "audit", "audit an hour ago"],
)
async def test_a_reported_gap_is_not_reported_again(
    database: Database, kafka_bootstrap: str, why: str, ago_us: int, is_fetched_again: bool
) -> None:
    async with on_stage(database, kafka_bootstrap) as scene:
        trades = scene.trades()
        scene.store(trades[:100] + trades[110:])
        first, last = trades[100].trade_id, trades[109].trade_id
        seen = GapEvent(GapEventKind.SEEN, SYMBOL, first, last, scene.began_at - ago_us, why)
        write(kafka_bootstrap, "trades.gaps", encode(seen))
        assert await asyncio.to_thread(scene.gaps_found) == []
        # An event says it was filled, but it is still missing. The auditor orders it again, at most hourly.
        filled = replace(seen, kind=GapEventKind.FILLED, why="historicalTrades")
        write(kafka_bootstrap, "trades.gaps", encode(filled))
        again = [(first, last, "audit")] if is_fetched_again else []
        assert await asyncio.to_thread(scene.gaps_found) == again


@pytest.mark.parametrize("ahead_us", [0, 30 * DAY_US], ids=["dated now", "dated 30 days ahead"])
async def test_filled_trades_are_no_gap_until_the_processor_has_read_them(
    database: Database, kafka_bootstrap: str, ahead_us: int
) -> None:
    async with on_stage(database, kafka_bootstrap) as scene:
        trades = scene.trades()
        scene.store(trades[:100] + trades[110:])
        first, last = trades[100].trade_id, trades[109].trade_id
        now = time.time_ns() // 1_000
        write(
            kafka_bootstrap,
            "trades.gaps",
            encode(GapEvent(GapEventKind.FILLED, SYMBOL, first, last, now + ahead_us, "historicalTrades")),
        )
        auditor = Auditor(scene.settings)
        auditor.find_gaps(now)  # the event counts as of now, whatever its date
        settle_seconds = SETTLE_US / SECOND_US
        assert await asyncio.to_thread(auditor.find_gaps, scene.let_pass(settle_seconds - 5)) == []
        assert auditor._unchecked == f"not checked yet, just filled: 10 of {SYMBOL}"
        found = await asyncio.to_thread(auditor.find_gaps, scene.let_pass(settle_seconds + 5))
        assert [(one.first_trade_id, one.last_trade_id) for one in found] == [(first, last)]
        assert auditor._unchecked == ""


@pytest.mark.parametrize("symbol", [SYMBOL, "ETHUSDT"])
@pytest.mark.parametrize("kind", GapEventKind)
async def test_an_event_hides_no_other_gap(
    database: Database, kafka_bootstrap: str, symbol: str, kind: GapEventKind
) -> None:
    """Whatever its symbol and however recent it is."""
    async with on_stage(database, kafka_bootstrap) as scene:
        trades = scene.trades()
        scene.store(trades[:100] + trades[110:])
        now = time.time_ns() // 1_000
        write(kafka_bootstrap, "trades.gaps", encode(GapEvent(kind, symbol, 1, 2, now, "jump")))
        expected = [(trades[100].trade_id, trades[109].trade_id, "audit")]
        assert await asyncio.to_thread(scene.gaps_found, 1) == expected


async def test_a_processor_that_is_behind_is_logged(
    database: Database, kafka_bootstrap: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with on_stage(database, kafka_bootstrap) as scene:
        caplog.set_level("INFO")
        scene.store(scene.trades())
        auditor, now = Auditor(scene.settings), scene.let_pass(0)
        for ahead_us in (0, BEHIND_US, BEHIND_US + SECOND_US):
            await asyncio.to_thread(auditor.find_gaps, now + ahead_us)
        assert auditor._unchecked.endswith("is checked for gaps: the processor is behind")
        assert caplog.text.count("the processor is behind") == 1
        await asyncio.to_thread(auditor.find_gaps, scene.let_pass(200))
        assert "all candles are checked for gaps again" in caplog.text


async def test_the_topic_of_gaps_is_read_once_and_then_from_its_end(
    database: Database, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with on_stage(database, kafka_bootstrap) as scene:
        trades = scene.trades()
        scene.store(trades[:100] + trades[110:])
        decoded = noted_records(monkeypatch)
        other = GapEvent(GapEventKind.SEEN, "ETHUSDT", 1, 2, scene.began_at, "jump")
        write(kafka_bootstrap, "trades.gaps", *[encode(other)] * 10)
        auditor, now = Auditor(scene.settings), scene.let_pass(60)
        for expected in (1, 0, 0):
            assert len(await asyncio.to_thread(auditor.find_gaps, now)) == expected
        assert len(decoded) == 11, "the ten, and the auditor's own event"


async def run_until(auditor: Auditor, condition: Callable[[], bool]) -> None:
    task = asyncio.create_task(auditor.run())
    try:
        await until(condition, 60)
    finally:
        auditor.stop()
        await task


async def test_the_latest_candles_are_compared_with_the_klines(
    database: Database, kafka_bootstrap: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with on_stage(database, kafka_bootstrap) as scene:
        trades = scene.trades()
        scene.store(trades)
        auditor = Auditor(scene.settings)
        await run_until(auditor, lambda: auditor.counts()["equal"] > 50)
        sound, by_symbol = auditor.counts(), auditor.by_symbol()
        assert sound["different"] == sound["extra"] == 0
        assert sum(by_symbol["equal"][symbol] for symbol in scene.settings.symbols) == sound["equal"]
        assert all(0 <= by_symbol["compared_age_s"][symbol] < 60 for symbol in scene.settings.symbols)
        assert "is different" not in caplog.text
        with database.owner().cursor() as cursor:
            cursor.execute(
                "UPDATE candles SET quote_volume = quote_volume + 0.00000001 WHERE interval = '5s' AND"
                " open_time = (SELECT max(open_time) - interval '5 s' FROM candles WHERE interval = '5s')"
            )
            assert cursor.rowcount == 1
        other = Auditor(scene.settings)
        await run_until(other, lambda: other.counts()["different"] == 1)
        assert caplog.text.count("is different") == 1
        assert "quote_volume" in caplog.text


async def test_late_trades_do_not_count_as_differences(
    database: Database, kafka_bootstrap: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The stored trades end in the middle of a window, which the clock then closes too early."""
    async with on_stage(database, kafka_bootstrap) as scene:
        trades = scene.trades()
        late = range(4 * len(trades) // 5, len(trades))
        middle = next(at for at in late if trades[at].trade_time % 5_000_000 > 3e6)
        scene.store(trades[:middle])
        auditor = Auditor(scene.settings)
        await run_until(auditor, lambda: auditor.counts()["equal"] > 20)
        found = auditor.counts()
        assert found["different"] == found["missing"] == found["extra"] == 0
        assert "is missing" not in caplog.text


async def test_the_auditor_and_the_gap_filler_share_the_rate_limit(
    database: Database,
) -> None:
    """As two processes that share only the data folder."""
    names = [f"S{number}USDT" for number in range(60)]
    market = SeededMarket(1, RATE, names)
    began_at = time.time_ns() // 1_000 - AGO_US
    trades = []
    for name in names:
        first = market.id_at(name, began_at)
        trades += list(market.trades(name, (first, first + 2)))
    faults = Faults(throttle_after=90, throttle_requests=1, retry_after_seconds=1)
    async with Simulator(market, faults=faults) as simulator:
        settings = database.settings_with(
            exchange_ws_url=simulator.ws_url, exchange_rest_url=simulator.rest_url, symbols=",".join(names)
        )
        Processor(database.writer(), FIVE_SECONDS).merge(trades)
        auditor = Auditor(settings)
        comparing = asyncio.create_task(auditor.compare())
        await until(lambda: faults.throttle_requests == 0)
        refused_at = simulator.rest_requests[-1]
        async with TradeHistory(addresses(settings, Share.FILLING).rest) as history:
            page = await history.page(names[0], trades[0].trade_id, 2)
        assert [one.trade_id for one in page.trades] == [one.trade_id for one in trades[:2]]
        await comparing
        assert not [at for at in simulator.rest_requests if refused_at < at < refused_at + 0.95]
        assert len(simulator.rest_requests) == 3 * 60 + 2, "all others are compared after the wait"
        assert set(auditor._agreement) == set(names)


async def test_repair_orders_all_gaps_of_the_time_range(database: Database, kafka_bootstrap: str) -> None:
    async with on_stage(database, kafka_bootstrap) as scene:
        trades = scene.trades()
        scene.store(trades[:100] + trades[110:200] + trades[201:])
        first, last = trades[100].trade_id, trades[109].trade_id
        given_up = GapEvent(GapEventKind.SEEN, SYMBOL, first, last, scene.began_at, "jump")
        write(
            kafka_bootstrap,
            "trades.gaps",
            encode(given_up),
            encode(replace(given_up, kind=GapEventKind.GIVEN_UP, why="older than 6 h")),
        )
        done = await asyncio.to_thread(command, scene, "repair", "--symbol", SYMBOL)
        assert done.returncode == 0, done.stderr
        assert f"trades {first} to {last} will be fetched" in done.stdout
        assert "11 trades missing in 2 gaps" in done.stdout
        log = read_all(kafka_bootstrap, "trades.gaps")
        assert [(one.kind, one.why, len(one.ranges)) for one in log[2:]] == [(GapEventKind.SEEN, "repair", 2)]
        listed = await asyncio.to_thread(command, scene, "gaps", "--open")
        assert "3 gaps, 11 trades still missing" in listed.stdout


def command(scene: Scene, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings, database = scene.settings, scene.database
    environment = {
        "PATH": "/usr/bin:/bin",
        "CANDLEFLOW_KAFKA_BOOTSTRAP": settings.kafka.bootstrap,
        "CANDLEFLOW_POSTGRES_URL": settings.postgres.url.get_secret_value(),
        "CANDLEFLOW_POSTGRES_PASSWORD": database.owner_password,
        "CANDLEFLOW_DATA_DIR": str(settings.stack.data_dir),
    }
    return subprocess.run(
        [sys.executable, "-m", "candleflow", *arguments],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
