"""The trade log with a real broker that is running, suspended, killed or unavailable."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from kafka import errors
from kafka.admin import KafkaAdminClient

from candleflow.broker import publisher
from candleflow.broker.topics import ensure_topics
from candleflow.broker.trade_log import BYTES_PER_RECORD, REJECTED_LIMIT_BYTES, TradeLog
from candleflow.stack.kafka import KafkaServer
from candleflow.stack.process import free_port
from tests.broker.reading import read

DEADLINE_SECONDS = 120.0
NOW_MS = 1_795_348_800_123


@asynccontextmanager
async def trade_log(
    bootstrap: str,
    topic: str,
    max_in_flight: int = 10_000,
    now_ms: Callable[[], int] = lambda: NOW_MS,
) -> AsyncIterator[TradeLog]:
    log = TradeLog(bootstrap, topic, f"{topic}.rejected", max_in_flight=max_in_flight, now_ms=now_ms)
    log.start()
    try:
        yield log
    finally:
        await log.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def publish(log: TradeLog, first: int, last: int) -> None:
    for number in range(first, last):
        if log.is_full:
            await log.wait_for_room()
        log.publish("BTCUSDT", b"%d" % number)


def numbers(bootstrap: str, topic: str, count: int) -> list[int]:
    return [int(record.value) for record in read(bootstrap, topic, count)]


@pytest.fixture
def made(kafka_bootstrap: str, topic: str) -> str:
    # Retention of ten years: NOW_MS is in the past, and Kafka would delete the records during the test.
    ensure_topics(kafka_bootstrap, [topic, f"{topic}.rejected"], 1, 1, 87_600)
    return topic


def stop_running(server: KafkaServer) -> None:
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)


def let_run(server: KafkaServer) -> None:
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGCONT)


async def test_a_record_is_the_payload_under_its_symbol_at_the_time_given(
    kafka_bootstrap: str, made: str
) -> None:
    async with trade_log(kafka_bootstrap, made) as log:
        log.publish("ETHUSDT", b'{"e":"trade"}')
        assert await log.flush(DEADLINE_SECONDS) == 0
        assert (log.published, log.rejected, log.in_flight) == (1, 0, 0)
    (record,) = await asyncio.to_thread(read, kafka_bootstrap, made, 1)
    assert (record.key, record.value, record.timestamp) == (b"ETHUSDT", b'{"e":"trade"}', NOW_MS)
    assert record.timestamp_type == 0, "CreateTime"


async def test_many_records_come_once_and_in_order(kafka_bootstrap: str, made: str) -> None:
    async with trade_log(kafka_bootstrap, made, max_in_flight=1_000) as log:
        await publish(log, 0, 20_000)
        assert await log.flush(DEADLINE_SECONDS) == 0
        assert log.published == 20_000
    assert await asyncio.to_thread(numbers, kafka_bootstrap, made, 20_000) == list(range(20_000))


async def test_a_refused_record_is_kept_with_its_reason_and_origin(kafka_bootstrap: str, made: str) -> None:
    async with trade_log(kafka_bootstrap, made) as log:
        log.reject(b"{", "not JSON")
        await log.flush(DEADLINE_SECONDS)
        assert (log.published, log.rejected) == (0, 1)
    (record,) = await asyncio.to_thread(read, kafka_bootstrap, f"{made}.rejected", 1)
    assert (record.key, record.value) == (None, b"{")
    assert dict(record.headers) == {"reason": b"not JSON", "origin": b"websocket"}


@pytest.mark.parametrize(
    ("record", "length", "truncated_from"),
    [
        (b"x" * REJECTED_LIMIT_BYTES, None, None),
        (b"x" * (REJECTED_LIMIT_BYTES + 1), None, b"65537"),
        (b"x" * 1_000_000, None, b"1000000"),
        (b"", 2_000_000, b"2000000"),
    ],
)
async def test_a_long_rejected_record_is_cut_and_its_length_kept(
    kafka_bootstrap: str,
    made: str,
    record: bytes,
    length: int | None,
    truncated_from: bytes | None,
) -> None:
    async with trade_log(kafka_bootstrap, made) as log:
        log.reject(record, "record too long", length=length)
        await log.flush(DEADLINE_SECONDS)
    (kept,) = await asyncio.to_thread(read, kafka_bootstrap, f"{made}.rejected", 1)
    assert kept.value == record[:REJECTED_LIMIT_BYTES]
    assert dict(kept.headers).get("truncated_from") == truncated_from


async def test_without_kafka_the_in_flight_limit_holds_and_the_loop_is_not_blocked(
    topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with trade_log(f"127.0.0.1:{free_port()}", topic, max_in_flight=500) as log:
        began_at = time.monotonic()
        publishing = asyncio.create_task(publish(log, 0, 10_000))
        await until(lambda: log.is_full)
        slowest = 0.0
        for _ in range(100):
            before = time.monotonic()
            await asyncio.sleep(0.005)
            slowest = max(slowest, time.monotonic() - before)
        assert log.in_flight == 500
        assert not publishing.done()
        assert slowest < 1.0
        await until(lambda: log.is_stalled)
        assert time.monotonic() - began_at < 10
        publishing.cancel()
    assert caplog.text.count("reading from the exchange is paused") == 1
    assert "Traceback" not in caplog.text


async def test_long_records_reach_the_limit_in_bytes_before_the_limit_in_records(topic: str) -> None:
    async with trade_log(f"127.0.0.1:{free_port()}", topic, max_in_flight=1_000) as log:
        count = 0
        while not log.is_full:
            log.reject(b"x" * 100_000, "record too long")
            count += 1
        assert count == -(-1_000 * BYTES_PER_RECORD // REJECTED_LIMIT_BYTES)


async def test_without_kafka_closing_takes_under_ten_seconds_and_counts_what_is_left(topic: str) -> None:
    began_at = time.monotonic()
    async with trade_log(f"127.0.0.1:{free_port()}", topic) as log:
        await publish(log, 0, 100)
        assert await log.flush(1.0) == 100
    assert time.monotonic() - began_at < 8


@pytest.mark.slow
async def test_a_suspended_broker_is_waited_for_and_nothing_is_lost(own_broker: KafkaServer) -> None:
    ensure_topics(own_broker.bootstrap, ["trades"], 1, 1, 87_600)
    async with trade_log(own_broker.bootstrap, "trades", max_in_flight=2_000) as log:
        await publish(log, 0, 1_000)
        await until(lambda: log.published == 1_000)
        stop_running(own_broker)
        publishing = asyncio.create_task(publish(log, 1_000, 10_000))
        await until(lambda: log.is_full and log.is_stalled)
        let_run(own_broker)
        await publishing
        assert await log.flush(DEADLINE_SECONDS) == 0
        assert log.retried == 0, "the client's own retries do"
    found = await asyncio.to_thread(numbers, own_broker.bootstrap, "trades", 10_000)
    assert found == list(range(10_000))


@pytest.mark.slow
async def test_a_broker_killed_twice_while_data_flow_has_every_acknowledged_record(
    own_broker: KafkaServer,
) -> None:
    ensure_topics(own_broker.bootstrap, ["trades"], 1, 1, 87_600)
    async with trade_log(own_broker.bootstrap, "trades", max_in_flight=2_000) as log:
        publishing = asyncio.create_task(publish(log, 0, 30_000))
        for goal in (3_000, 12_000):
            await until(lambda goal=goal: log.published >= goal)  # type: ignore[misc]
            own_broker.kill()
            await until(lambda: log.has_back_pressure and log.is_stalled)
            own_broker.start()
        await publishing
        assert await log.flush(DEADLINE_SECONDS) == 0
        assert log.published == 30_000
    found = await asyncio.to_thread(numbers, own_broker.bootstrap, "trades", 30_000)
    assert sorted(set(found)) == list(range(30_000))


async def test_a_recreated_topic_gets_the_records_in_flight(kafka_bootstrap: str, made: str) -> None:
    """The processor then refuses to mix these records with the old ones, but no record may be lost here."""
    async with trade_log(kafka_bootstrap, made) as log:
        await publish(log, 0, 10)
        assert await log.flush(DEADLINE_SECONDS) == 0
        admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
        admin.delete_topics([made])
        await publish(log, 10, 100)
        await asyncio.to_thread(ensure_topics, kafka_bootstrap, [made], 1, 1, 1)
        admin.close()
        assert await log.flush(DEADLINE_SECONDS) == 0
    found = await asyncio.to_thread(numbers, kafka_bootstrap, made, 90)
    assert set(found) >= set(range(10, 100)) - set(range(10))


@pytest.mark.slow
async def test_records_that_kafka_python_gives_up_are_sent_again(
    own_broker: KafkaServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With this test's very short delivery timeout, batches expire while the broker is suspended."""
    monkeypatch.setattr(publisher, "DELIVERY_TIMEOUT_MS", 1_000)
    monkeypatch.setattr(publisher, "REQUEST_TIMEOUT_MS", 900)
    ensure_topics(own_broker.bootstrap, ["trades"], 1, 1, 87_600)
    async with trade_log(own_broker.bootstrap, "trades") as log:
        await publish(log, 0, 100)
        assert await log.flush(DEADLINE_SECONDS) == 0
        stop_running(own_broker)
        await publish(log, 100, 1_000)
        await until(lambda: log.retried > 0)
        # A few may have been acknowledged before the broker was suspended.
        assert log.in_flight >= log.retried
        assert log.published + log.in_flight == 1_000, "not yet acknowledged, so in flight"
        let_run(own_broker)
        assert await log.flush(DEADLINE_SECONDS) == 0
        assert log.published == 1_000
    found = await asyncio.to_thread(numbers, own_broker.bootstrap, "trades", 1_000)
    assert sorted(set(found)) == list(range(1_000))
    assert "sending them again" in caplog.text


async def test_a_record_that_kafka_refuses_keeps_the_others_flowing(
    kafka_bootstrap: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    admin.create_topics(
        {
            topic: {"num_partitions": 1, "replication_factor": 1},
            f"{topic}.rejected": {
                "num_partitions": 1,
                "replication_factor": 1,
                "configs": {"max.message.bytes": "500"},
            },
        }
    )
    admin.close()
    async with trade_log(kafka_bootstrap, topic) as log:
        log.reject(b"x" * 1_000, "not JSON")
        await publish(log, 0, 1_000)
        await until(lambda: log.published == 1_000)
        await until(lambda: errors.MessageSizeTooLargeError.__name__ in caplog.text)
        assert (log.rejected, log.in_flight) == (0, 1)


async def test_a_symbol_is_in_one_partition(kafka_bootstrap: str, topic: str) -> None:
    ensure_topics(kafka_bootstrap, [topic, f"{topic}.rejected"], 7, 1, 87_600)
    symbols = [f"{letter}{number}USDT" for letter in ("A", "BC", "币安") for number in range(20)]
    async with trade_log(kafka_bootstrap, topic) as log:
        for number in range(10):
            for symbol in symbols:
                log.publish(symbol, b"%d" % number)
        assert await log.flush(DEADLINE_SECONDS) == 0
    found: dict[bytes, dict[int, list[int]]] = {}
    for record in await asyncio.to_thread(read, kafka_bootstrap, topic, 10 * len(symbols)):
        found.setdefault(record.key, {}).setdefault(record.partition, []).append(int(record.value))
    assert [list(partitions.values()) for partitions in found.values()] == [[[*range(10)]]] * len(symbols)
    assert len({partition for partitions in found.values() for partition in partitions}) == 7
