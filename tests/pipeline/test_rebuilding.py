"""Wrong candles are rebuilt from a real topic, by the auditor and by ``repair``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from candleflow.audit.process import Auditor
from candleflow.broker import gap_log
from candleflow.broker.topics import ensure_topics, topic_id
from candleflow.market import payload
from candleflow.market.trade import Trade
from candleflow.market.window import SECOND_US
from candleflow.simulator.server import Simulator
from tests.broker.topics import remove_topics
from tests.pipeline.test_audit import AGO_US, MARKET, SYMBOL, Scene, command, run_until
from tests.store.processor import Processor
from tests.store.trades import FIVE_SECONDS
from tests.store_fixtures import Database

AMOUNTS: Final = """
    SELECT interval, open_time, end_time, open, high, low, close, volume, quote_volume, taker_buy_volume,
        taker_buy_quote_volume, trade_count, first_trade_id, last_trade_id, held_ids(candles), is_closed,
        is_complete
    FROM candles ORDER BY interval, open_time
"""
OF_ONE: Final = "WHERE interval = '5s' AND first_trade_id <= %(id)s AND last_trade_id >= %(id)s"
DOUBLE: Final = f"UPDATE candles SET volume = volume * 2 {OF_ONE}"  # noqa: S608 - constants of this module
LOSE: Final = f"DELETE FROM candles {OF_ONE}"  # noqa: S608
OTHER_OPEN: Final = f"UPDATE candles SET open = CASE WHEN open = high THEN low ELSE high END {OF_ONE}"  # noqa: S608
DOUBLE_ROLL_UPS: Final = """
    UPDATE candles SET quote_volume = quote_volume * 2 WHERE interval IN ('1h', '5m')
        AND (interval, open_time) IN (SELECT interval, max(open_time) FROM candles GROUP BY 1)
"""
NONE: Final = slice(0)
EVERYTHING: Final = "SELECT * FROM candles ORDER BY symbol, interval, open_time"


class Stage(Scene):
    """A scene whose trades are in the topic, with the record times that the producer sets."""

    def publish(self, trades: Sequence[Trade], *, late_by_us: int = 0) -> None:
        """Publish as the producer does; record times are the trade's time plus ``late_by_us``."""
        producer = KafkaProducer(bootstrap_servers=self.settings.kafka.bootstrap)
        for trade in trades:
            at = (trade.trade_time + late_by_us) // 1_000
            producer.send("trades", payload.encode(trade), trade.symbol.encode(), timestamp_ms=at)
        producer.flush()
        producer.close()

    def ask(self, statement: str, at: int = 0) -> list[Any]:
        """Run a statement as the owner with the id of trade ``at`` (negative: from the end); return rows."""
        with self.database.owner().cursor() as cursor:
            cursor.execute(statement, {"id": self.trades()[at].trade_id})
            return cursor.fetchall() if cursor.description else []

    def harm(self) -> None:
        """Change a finest candle's sums, delete another one, and change two roll-ups."""
        self.ask(DOUBLE, -500)
        self.ask(LOSE, -900)
        self.ask(DOUBLE_ROLL_UPS)

    def is_again(self, right: list[Any]) -> bool:
        """Whether the candles equal ``right``, after the processor has closed open ones."""
        self.processor.close_quiet(self.began_at + AGO_US)
        return self.ask(AMOUNTS) == right


def amid(trades: Sequence[Trade]) -> int:
    """Return the negative index of a trade with two before it and one after it in its window."""
    window_us = FIVE_SECONDS.size_us
    for at in range(-500, 0):
        if trades[at - 2].trade_time // window_us == trades[at + 1].trade_time // window_us:
            return at
    raise AssertionError("no window has four trades")


@asynccontextmanager
async def on_stage(
    database: Database, bootstrap: str, *, fetched_later: slice = NONE, lacks_one: bool = False
) -> AsyncIterator[Stage]:
    """Put the ten minutes that began a quarter of an hour ago into the topic and the candles.

    ``fetched_later``: trades that arrive last, five minutes late. ``lacks_one``: leave out trade ``amid``.
    """
    remove_topics(bootstrap)
    gap_log.ensure_topic(bootstrap, "trades.gaps", 1)
    ensure_topics(bootstrap, ["trades"], 1, 1, 168)
    async with Simulator(MARKET) as simulator:
        settings = database.settings_with(
            kafka_bootstrap=bootstrap,
            exchange_ws_url=simulator.ws_url,
            exchange_rest_url=simulator.rest_url,
            symbols=SYMBOL,
        )
        processor = Processor(database.writer(), FIVE_SECONDS, topic_id=topic_id(bootstrap, "trades"))
        stage = Stage(settings, database, processor, time.time_ns() // 1_000 - AGO_US)
        trades = stage.trades()
        later, absent = trades[fetched_later], [trades[amid(trades)]] if lacks_one else []
        in_time = [one for one in trades if one not in later and one not in absent]
        await asyncio.to_thread(stage.publish, in_time)
        await asyncio.to_thread(stage.publish, later, late_by_us=300 * SECOND_US)
        stage.store([*in_time, *later])
        stage.let_pass(60)
        yield stage


async def test_the_auditor_rebuilds_changed_and_deleted_candles(
    database: Database, kafka_bootstrap: str, caplog: Any
) -> None:
    async with on_stage(database, kafka_bootstrap) as stage:
        right = stage.ask(AMOUNTS)
        stage.harm()
        assert not stage.is_again(right)
        auditor = Auditor(stage.settings)
        await run_until(auditor, lambda: auditor.counts()["repaired"] >= 4)
        assert stage.is_again(right)
        assert auditor.counts()["holes"] == 0, "trades that are in the topic need not be fetched"
        assert "not all rebuilt" not in caplog.text
        assert stage.ask("SELECT count(*) FROM candles WHERE revision > 0") == [(4,)]
        other = Auditor(stage.settings)
        await run_until(other, lambda: other.counts()["repaired"] == 4)


async def test_trades_that_were_fetched_later_are_found_later_in_the_topic(
    database: Database, kafka_bootstrap: str
) -> None:
    async with on_stage(database, kafka_bootstrap, fetched_later=slice(-520, -480)) as stage:
        right = stage.ask(AMOUNTS)
        stage.ask(DOUBLE, -500)
        auditor = Auditor(stage.settings)
        await asyncio.to_thread(auditor.rebuild, time.time_ns() // 1_000)
        assert stage.is_again(right)


async def test_unmerged_and_rejected_records_are_ignored(database: Database, kafka_bootstrap: str) -> None:
    """A trade comes late: first dated two minutes after its record, so it is rejected; then correctly."""
    async with on_stage(database, kafka_bootstrap, lacks_one=True) as stage:
        right = stage.ask(AMOUNTS)
        at = amid(stage.trades())
        late = stage.trades()[at]
        auditor = Auditor(stage.settings)
        for late_by_us in (-120 * SECOND_US, 300 * SECOND_US):
            stage.ask(DOUBLE, at - 2)
            await asyncio.to_thread(stage.publish, [late], late_by_us=late_by_us)
            await asyncio.to_thread(auditor.rebuild, time.time_ns() // 1_000)
            assert stage.is_again(right)
            stage.ask("UPDATE topic_offsets SET next_offset = next_offset + 1")
        stage.ask(DOUBLE, at - 2)
        await asyncio.to_thread(auditor.rebuild, time.time_ns() // 1_000)
        found = stage.ask("SELECT interval, sum(trade_count) FROM candles GROUP BY interval")
        assert {count for _, count in found} == {len(stage.trades())}


async def test_a_price_that_only_the_klines_show_to_be_wrong_is_rebuilt(
    database: Database, kafka_bootstrap: str, caplog: Any
) -> None:
    async with on_stage(database, kafka_bootstrap) as stage:
        right = stage.ask(AMOUNTS)
        stage.ask(OTHER_OPEN, -510)
        assert not stage.is_again(right)
        auditor = Auditor(stage.settings)
        await auditor.compare()
        assert auditor.counts()["different"] == 1
        await asyncio.to_thread(auditor.rebuild, time.time_ns() // 1_000)
        assert stage.is_again(right)
        await auditor.compare()
        assert auditor.counts()["different"] == 0


async def test_a_candle_that_matches_its_trades_but_not_the_kline_is_reported_and_kept(
    database: Database, kafka_bootstrap: str, caplog: Any
) -> None:
    """A trade in the topic has another quantity than in the exchange's history."""
    async with on_stage(database, kafka_bootstrap) as stage:
        await asyncio.to_thread(begin_with_another_trade, stage)
        before = stage.ask(EVERYTHING)
        auditor = Auditor(stage.settings)
        for _ in range(3):
            await auditor.compare()
            await asyncio.to_thread(auditor.rebuild, time.time_ns() // 1_000)
        assert auditor.counts()["different"] == 2
        assert stage.ask(EVERYTHING) == before
        assert caplog.text.count("0 candles rebuilt") == 1


def begin_with_another_trade(stage: Stage) -> None:
    """Replace the topic and the candles by ones in which one trade has another quantity."""
    bootstrap = stage.settings.kafka.bootstrap
    remove_topics(bootstrap)
    gap_log.ensure_topic(bootstrap, "trades.gaps", 1)
    ensure_topics(bootstrap, ["trades"], 1, 1, 168)
    stage.ask("TRUNCATE candles, symbols, topics, topic_offsets, record_counts")
    stage.processor.cursor.connection.close()
    stage.processor = Processor(stage.database.writer(), FIVE_SECONDS, topic_id=topic_id(bootstrap, "trades"))
    trades = stage.trades()
    trades[-500] = replace(trades[-500], quantity=trades[-500].quantity * 2)
    stage.publish(trades)
    stage.store(trades)
    stage.let_pass(60)


async def test_if_the_topic_lost_the_trades_attempts_are_logged_and_limited(
    database: Database, kafka_bootstrap: str, caplog: Any
) -> None:
    async with on_stage(database, kafka_bootstrap) as stage:
        admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
        admin.delete_records({TopicPartition("trades", 0): len(stage.trades()) - 498})
        admin.close()
        stage.ask(DOUBLE, -500)
        before = stage.ask(EVERYTHING)
        auditor = Auditor(stage.settings)
        now = time.time_ns() // 1_000
        for second in (0, 5, 30, 61, 65, 122, 183, 244):
            await asyncio.to_thread(auditor.rebuild, now + second * SECOND_US)
        assert caplog.text.count("candles rebuilt") == 3
        assert caplog.text.count("not all rebuilt: the topic no longer has") == 3
        assert stage.ask(EVERYTHING) == before


async def test_repair_rebuilds_and_reports_everything_wrong_in_the_time_range(
    database: Database, kafka_bootstrap: str
) -> None:
    async with on_stage(database, kafka_bootstrap) as stage:
        right = stage.ask(AMOUNTS)
        stage.harm()
        stage.ask("DELETE FROM candles WHERE interval = '1d'")
        done = await asyncio.to_thread(command, stage, "repair", "--symbol", SYMBOL)
        assert done.returncode == 0, done.stderr
        assert stage.is_again(right)
        assert "a 1m roll-up is not the sum of its candles" in done.stdout
        assert "5 candles rebuilt\n0 trades missing in 0 gaps" in done.stdout
        again = await asyncio.to_thread(command, stage, "repair", "--symbol", SYMBOL)
        assert again.stdout == "0 candles rebuilt\n0 trades missing in 0 gaps\n"
