"""The producer with a real WebSocket and Kafka: no trade is lost or repeated, every record is counted."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from candleflow.errors import BrokerError
from candleflow.market.trade_ids import TradeIds
from candleflow.producer.process import Producer
from candleflow.simulator.audience import Faults
from candleflow.simulator.market import SeededMarket
from candleflow.simulator.recording import Recording
from candleflow.simulator.server import Simulator, Timing
from candleflow.stack.kafka import KafkaServer
from candleflow.stack.process import free_port
from tests import oracle
from tests.broker.topics import remove_topics
from tests.pipeline.producing import (
    DEADLINE_SECONDS,
    REJECTED,
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


@pytest.fixture(autouse=True)
def no_topics(kafka_bootstrap: str) -> None:
    """Delete the topics: a producer resumes at the end of its topic, so old trades would look like a gap."""
    remove_topics(kafka_bootstrap)


def recorded(file: Path) -> dict[str, list[str]]:
    """Return the text of every trade in a recording, by symbol."""
    texts: dict[str, list[str]] = {}
    with gzip.open(file, "rt") as lines:
        for line in lines:
            found = re.fullmatch(r'\{"stream":"([a-z]+)@trade","data":(\{.*\})\}\n?', line)
            if found:
                texts.setdefault(found[1].upper(), []).append(found[2])
    return texts


@pytest.mark.skipif(not oracle.TRADES_ONLY.exists(), reason=oracle.ABSENT)
async def test_each_recorded_trade_reaches_the_topic_once_in_order_and_unchanged(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    tail, refused = Tail(kafka_bootstrap, "trades"), Tail(kafka_bootstrap, REJECTED)
    expected = recorded(oracle.TRADES_ONLY)
    count = sum(map(len, expected.values()))
    async with Simulator(Recording(oracle.TRADES_ONLY, speed=0, wait_for=2)) as simulator:
        settings = settings_for(
            tmp_path,
            kafka_bootstrap,
            simulator.ws_url,
            exchange_rest_url=simulator.rest_url,
            symbols=("BTCUSDT", "ETHUSDT"),
        )
        process = spawn(settings)
        await until(lambda: published_until_now(settings) == count or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        status, said, seconds = await end_of(process)
    assert status == 0, said
    assert seconds < 10
    assert f"received {count:,}, published {count:,}, duplicate 0, rejected 0, in_flight 0" in said
    found: dict[str, list[str]] = {}
    records = await asyncio.to_thread(tail.read)
    for record in records:
        found.setdefault(record.key.decode(), []).append(record.value.decode())
    assert found == expected
    now = time.time() * 1_000
    assert all(abs(record.timestamp - now) < DEADLINE_SECONDS * 1_000 for record in records), (
        "the time of sending, not T"
    )
    assert await asyncio.to_thread(refused.read) == []
    assert last_heartbeat(settings).state == "absent", "removed at a clean stop"


@pytest.mark.skipif(not oracle.ALL_STREAMS.exists(), reason=oracle.ABSENT)
@pytest.mark.slow
async def test_at_full_speed_other_streams_are_ignored_and_every_trade_is_published(
    tmp_path: Path, kafka_bootstrap: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tail, refused = Tail(kafka_bootstrap, "trades"), Tail(kafka_bootstrap, REJECTED)
    expected = recorded(oracle.ALL_STREAMS)
    count = sum(map(len, expected.values()))
    source = Recording(oracle.ALL_STREAMS, speed=0, every_line=True, wait_for=2)
    async with Simulator(source) as simulator:
        settings = settings_for(
            tmp_path, kafka_bootstrap, simulator.ws_url, symbols=("BTCUSDT", "ETHUSDT"), max_in_flight=1_000
        )
        process = spawn(settings)
        await until(lambda: published_until_now(settings) == count or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        status, said, _ = await end_of(process)
    assert status == 0, said
    found = await asyncio.to_thread(tail.trade_ids)
    assert found == {symbol: [json.loads(text)["t"] for text in texts] for symbol, texts in expected.items()}
    assert await asyncio.to_thread(refused.read) == []


async def test_rotation_leaves_no_gap_and_no_duplicate_in_the_topic(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    tail = Tail(kafka_bootstrap, "trades")
    async with Simulator(SeededMarket(1, 400, ["BTCUSDT"])) as simulator:
        settings = settings_for(tmp_path, kafka_bootstrap, simulator.ws_url, exchange_lifetime_minutes=0.01)
        async with producing(settings) as producer:
            await until(lambda: producer._stream.reconnects >= 3 and producer.counts()["published"] > 1_000)
        assert producer.counts()["duplicate"] > 0, (
            "the connections overlapped, and the duplicates were dropped"
        )
    (ids,) = (await asyncio.to_thread(tail.trade_ids)).values()
    assert len(ids) == len(set(ids))
    assert len(TradeIds(ids).ranges) == 1


async def test_what_the_exchange_sends_twice_is_published_once(tmp_path: Path, kafka_bootstrap: str) -> None:
    tail = Tail(kafka_bootstrap, "trades")
    faults = Faults(duplicate_fraction=0.3)
    async with Simulator(SeededMarket(1, 400, ["BTCUSDT"]), faults=faults) as simulator:
        settings = settings_for(tmp_path, kafka_bootstrap, simulator.ws_url)
        async with producing(settings) as producer:
            await until(lambda: producer.counts()["published"] > 500)
    counts = producer.counts()
    assert counts["duplicate"] > 0.2 * counts["published"]
    (ids,) = (await asyncio.to_thread(tail.trade_ids)).values()
    assert ids == sorted(set(ids))
    assert len(ids) == counts["published"]


async def test_two_connections_follow_two_symbols_where_one_may_have_one_stream(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    tail = Tail(kafka_bootstrap, "trades")
    symbols = ("BTCUSDT", "ETHUSDT")
    async with Simulator(SeededMarket(1, 400, symbols)) as simulator:
        settings = settings_for(
            tmp_path, kafka_bootstrap, simulator.ws_url, symbols=symbols, exchange_max_streams=1
        )
        async with producing(settings) as producer:
            await until(lambda: producer.counts()["published"] > 200)
            assert simulator.clients == 2
    found = await asyncio.to_thread(tail.trade_ids)
    assert found.keys() == set(symbols)
    assert all(len(TradeIds(ids).ranges) == 1 for ids in found.values())


async def test_rejected_records_are_kept_with_their_reason_and_the_counts_add_up(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    tail, refused = Tail(kafka_bootstrap, "trades"), Tail(kafka_bootstrap, REJECTED)
    in_a_year = time.time_ns() // 1_000_000 + 365 * 86_400_000
    bad: Sequence[tuple[str | bytes, str]] = [
        ("{", "not JSON"),
        (b"\xff", "not UTF-8"),
        (frame(1, price="-1"), "price not a finite positive decimal"),
        (frame(1, price="NaN"), "price not a finite positive decimal"),
        (frame(1, symbol="DOGEUSDT"), "unknown symbol"),
        (frame(1, time_ms=in_a_year), "trade time in the future"),
        (frame(1).replace('"t":1', '"t":"1"'), "field t is not a JSON integer"),
        ('{"e":"trade","x":"' + "y" * 100_000 + '"}', "record too long"),
    ]
    good = [frame(number) for number in range(1, 11)]
    async with (
        sending(*(record for record, _ in bad), *good, good[0]) as url,
        producing(settings_for(tmp_path, kafka_bootstrap, url)) as producer,
    ):
        await until(lambda: producer.counts()["received"] == len(bad) + len(good) + 1)
    assert producer.counts() == {
        "received": 19, "published": 10, "duplicate": 1, "rejected": 8, "in_flight": 0
    }  # fmt: skip
    assert await asyncio.to_thread(tail.trade_ids) == {"BTCUSDT": list(range(1, 11))}
    found = await asyncio.to_thread(refused.read)
    assert [dict(one.headers)["reason"].decode() for one in found] == [reason for _, reason in bad]
    assert all(dict(one.headers)["origin"] == b"websocket" for one in found)
    for record, (sent, _) in zip(found[:-1], bad[:-1], strict=True):
        assert record.value == (sent.encode() if isinstance(sent, str) else sent)
    assert len(found[-1].value) == 65_536
    assert dict(found[-1].headers)["truncated_from"] == str(len(bad[-1][0])).encode()


async def test_a_frame_above_a_mebibyte_is_counted_and_recorded_by_its_length(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    refused = Tail(kafka_bootstrap, REJECTED)
    async with (
        sending(frame(1), "x" * 2_000_000) as url,
        producing(settings_for(tmp_path, kafka_bootstrap, url)) as producer,
    ):
        await until(lambda: producer.counts()["rejected"] >= 1)
    one = (await asyncio.to_thread(refused.read))[0]
    assert dict(one.headers) == {
        "reason": b"record too long", "origin": b"websocket", "truncated_from": b"2000000"
    }  # fmt: skip


@pytest.mark.slow
async def test_while_the_broker_hangs_pings_are_answered_and_nothing_is_lost(
    tmp_path: Path, own_broker: KafkaServer
) -> None:
    timing = Timing(ping_seconds=0.5, pong_seconds=2.0)
    async with Simulator(SeededMarket(1, 300, ["BTCUSDT"]), timing=timing) as simulator:
        settings = settings_for(tmp_path, own_broker.bootstrap, simulator.ws_url)
        async with producing(settings) as producer:
            await until(lambda: producer.counts()["published"] > 300)
            send_signal(own_broker, signal.SIGSTOP)
            stopped_at = time.monotonic()
            await until(lambda: time.monotonic() - stopped_at > 8 and producer.counts()["in_flight"] > 1_000)
            assert last_heartbeat(settings).state == "waiting"
            assert "for Kafka" in last_heartbeat(settings).message
            assert last_heartbeat(settings).counts["loop_lag_ms"] < 1_000
            send_signal(own_broker, signal.SIGCONT)
            await until(lambda: producer.counts()["in_flight"] < 100)
            await until(lambda: last_heartbeat(settings).state == "running")
        assert producer._stream.reconnects == 0, "an unanswered ping would have closed the connection"
    tail = Tail(own_broker.bootstrap, "trades")
    tail.begins_at = 0
    (ids,) = (await asyncio.to_thread(tail.trade_ids)).values()
    assert ids == list(range(ids[0], ids[0] + producer.counts()["published"]))


@pytest.mark.slow
async def test_no_trade_is_lost_when_the_broker_is_killed_and_restarted(
    tmp_path: Path, own_broker: KafkaServer
) -> None:
    async with Simulator(SeededMarket(1, 300, ["BTCUSDT"])) as simulator:
        settings = settings_for(tmp_path, own_broker.bootstrap, simulator.ws_url)
        async with producing(settings) as producer:
            await until(lambda: producer.counts()["published"] > 300)
            own_broker.kill()
            await until(lambda: producer.counts()["in_flight"] > 500)
            own_broker.start()
            seen = producer.counts()["received"]
            await until(lambda: producer.counts()["published"] > seen)
    tail = Tail(own_broker.bootstrap, "trades")
    tail.begins_at = 0
    (ids,) = (await asyncio.to_thread(tail.trade_ids)).values()
    assert len(TradeIds(ids).ranges) == 1
    assert len(TradeIds(ids)) == producer.counts()["published"]


async def test_at_the_in_flight_limit_reading_pauses_and_the_log_says_so(
    tmp_path: Path, own_broker: KafkaServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with Simulator(SeededMarket(1, 500, ["BTCUSDT"])) as simulator:
        settings = settings_for(tmp_path, own_broker.bootstrap, simulator.ws_url, max_in_flight=200)
        async with producing(settings) as producer:
            await until(lambda: producer.counts()["published"] > 100)
            send_signal(own_broker, signal.SIGSTOP)
            await until(lambda: "reading from the exchange is paused" in last_heartbeat(settings).message)
            assert producer.counts()["in_flight"] <= 200
            send_signal(own_broker, signal.SIGCONT)
            await until(lambda: producer.counts()["published"] > 1_000)
    assert "reading from the exchange is paused" in caplog.text
    tail = Tail(own_broker.bootstrap, "trades")
    tail.begins_at = 0
    (ids,) = (await asyncio.to_thread(tail.trade_ids)).values()
    assert ids == list(range(ids[0], ids[0] + len(ids))), "what waited in the socket was published later"


@pytest.mark.slow
async def test_a_stop_without_the_broker_takes_under_ten_seconds_and_counts_what_is_left(
    tmp_path: Path, own_broker: KafkaServer
) -> None:
    async with Simulator(SeededMarket(1, 300, ["BTCUSDT"])) as simulator:
        settings = settings_for(tmp_path, own_broker.bootstrap, simulator.ws_url)
        process = spawn(settings)
        await until(lambda: published_until_now(settings) > 100 or process.poll() is not None)
        own_broker.kill()
        await until(lambda: last_heartbeat(settings).counts.get("in_flight", 0) > 100)
        process.send_signal(signal.SIGTERM)
        status, said, seconds = await end_of(process)
    assert status == 0, said
    assert seconds < 10
    assert re.search(r"ERROR +producer: \d+ records were not acknowledged by Kafka within 5 s", said)
    assert "Traceback" not in said


@pytest.mark.slow
async def test_without_kafka_the_producer_waits_and_can_be_stopped(tmp_path: Path) -> None:
    async with sending(frame(1)) as url:
        settings = settings_for(tmp_path, f"127.0.0.1:{free_port()}", url)
        process = spawn(settings)
        await until(lambda: last_heartbeat(settings).state == "waiting")
        seen_at = last_heartbeat(settings).beaten_at
        await until(lambda: last_heartbeat(settings).beaten_at > seen_at + 4)  # an attempt takes 2 s
        process.send_signal(signal.SIGINT)
        status, said, seconds = await end_of(process)
    assert status == 0, said
    assert seconds < 10
    assert said.count("waiting for Kafka at") == 1
    assert "Traceback" not in said


async def test_a_symbol_the_exchange_does_not_list_ends_it_with_2_and_the_near_ones(tmp_path: Path) -> None:
    async with Simulator(SeededMarket(1, 40, ["BTCUSDT"])) as simulator:
        settings = settings_for(
            tmp_path,
            f"127.0.0.1:{free_port()}",
            simulator.ws_url,
            exchange_rest_url=simulator.rest_url,
            symbols=("BTCUSD",),
        )
        status, said, _ = await end_of(spawn(settings))
    assert status == 2, said
    assert "CANDLEFLOW_SYMBOLS='BTCUSD'" in said
    assert "did you mean BTCUSDT" in said
    assert "Traceback" not in said


async def test_a_wrong_setting_ends_it_with_2_before_anything_is_opened(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, "127.0.0.1:1", "ws://127.0.0.1:1")
    status, said, _ = await end_of(spawn(settings, CANDLEFLOW_MAX_IN_FLIGHT="7"))
    assert status == 2
    assert "CANDLEFLOW_MAX_IN_FLIGHT='7'" in said
    assert not settings.stack.data_path.exists()


async def test_without_rest_one_warning_is_logged_and_no_trade_is_lost(
    tmp_path: Path, kafka_bootstrap: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Simulator(SeededMarket(1, 300, ["BTCUSDT"])) as simulator:
        settings = settings_for(
            tmp_path,
            kafka_bootstrap,
            simulator.ws_url,
            exchange_rest_url=f"http://127.0.0.1:{free_port()}",
        )
        async with producing(settings) as producer:
            await until(lambda: producer.counts()["published"] > 10)
    assert caplog.text.count("REST API can't be reached") == 1


@pytest.mark.slow
async def test_more_replicas_than_brokers_is_an_error_that_names_the_setting(
    tmp_path: Path, own_broker: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("candleflow.broker.topics.STARTING_SECONDS", 0.5)
    async with sending(frame(1)) as url:
        settings = settings_for(tmp_path, own_broker.bootstrap, url, kafka_replication=3)
        with pytest.raises(BrokerError, match="CANDLEFLOW_KAFKA_REPLICATION=3"):
            await Producer(settings).run()


async def test_the_heartbeat_has_the_counts_and_the_age_of_the_last_trade(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    async with Simulator(SeededMarket(1, 200, ["BTCUSDT"])) as simulator:
        settings = settings_for(tmp_path, kafka_bootstrap, simulator.ws_url)
        async with producing(settings):
            await until(lambda: published_until_now(settings) > 100)
            beat = last_heartbeat(settings)
    assert (beat.name, beat.pid, beat.state) == ("producer", os.getpid(), "running")
    assert beat.counts.keys() >= {
        "received", "published", "duplicate", "rejected", "in_flight", "reconnects"
    }  # fmt: skip
    assert 0 <= beat.by_label["age_s"]["BTCUSDT"] < 10
    assert abs(beat.beaten_at - time.time()) < 10
