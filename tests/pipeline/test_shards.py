"""Several producers share the symbols and one real Kafka, and publish every trade once.

At the end the topic must contain each symbol's trade ids from the first to the last without a gap.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from candleflow.broker.gap_log import encode, read_all
from candleflow.errors import HeldError
from candleflow.market.gap import GapEvent, GapEventKind, gap_state_of
from candleflow.market.shard import Shard
from candleflow.market.trade_ids import TradeIds
from candleflow.producer import process as module
from candleflow.producer.process import Producer
from candleflow.settings import Settings
from candleflow.simulator.market import SeededMarket
from candleflow.simulator.server import Simulator
from candleflow.telemetry import read_heartbeat
from tests.broker.test_gap_log import write
from tests.broker.topics import remove_topics
from tests.pipeline.producing import (
    DEADLINE_SECONDS,
    Tail,
    end_of,
    last_heartbeat,
    producing,
    published_until_now,
    settings_for,
    spawn,
    until,
)

GAPS = "trades.gaps"
RATE = 300
SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "XRPUSDT", "DOGEUSDT")
FIRST, SECOND = Shard(1, 2).among(SYMBOLS), Shard(2, 2).among(SYMBOLS)


@pytest.fixture(autouse=True)
def no_topics(kafka_bootstrap: str) -> None:
    remove_topics(kafka_bootstrap)


@pytest.fixture
async def exchange() -> AsyncIterator[Simulator]:
    async with Simulator(SeededMarket(1, RATE, SYMBOLS)) as simulator:
        yield simulator


class Place:
    """One data folder, one Kafka and one exchange, for the producers of any shards."""

    def __init__(self, folder: Path, bootstrap: str, exchange: Simulator) -> None:
        self._folder = folder
        self._bootstrap = bootstrap
        self._exchange = exchange

    def settings(self, shard: str, folder: str = ".", symbols: Collection[str] = SYMBOLS) -> Settings:
        return settings_for(
            self._folder / folder,
            self._bootstrap,
            self._exchange.ws_url,
            exchange_rest_url=self._exchange.rest_url,
            symbols=tuple(symbols),
            shard=shard,
        )

    async def events(self) -> list[GapEvent]:
        return await asyncio.to_thread(read_all, self._bootstrap, GAPS)

    async def ids(self) -> dict[str, list[int]]:
        tail = Tail(self._bootstrap, "trades")
        tail.begins_at = 0
        return await asyncio.to_thread(tail.trade_ids)

    async def order(self, symbol: str, first: int, last: int) -> None:
        """Report trades as missing, as the audit process does, even if they were published."""
        wanted = GapEvent(GapEventKind.SEEN, symbol, first, last, time.time_ns() // 1_000, "audit")
        await asyncio.to_thread(write, self._bootstrap, GAPS, encode(wanted))

    async def until_filled(self, symbols: Collection[str], times: int = 1) -> None:
        """Wait until each symbol had ``times`` gaps because of restarts and all gaps are filled."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                log = await self.events()
                missed = restarts(log)
                if all(missed[symbol] >= times for symbol in symbols) and not gap_state_of(log).open_ranges():
                    return
                await asyncio.sleep(0.2)

    async def assert_each_once(self, symbols: Collection[str] = SYMBOLS) -> None:
        found = await self.ids()
        assert found.keys() == set(symbols)
        for symbol, ids in found.items():
            assert list(TradeIds(ids).gaps()) == [], symbol
            assert len(ids) == len(set(ids)), symbol


@pytest.fixture
def place(tmp_path: Path, kafka_bootstrap: str, exchange: Simulator) -> Place:
    return Place(tmp_path, kafka_bootstrap, exchange)


def restarts(log: Collection[GapEvent]) -> Counter[str]:
    return Counter(one.symbol for one in log if one.kind is GapEventKind.SEEN and one.why == "restart")


def published(producer: Producer) -> int:
    return producer.counts()["published"]


def followed(producer: Producer) -> set[str]:
    """Return the symbols of which the producer has received a trade."""
    return set(producer._intake.last_trade_times)


@asynccontextmanager
async def both(place: Place) -> AsyncIterator[tuple[Producer, Producer]]:
    """Run the producers of two shards and wait until each has received trades of all its symbols."""
    async with producing(place.settings("1/2")) as first, producing(place.settings("2/2")) as second:
        await until(lambda: followed(first) >= set(FIRST) and followed(second) >= set(SECOND))
        yield first, second


def test_each_of_two_shards_has_some_of_the_symbols() -> None:
    assert len(FIRST) == len(SECOND) == 3


async def test_two_shards_publish_every_trade_once_each_only_its_own(place: Place) -> None:
    async with both(place) as (first, second):
        await until(lambda: published(first) > 300 and published(second) > 300)
        beats = [last_heartbeat(place.settings(shard)) for shard in ("1/2", "2/2")]
    assert followed(first) == set(FIRST)
    assert followed(second) == set(SECOND)
    await place.assert_each_once()
    records = sum(len(ids) for ids in (await place.ids()).values())
    assert records == published(first) + published(second)
    assert [(beat.name, beat.message) for beat in beats] == [
        ("producer-1-of-2", f"shard 1/2: {', '.join(FIRST)}"),
        ("producer-2-of-2", f"shard 2/2: {', '.join(SECOND)}"),
    ]


async def test_a_gap_that_the_audit_reports_is_filled_only_by_the_shard_with_the_symbol(
    place: Place,
) -> None:
    async with both(place) as (first, second):
        await until(lambda: published(first) > 100 and published(second) > 100)
        lowest = min((await place.ids())["ETHUSDT"])
        await place.order("ETHUSDT", lowest + 1, lowest + 5)
        await until(lambda: second._intake.filled == 5)
        # Another gap for the first producer: when it has filled this one, it has also seen and ignored the
        # one before.
        begin = min((await place.ids())["BTCUSDT"])
        await place.order("BTCUSDT", begin + 1, begin + 3)
        await until(lambda: first._intake.filled == 3)
        await until(lambda: first._counts()["missing"] == second._counts()["missing"] == 0)
    assert (first._intake.filled, second._intake.filled) == (3, 5)
    ids = await place.ids()
    twice = {
        symbol: sorted(one for one, count in Counter(ids[symbol]).items() if count > 1) for symbol in ids
    }
    assert {symbol: found for symbol, found in twice.items() if found} == {
        "BTCUSDT": list(range(begin + 1, begin + 4)),
        "ETHUSDT": list(range(lowest + 1, lowest + 6)),
    }


async def test_a_shard_without_a_symbol_runs_says_so_and_does_nothing(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    settings = place.settings("2/2", symbols=FIRST)
    async with producing(settings) as producer:
        await until(lambda: last_heartbeat(settings).state == "running")
        assert last_heartbeat(settings).message == "shard 2/2: it gets no symbol"
    assert producer.counts()["received"] == 0
    assert "it does nothing until CANDLEFLOW_SYMBOLS changes" in caplog.text
    assert await place.ids() == {}


@pytest.mark.slow
async def test_from_one_shard_to_two_and_back_nothing_is_lost_or_doubled(place: Place) -> None:
    async with producing(place.settings("1/1")) as whole:
        await until(lambda: followed(whole) >= set(SYMBOLS))
    async with both(place) as (first, second):
        await place.until_filled(SYMBOLS)
    assert followed(first) == set(FIRST)
    assert followed(second) == set(SECOND)
    async with producing(place.settings("1/1")) as whole:
        await until(lambda: followed(whole) >= set(SYMBOLS))
        await place.until_filled(SYMBOLS, times=2)
    await place.assert_each_once()
    assert restarts(await place.events()) == dict.fromkeys(SYMBOLS, 2), (
        "each gap was noted by only one of them"
    )


@pytest.mark.slow
async def test_a_killed_shard_resumes_with_its_symbols_while_the_other_never_stops(
    place: Place,
) -> None:
    doomed = place.settings("2/2")
    async with producing(place.settings("1/2")) as first:
        process = spawn(doomed)
        await until(lambda: published_until_now(doomed) > 100)
        process.kill()
        await end_of(process)
        before = published(first)
        async with producing(doomed) as second:
            await place.until_filled(SECOND)
            await until(lambda: published(first) > before + 300)
        assert followed(second) == set(SECOND)
    assert first._stream.reconnects == 0
    await place.assert_each_once()
    assert restarts(await place.events()).keys() == set(SECOND)


@pytest.mark.parametrize(("holder", "other"), [("1/2", "1/2"), ("1/1", "2/2"), ("2/2", "1/1")])
async def test_a_second_producer_of_the_same_symbols_gets_an_error_that_names_the_first(
    place: Place, holder: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 1.0)
    async with producing(place.settings(holder)) as first:
        await until(lambda: published(first) > 100)
        second = Producer(place.settings(other, "other"))
        with pytest.raises(HeldError, match=f"process {os.getpid()}, for shard {holder}; only one may"):
            await second.run()
        assert second.counts()["received"] == 0
        before = published(first)
        await until(lambda: published(first) > before + 100)
    await place.assert_each_once(Shard.of(holder).among(SYMBOLS))


@pytest.mark.slow
async def test_a_suspended_producer_ends_when_shards_of_another_count_have_taken_over(place: Place) -> None:
    whole = place.settings("1/1", "other")
    process = spawn(whole)
    await until(lambda: published_until_now(whole) > 100)
    process.send_signal(signal.SIGSTOP)
    async with both(place) as (first, second):
        await place.until_filled(SYMBOLS)
        process.send_signal(signal.SIGCONT)
        status, said, _ = await end_of(process, 30)
        assert status == 1, said
        assert "another producer publishes" in said
        before = published(first), published(second)
        await until(lambda: published(first) > before[0] + 100 and published(second) > before[1] + 100)
    assert read_heartbeat(whole.stack.run_dir, "producer") is None
    found = await place.ids()
    assert all(list(TradeIds(ids).gaps()) == [] for ids in found.values())
