"""Gaps, from missing trades in a stream to the last filled trade in a real Kafka.

In most tests the topic must finally have every id between the first and the last one. ``producing`` checks
that received = published + duplicate + rejected.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from candleflow.broker.gap_log import encode, read_all
from candleflow.market.gap import GapEvent, GapEventKind, gap_state_of
from candleflow.market.trade_ids import TradeIds
from candleflow.producer import gap_filler, intake, tail
from candleflow.producer.process import Producer
from candleflow.settings import Settings
from candleflow.simulator.audience import Faults
from candleflow.simulator.market import SeededMarket
from candleflow.simulator.server import Simulator, Timing
from candleflow.stack.kafka import KafkaServer
from candleflow.stack.process import free_port
from tests.broker.test_gap_log import write
from tests.broker.topics import remove_topics
from tests.faults.unruly_exchange import HaltingMarket
from tests.pipeline.producing import (
    Tail,
    end_of,
    frame,
    last_heartbeat,
    producing,
    published_until_now,
    send_signal,
    sending,
    settings_for,
    spawn,
    until,
)

GAPS = "trades.gaps"
SEEN, FILLED, GIVEN_UP = GapEventKind.SEEN, GapEventKind.FILLED, GapEventKind.GIVEN_UP
RATE = 300


@pytest.fixture(autouse=True)
def no_topics(kafka_bootstrap: str) -> None:
    remove_topics(kafka_bootstrap)


async def events(bootstrap: str) -> list[GapEvent]:
    return await asyncio.to_thread(read_all, bootstrap, GAPS)


def open_ranges(log: Sequence[GapEvent]) -> dict[str, tuple[tuple[int, int], ...]]:
    return gap_state_of(log).open_ranges()


async def ids_in_topic(bootstrap: str) -> dict[str, list[int]]:
    tail = Tail(bootstrap, "trades")
    tail.begins_at = 0
    return await asyncio.to_thread(tail.trade_ids)


def missing(ids: Sequence[int]) -> list[tuple[int, int]]:
    return list(TradeIds(ids).gaps())


def has_caught_up(producer: Producer, published: int) -> bool:
    """Whether no trade is missing, and at least ``published`` trades are in the topic."""
    counts = producer._counts()
    return counts["missing"] == 0 and counts["filled"] > 0 and counts["published"] >= published


class Omitting:
    """A set of two ranges of ids, relative to the first id that it is asked for."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.omitted: list[int] = []

    def __contains__(self, trade_id: object) -> bool:
        assert isinstance(trade_id, int)
        if self.first is None:
            self.first = trade_id
        is_omitted = 50 <= trade_id - self.first < 60 or 100 <= trade_id - self.first < 101
        if is_omitted:
            self.omitted.append(trade_id)
        return is_omitted


async def test_ids_missing_in_the_stream_are_reported_and_then_filled(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    left_out = Omitting()
    faults = Faults(omit_ids={"BTCUSDT": left_out})
    async with Simulator(SeededMarket(1, RATE, ["BTCUSDT"]), faults=faults) as simulator:
        settings = settings_for(
            tmp_path, kafka_bootstrap, simulator.ws_url, exchange_rest_url=simulator.rest_url
        )
        async with producing(settings) as producer:
            await until(lambda: has_caught_up(producer, 500))
        assert producer.counts()["received"] == producer.counts()["published"]
    (ids,) = (await ids_in_topic(kafka_bootstrap)).values()
    assert set(left_out.omitted) <= set(ids)
    assert not missing(ids)
    assert len(ids) == len(set(ids))
    log = await events(kafka_bootstrap)
    first = left_out.omitted[0]
    assert [
        (one.kind, one.first_trade_id, one.last_trade_id, one.why) for one in log if one.kind is SEEN
    ] == [
        (SEEN, first, first + 9, "jump"),
        (SEEN, first + 50, first + 50, "jump"),
    ]
    assert {one.why for one in log if one.kind is FILLED} == {"historicalTrades"}
    assert open_ranges(log) == {}
    await assert_noted_before_published(kafka_bootstrap, log)


async def assert_noted_before_published(bootstrap: str, log: Sequence[GapEvent]) -> None:
    """Check that each gap was reported before any later trade was published."""
    trades, notes = Tail(bootstrap, "trades"), Tail(bootstrap, GAPS)
    trades.begins_at = notes.begins_at = 0
    noted = [record.timestamp for record in await asyncio.to_thread(notes.read)]
    sent = {
        json.loads(record.value)["t"]: record.timestamp for record in await asyncio.to_thread(trades.read)
    }
    for event, noted_at in zip(log, noted, strict=True):
        if event.kind is SEEN:
            assert noted_at <= sent[event.last_trade_id + 1]


async def test_trades_while_no_producer_ran_are_filled_at_the_next_start(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    async with Simulator(SeededMarket(1, RATE, ["BTCUSDT", "ETHUSDT"])) as simulator:
        settings = settings_for(
            tmp_path,
            kafka_bootstrap,
            simulator.ws_url,
            exchange_rest_url=simulator.rest_url,
            symbols=("BTCUSDT", "ETHUSDT"),
        )
        async with producing(settings) as producer:
            await until(lambda: producer.counts()["published"] > 200)
        async with producing(settings) as producer:
            await until(lambda: has_caught_up(producer, 300))
    found = await ids_in_topic(kafka_bootstrap)
    assert all(not missing(ids) and len(ids) == len(set(ids)) for ids in found.values())
    seen = [one for one in await events(kafka_bootstrap) if one.kind is SEEN]
    assert Counter((one.symbol, one.why) for one in seen) == {
        ("BTCUSDT", "restart"): 1,
        ("ETHUSDT", "restart"): 1,
    }


@pytest.mark.slow
async def test_kills_leave_no_gap(tmp_path: Path, kafka_bootstrap: str) -> None:
    async with Simulator(SeededMarket(1, RATE, ["BTCUSDT"])) as simulator:
        settings = settings_for(
            tmp_path, kafka_bootstrap, simulator.ws_url, exchange_rest_url=simulator.rest_url
        )
        for _ in range(2):
            process = spawn(settings)
            await until(lambda: published_until_now(settings) > 100)
            process.kill()
            await end_of(process)
            settings.stack.run_dir.joinpath("producer.json").unlink()
        async with producing(settings) as producer:
            await until(lambda: has_caught_up(producer, 300))
    (ids,) = (await ids_in_topic(kafka_bootstrap)).values()
    assert not missing(ids)
    assert open_ranges(await events(kafka_bootstrap)) == {}


async def test_repeated_disconnects_leave_no_gap(tmp_path: Path, kafka_bootstrap: str) -> None:
    faults = Faults(disconnect_after=150)
    async with Simulator(SeededMarket(1, RATE, ["BTCUSDT"]), faults=faults) as simulator:
        settings = settings_for(
            tmp_path, kafka_bootstrap, simulator.ws_url, exchange_rest_url=simulator.rest_url
        )
        async with producing(settings) as producer:
            await until(lambda: producer._stream.reconnects >= 3)
            faults.disconnect_after = None
            await until(lambda: has_caught_up(producer, 600))
    (ids,) = (await ids_in_topic(kafka_bootstrap)).values()
    assert not missing(ids)
    assert {one.why for one in await events(kafka_bootstrap) if one.kind is SEEN} == {"reconnect"}


async def test_trades_during_a_disconnect_are_filled_even_if_none_follows(
    tmp_path: Path, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((tail, "SETTLE_SECONDS"), (tail, "GRACE_SECONDS"), (gap_filler, "GRACE_SECONDS")):
        monkeypatch.setattr(module, name, 0.2)
    symbols = ("BTCUSDT", "ETHUSDT")
    market = HaltingMarket(1, 6_000, symbols)
    async with Simulator(market) as simulator:
        settings = settings_for(
            tmp_path,
            kafka_bootstrap,
            simulator.ws_url,
            exchange_rest_url=simulator.rest_url,
            symbols=symbols,
        )
        async with producing(settings) as producer:
            await until(lambda: set(symbols) <= producer._intake.last_trade_times.keys())
            simulator.faults.refuse_connections = 1_000_000
            simulator.drop_all("a test")
            cut_at = made(market, symbols)
            await until(lambda: made(market, symbols) >= cut_at + 10_000)
            market.halt()
            simulator.faults.is_silent = True
            simulator.faults.refuse_connections = 0
            await until(lambda: has_caught_up(producer, 10_000))
    for symbol, ids in (await ids_in_topic(kafka_bootstrap)).items():
        assert not missing(ids)
        assert max(ids) == market.id_range(symbol, time.time_ns() // 1_000)[1] - 1
    log = await events(kafka_bootstrap)
    assert {(one.symbol, one.why) for one in log if one.kind is SEEN} == {
        (one, "reconnect") for one in symbols
    }
    assert open_ranges(log) == {}


def made(market: HaltingMarket, symbols: Sequence[str]) -> int:
    """Return how many trades the market has had."""
    return sum(market.id_range(symbol, time.time_ns() // 1_000)[1] for symbol in symbols)


@pytest.mark.parametrize("first_new", [1, 950])
async def test_restarted_ids_are_new_trades(
    tmp_path: Path, kafka_bootstrap: str, caplog: pytest.LogCaptureFixture, first_new: int
) -> None:
    """Also if all the new ids were published before."""
    now_ms = time.time_ns() // 1_000_000
    frames = [frame(one, time_ms=now_ms - 600_000) for one in range(900, 1_000)]
    frames += [frame(one, time_ms=now_ms - 60_000 + one) for one in range(first_new, first_new + 40)]
    frames += [frame(first_new + 41, time_ms=now_ms)]
    async with sending(*frames) as url, producing(settings_for(tmp_path, kafka_bootstrap, url)) as producer:
        await until(lambda: producer.counts()["published"] == len(frames))
    (ids,) = (await ids_in_topic(kafka_bootstrap)).values()
    assert ids == [*range(900, 1_000), *range(first_new, first_new + 40), first_new + 41]
    assert f"trade ids start again at {first_new}, after 999" in caplog.text
    seen = [(one.first_trade_id, one.last_trade_id) for one in await events(kafka_bootstrap)]
    assert seen == [(first_new + 40, first_new + 40)], "gaps are counted from the new ids"


@pytest.mark.slow
async def test_a_gap_while_kafka_is_down_blocks_only_its_symbol(
    tmp_path: Path, own_broker: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "PATIENCE_SECONDS", 0.5)
    symbols = ("BTCUSDT", "ETHUSDT")
    faults = Faults()
    async with Simulator(SeededMarket(1, RATE, symbols), faults=faults) as simulator:
        settings = settings_for(
            tmp_path,
            own_broker.bootstrap,
            simulator.ws_url,
            exchange_rest_url=simulator.rest_url,
            symbols=symbols,
        )
        async with producing(settings) as producer:
            await until(lambda: producer.counts()["published"] > 200)
            send_signal(own_broker, signal.SIGSTOP)
            faults.omit_ids = {"BTCUSDT": Omitting()}
            await until(lambda: producer._intake.dropped > 100)
            in_flight = producer.counts()["in_flight"]
            await until(lambda: producer.counts()["in_flight"] > in_flight + 300)  # ETHUSDT's
            send_signal(own_broker, signal.SIGCONT)
            await until(lambda: has_caught_up(producer, 1_000))
    found = await ids_in_topic(own_broker.bootstrap)
    assert not any(missing(ids) for ids in found.values())
    log = await events(own_broker.bootstrap)
    assert {one.symbol for one in log if one.kind is SEEN} == {"BTCUSDT"}


@pytest.mark.parametrize("status", [429, 418])
async def test_the_producer_waits_for_the_exchanges_rate_limit(
    tmp_path: Path, kafka_bootstrap: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    left_out = Omitting()
    faults = Faults(omit_ids={"BTCUSDT": left_out}, throttle_status=status, retry_after_seconds=2)
    async with Simulator(SeededMarket(1, RATE, ["BTCUSDT"]), faults=faults) as simulator:
        settings = settings_for(
            tmp_path, kafka_bootstrap, simulator.ws_url, exchange_rest_url=simulator.rest_url
        )
        async with producing(settings) as producer:
            await until(lambda: len(left_out.omitted) > 0)
            faults.throttle_requests = 1
            await until(lambda: has_caught_up(producer, 400))
    (ids,) = (await ids_in_topic(kafka_bootstrap)).values()
    assert not missing(ids)
    host = simulator.rest_url.removeprefix("http://")
    assert f"exchange rate limit: no request to {host} for 2 s" in caplog.text


async def test_a_gap_stays_open_until_the_history_is_available(
    tmp_path: Path, kafka_bootstrap: str, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults(omit_ids={"BTCUSDT": Omitting()})
    market, port = SeededMarket(1, RATE, ["BTCUSDT"]), free_port()
    async with Simulator(market, faults=faults) as simulator:
        settings = settings_for(
            tmp_path, kafka_bootstrap, simulator.ws_url, exchange_rest_url=f"http://127.0.0.1:{port}"
        )
        async with producing(settings) as producer:
            await until(lambda: "a gap can't be filled now" in caplog.text)
            counts = producer._counts()
            assert 1 <= counts["open_gaps"] <= counts["missing"]
            async with Simulator(market, port=port):
                await until(lambda: has_caught_up(producer, 200))
    (ids,) = (await ids_in_topic(kafka_bootstrap)).values()
    assert not missing(ids)


@asynccontextmanager
async def producing_after_a_pause(settings: Settings) -> AsyncIterator[Producer]:
    """Run a producer that has filled what it can of six seconds without a producer."""
    async with producing(settings) as producer:
        await until(lambda: producer.counts()["published"] > 100)
    stopped_at = time.monotonic()
    await until(lambda: time.monotonic() - stopped_at > 6)
    async with producing(settings) as producer:
        await until(lambda: producer._intake.filled > 0)
        await until(lambda: producer._filler._gaps.wanted_ranges() == {})
        yield producer


async def test_a_gap_older_than_the_setting_is_given_up_and_stays_open(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    async with Simulator(SeededMarket(1, RATE, ["BTCUSDT"])) as simulator:
        settings = settings_for(
            tmp_path,
            kafka_bootstrap,
            simulator.ws_url,
            exchange_rest_url=simulator.rest_url,
            fill_hours=4 / 3_600,
        )
        async with producing_after_a_pause(settings) as producer:
            assert producer._counts()["missing"] > 100
    log = await events(kafka_bootstrap)
    # There is more than one event if filling took seconds.
    given_up = [one for one in log if one.kind is GIVEN_UP]
    assert {one.why for one in given_up} == {"older than 0.00111111 h"}
    still_open = open_ranges(log)["BTCUSDT"]
    ids_given_up = TradeIds.of_ranges(ids for one in given_up for ids in one.ranges)
    assert ids_given_up.ranges == still_open
    (ids,) = (await ids_in_topic(kafka_bootstrap)).values()
    assert missing(ids) == list(still_open)


async def test_from_aggregate_trades_only_single_ones_are_filled(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    """On a market-data-only host: the latest 1,000 single trades, and aggregated older ones."""
    market = SeededMarket(1, RATE, ["BTCUSDT"])
    async with Simulator(market, faults=Faults(has_historical_trades=False)) as simulator:
        settings = settings_for(
            tmp_path, kafka_bootstrap, simulator.ws_url, exchange_rest_url=simulator.rest_url
        )
        async with producing_after_a_pause(settings):
            pass
    log = await events(kafka_bootstrap)
    assert "aggTrades" in {one.why for one in log if one.kind is FILLED}
    assert {one.why for one in log if one.kind is GIVEN_UP} == {
        "the exchange has only aggregates of these trades"
    }
    requests = len([one for one in log if one.kind is FILLED])
    assert len(log) <= 1 + 2 * requests < sum(len(one.ranges) for one in log), (
        "one event per page, not per range"
    )
    (ids,) = (await ids_in_topic(kafka_bootstrap)).values()
    still_open = open_ranges(log)["BTCUSDT"]
    assert missing(ids) == list(still_open)
    for trade_id in (one for lower, upper in still_open for one in range(lower, upper)):
        neighbours = {market.aggregate_of("BTCUSDT", trade_id + step) for step in (-1, 0, 1)}
        assert len(neighbours) < 3, f"{trade_id} is an aggregate of its own"


async def test_trades_that_the_auditor_misses_are_published_again(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    async with Simulator(SeededMarket(1, RATE, ["BTCUSDT"])) as simulator:
        settings = settings_for(
            tmp_path, kafka_bootstrap, simulator.ws_url, exchange_rest_url=simulator.rest_url
        )
        async with producing(settings) as producer:
            await until(lambda: producer.counts()["published"] > 100)
            first = min((await ids_in_topic(kafka_bootstrap))["BTCUSDT"])
            wanted = GapEvent(SEEN, "BTCUSDT", first + 10, first + 19, time.time_ns() // 1_000, "audit")
            await asyncio.to_thread(write, kafka_bootstrap, GAPS, encode(wanted))
            await until(lambda: has_caught_up(producer, 110))
    (ids,) = (await ids_in_topic(kafka_bootstrap)).values()
    assert [one for one, count in Counter(ids).items() if count == 2] == list(range(first + 10, first + 20))


@pytest.mark.slow
async def test_while_kafka_is_down_pings_are_answered_and_shed_trades_are_filled_later(
    tmp_path: Path, own_broker: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "PATIENCE_SECONDS", 0.5)
    timing = Timing(ping_seconds=0.5, pong_seconds=2.0)
    async with Simulator(SeededMarket(1, RATE, ["BTCUSDT"]), timing=timing) as simulator:
        settings = settings_for(
            tmp_path,
            own_broker.bootstrap,
            simulator.ws_url,
            exchange_rest_url=simulator.rest_url,
            max_in_flight=200,
        )
        async with producing(settings) as producer:
            await until(lambda: producer.counts()["published"] > 100)
            send_signal(own_broker, signal.SIGSTOP)
            await until(lambda: producer._intake.dropped > 1_000)
            assert producer.counts()["in_flight"] <= 200
            send_signal(own_broker, signal.SIGCONT)
            await until(lambda: has_caught_up(producer, 1_500))
        assert producer._stream.reconnects == 0, "an unanswered ping would have closed the connection"
    (ids,) = (await ids_in_topic(own_broker.bootstrap)).values()
    assert not missing(ids)
    assert "overload" in {one.why for one in await events(own_broker.bootstrap) if one.kind is SEEN}


@pytest.mark.slow
async def test_a_second_producer_ends_and_names_the_lease_holder(
    tmp_path: Path, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Simulator(SeededMarket(1, RATE, ["BTCUSDT"])) as simulator:
        settings = settings_for(tmp_path, kafka_bootstrap, simulator.ws_url)
        async with producing(settings) as producer:
            await until(lambda: producer.counts()["published"] > 100)
            other = settings_for(tmp_path / "other", kafka_bootstrap, simulator.ws_url)
            status, said, _ = await end_of(spawn(other), 40)
            assert status == 1
            assert "another producer publishes" in said
            assert f"process {last_heartbeat(settings).pid}" in said
            assert "Traceback" not in said
            published = producer.counts()["published"]
            await until(lambda: producer.counts()["published"] > published + 100)
    (ids,) = (await ids_in_topic(kafka_bootstrap)).values()
    assert len(ids) == len(set(ids))


@pytest.mark.slow
async def test_a_stopped_producer_ends_after_another_took_over(tmp_path: Path, kafka_bootstrap: str) -> None:
    async with Simulator(SeededMarket(1, RATE, ["BTCUSDT"])) as simulator:
        settings = settings_for(
            tmp_path, kafka_bootstrap, simulator.ws_url, exchange_rest_url=simulator.rest_url
        )
        first = spawn(settings)
        await until(lambda: published_until_now(settings) > 100)
        first.send_signal(signal.SIGSTOP)
        other = settings_for(
            tmp_path / "other", kafka_bootstrap, simulator.ws_url, exchange_rest_url=simulator.rest_url
        )
        async with producing(other) as second:
            await until(lambda: has_caught_up(second, 300))
            first.send_signal(signal.SIGCONT)
            status, said, _ = await end_of(first, 30)
            assert status == 1, said
            assert "another producer publishes" in said
            published = second.counts()["published"]
            await until(lambda: second.counts()["published"] > published + 100)
    (ids,) = (await ids_in_topic(kafka_bootstrap)).values()
    assert not missing(ids)
