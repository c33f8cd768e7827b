"""Helpers to run a producer between a real WebSocket server and a real Kafka."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from websockets.asyncio.server import ServerConnection, serve

from candleflow import settings as settings_module
from candleflow.broker.topics import ensure_topics
from candleflow.producer.process import Producer
from candleflow.settings import Settings
from candleflow.stack.kafka import KafkaServer
from candleflow.telemetry import Heartbeat, read_heartbeat

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 120.0
REJECTED = "trades.rejected"


@dataclass
class Tail:
    """Reads the records that were added to a topic after this object was created."""

    bootstrap: str
    topic: str

    def __post_init__(self) -> None:
        ensure_topics(self.bootstrap, [self.topic], 1, 1, 168)
        consumer = KafkaConsumer(bootstrap_servers=self.bootstrap)
        partition = TopicPartition(self.topic, 0)
        self.begins_at = consumer.end_offsets([partition])[partition]
        consumer.close()

    def read(self) -> list[Any]:
        """Return all records so far, in the topic's order."""
        consumer = KafkaConsumer(bootstrap_servers=self.bootstrap, enable_auto_commit=False)
        partition = TopicPartition(self.topic, 0)
        consumer.assign([partition])
        consumer.seek(partition, self.begins_at)
        end = consumer.end_offsets([partition])[partition]
        records: list[Any] = []
        deadline = time.monotonic() + DEADLINE_SECONDS
        while consumer.position(partition) < end and time.monotonic() < deadline:
            for batch in consumer.poll(timeout_ms=500, max_records=50_000).values():
                records.extend(batch)
        consumer.close()
        return records

    def trade_ids(self) -> dict[str, list[int]]:
        ids: dict[str, list[int]] = {}
        for record in self.read():
            ids.setdefault(record.key.decode(), []).append(json.loads(record.value)["t"])
        return ids


def settings_for(tmp_path: Path, bootstrap: str, ws_url: str, **overrides: Any) -> Settings:
    return settings_module.load(
        kafka_bootstrap=bootstrap, exchange_ws_url=ws_url, data_dir=tmp_path / "data", **overrides
    )


async def until(condition: Callable[[], bool], seconds: float = DEADLINE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def producing(settings: Settings) -> AsyncIterator[Producer]:
    """Run a producer in this process; at the end stop it and check that its counts add up."""
    producer = Producer(settings)
    run = asyncio.create_task(producer.run())
    try:
        yield producer
    finally:
        producer.stop()
        await run
    assert_balanced(producer.counts())


def assert_balanced(counts: dict[str, int]) -> None:
    assert counts["in_flight"] == 0
    assert counts["received"] == counts["published"] + counts["duplicate"] + counts["rejected"]


@asynccontextmanager
async def sending(*frames: str | bytes) -> AsyncIterator[str]:
    """Run an exchange that sends these frames to each client, and nothing after them."""

    async def follow(connection: ServerConnection) -> None:
        for one in frames:
            await connection.send(one)
        await connection.wait_closed()

    async with serve(follow, "127.0.0.1", 0, ping_interval=None, max_size=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


def frame(
    trade_id: int, symbol: str = "BTCUSDT", price: str = "1.00000000", time_ms: int | None = None
) -> str:
    at = time.time_ns() // 1_000_000 if time_ms is None else time_ms
    return (
        f'{{"stream":"{symbol.lower()}@trade","data":{{"e":"trade","E":{at},"s":"{symbol}","t":{trade_id},'
        f'"p":"{price}","q":"2.00000000","T":{at},"m":true,"M":true}}}}'
    )


def send_signal(server: KafkaServer, number: signal.Signals) -> None:
    assert server.process is not None
    os.kill(server.process.pid, number)


def spawn(settings: Settings, **more: str) -> subprocess.Popen[str]:
    """Start ``python producer.py`` as a user does."""
    given = {
        "CANDLEFLOW_KAFKA_BOOTSTRAP": settings.kafka.bootstrap,
        "CANDLEFLOW_EXCHANGE_WS_URL": settings.exchange.ws_url or "",
        "CANDLEFLOW_EXCHANGE_REST_URL": settings.exchange.rest_url or "",
        "CANDLEFLOW_SYMBOLS": ",".join(settings.symbols),
        "CANDLEFLOW_SHARD": str(settings.shard),
        "CANDLEFLOW_DATA_DIR": str(settings.stack.data_dir),
        **more,
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CANDLEFLOW_")}
    return subprocess.Popen(
        [sys.executable, "producer.py"], cwd=ROOT, env=inherited | given, stderr=subprocess.PIPE, text=True
    )


async def end_of(process: subprocess.Popen[str], seconds: float = 15) -> tuple[int, str, float]:
    """Wait for the process; return its exit status, its stderr and the seconds it took.

    Kill it and fail the test if it takes too long.
    """
    began_at = time.monotonic()
    try:
        _, said = await asyncio.to_thread(process.communicate, timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        _, said = await asyncio.to_thread(process.communicate)
        pytest.fail(f"not ended within {seconds} s: {said}")
    return process.returncode, said, time.monotonic() - began_at


def last_heartbeat(settings: Settings) -> Heartbeat:
    name = settings.producer_name
    return read_heartbeat(settings.stack.run_dir, name) or Heartbeat(name, 0, "absent")


def published_until_now(settings: Settings) -> float:
    return last_heartbeat(settings).counts.get("published", 0)
