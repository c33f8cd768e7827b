"""The processor on a real Kafka and PostgreSQL, in a process of its own: killed, stopped, cheated, exact.

Records are written straight into Kafka. The oracle is ``tests/oracle.py``, which shares no code with ours.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from candleflow.settings import Settings
from candleflow.telemetry import Heartbeat, read_heartbeat
from tests import oracle
from tests.store_fixtures import Database

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120
STOP_SECONDS = 10

T = TypeVar("T")


@dataclass
class Processor:
    """A running ``processor.py``."""

    process: subprocess.Popen[bytes]
    settings: Settings
    log: Path

    def said(self) -> str:
        return self.log.read_text()[-8_000:]

    def heartbeat(self) -> Heartbeat | None:
        return read_heartbeat(self.settings.run_dir, "processor")

    def java_processes(self) -> list[psutil.Process]:
        return [one for one in psutil.Process(self.process.pid).children(recursive=True) if one.is_running()]


@dataclass
class Scene:
    """A topic and a database of a test's own."""

    bootstrap: str
    database: Database
    folder: Path

    def settings(self, **overrides: Any) -> Settings:
        return self.database.settings_with(kafka_bootstrap=self.bootstrap, exchange="binance", **overrides)

    @cached_property
    def reader(self) -> Any:
        return self.database.reader()

    @property
    def topic(self) -> str:
        return self.settings().topic

    @contextmanager
    def processor(self, **environment: str) -> Iterator[Processor]:
        """A processor, stopped by SIGTERM at the end unless it has ended before."""
        settings = self.settings()
        log = self.folder / f"processor-{time.monotonic_ns()}.log"
        variables = {k: v for k, v in os.environ.items() if not k.startswith("CANDLEFLOW_")} | {
            "CANDLEFLOW_KAFKA_BOOTSTRAP": self.bootstrap,
            "CANDLEFLOW_POSTGRES_URL": settings.postgres_url.get_secret_value(),
            "CANDLEFLOW_POSTGRES_PASSWORD": self.database.owner_password,
            "CANDLEFLOW_DATA_DIR": str(settings.data_dir),
            "CANDLEFLOW_SPARK_MEMORY": "500m",
            **environment,
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "processor.py")],
                cwd=self.folder, env=variables, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            yield Processor(process, settings, log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS + 5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def publish(self, values: Sequence[bytes | None], partition: int = 0) -> None:
        """Write records as they are, and wait for their acknowledgement."""
        producer = KafkaProducer(bootstrap_servers=self.bootstrap, linger_ms=5)
        try:
            sent = [producer.send(self.topic, value=value, partition=partition) for value in values]
            for one in sent:
                one.get(30)
        finally:
            producer.close()

    def rejected(self) -> list[tuple[bytes | None, dict[str, str]]]:
        """The records of the topic of refused ones: value and headers."""
        consumer = KafkaConsumer(bootstrap_servers=self.bootstrap, enable_auto_commit=False)
        place = TopicPartition(self.settings().rejected_topic, 0)
        try:
            consumer.assign([place])
            consumer.seek_to_beginning()
            end = consumer.end_offsets([place])[place]
            found: list[Any] = []
            while len(found) < end:
                for records in consumer.poll(timeout_ms=1_000).values():
                    found += records
        finally:
            consumer.close()
        return [(one.value, {name: value.decode() for name, value in one.headers}) for one in found]

    def counts(self) -> dict[str, int]:
        with self.reader.cursor() as cursor:
            cursor.execute("SELECT outcome, records FROM record_counts WHERE topic = %s", (self.topic,))
            return dict(cursor.fetchall())

    def candles(self) -> dict[tuple[Any, ...], oracle.OracleCandle]:
        return oracle.stored_candles(self.reader)

    def wait_until_received(self, records: int, processor: Processor, seconds: float = START_SECONDS) -> None:
        wait_for(lambda: self.counts().get("received", 0) >= records, seconds, processor)


def wait_for(what: Callable[[], T], seconds: float, processor: Processor) -> T:
    """The first true answer of ``what``; fails with what the processor said when the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = what()
        if answer:
            return answer
        time.sleep(0.05)
    pytest.fail(f"not within {seconds} s; the processor said:\n{processor.said()}")


def trade(
    trade_id: int, time_ms: int, price: str = "100.5", quantity: str = "0.25", **more: Any
) -> dict[str, Any]:
    return {
        "e": "trade", "E": time_ms + 1, "s": "BTCUSDT", "t": trade_id, "p": price, "q": quantity,
        "T": time_ms, "m": trade_id % 3 == 0, "M": True, **more,
    }  # fmt: skip


def text(payload: dict[str, Any]) -> bytes:
    """As Binance writes it."""
    return json.dumps(payload, separators=(",", ":")).encode()


def market(trades: int, start_ms: int = 1_723_161_255_000) -> list[dict[str, Any]]:
    """Trades of two symbols over a minute or so, ids without a hole, some in the same millisecond."""
    made = []
    for at in range(trades):
        symbol, base = (("BTCUSDT", 1_000), ("ETHUSDT", 70_000))[at % 2]
        time_ms = start_ms + at * 60_000 // trades // 3 * 3
        made.append(
            trade(
                base + at // 2,
                time_ms,
                f"{60_000 + at * 7_919 % 1_000}.{at % 100:02d}",
                f"0.{at % 997 + 1:05d}",
                s=symbol,
            )
        )
    return made


@pytest.fixture
def scene(kafka_bootstrap: str, database: Database, tmp_path: Path, spark_jars: list[Path]) -> Scene:
    return Scene(kafka_bootstrap, database, tmp_path)


def test_trades_become_exact_candles_and_a_stop_leaves_nothing(scene: Scene) -> None:
    trades = market(3_000)
    with scene.processor() as processor:
        began_at = time.monotonic()
        wait_for(lambda: "reading" in processor.said(), START_SECONDS, processor)
        print("seconds until it read:", round(time.monotonic() - began_at, 1))
        scene.publish([text(one) for one in trades])
        scene.wait_until_received(len(trades), processor)
        assert oracle.differences(oracle.all_intervals(trades), scene.candles()) == []
        jvm = processor.java_processes()
        assert jvm
        stopped_at = time.monotonic()
        processor.process.send_signal(signal.SIGTERM)
        assert processor.process.wait(STOP_SECONDS) == 0
        print("seconds to stop:", round(time.monotonic() - stopped_at, 1))
        assert not [one for one in jvm if one.is_running()]
    assert scene.counts() == {"received": 3_000, "merged": 3_000}
    print(processor.said())
