"""The processor runs with a real Kafka and PostgreSQL and stays exact after kills, stops and bad records.

The tests write records directly to Kafka. They compare the candles with ``tests/oracle.py``, which shares no
code with Candleflow.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from pyspark.sql import SparkSession

from candleflow.broker.offsets import bounds
from candleflow.broker.trade_log import ORIGIN_HEADER
from candleflow.engine.candles import CandleFold, without_repeats
from candleflow.engine.partials import read_fold
from candleflow.engine.trades import judge, read_range
from candleflow.exchange.past_trades import Origin
from candleflow.settings import Settings
from candleflow.stack.kafka import KafkaServer
from candleflow.stack.process import wait_for
from candleflow.store import credentials
from candleflow.store.credentials import Role
from tests import oracle, processes
from tests.engine.test_trades import NIGHTMARES, reference
from tests.partials import decode
from tests.processes import Running
from tests.store_fixtures import Database

STOP_SECONDS = 10


@dataclass
class Scene:
    """The topic and the database of one test."""

    bootstrap: str
    database: Database
    folder: Path

    def settings(self) -> Settings:
        return self.database.settings_with(kafka_bootstrap=self.bootstrap, exchange="binance")

    @cached_property
    def reader(self) -> Any:
        return self.database.reader()

    @property
    def topic(self) -> str:
        return self.settings().topic

    def environment(self) -> dict[str, str]:
        settings = self.settings()
        return processes.environment(
            kafka_bootstrap=self.bootstrap,
            postgres_url=settings.postgres.url.get_secret_value(),
            postgres_password=self.database.owner_password,
            data_dir=settings.stack.data_dir,
            spark_memory="500m",
        ) | {"TMPDIR": str(self.folder)}

    @contextmanager
    def processor(self, **environment: str) -> Iterator[Running]:
        """Run a processor; stop it by SIGTERM at the end if it still runs."""
        settings = self.settings()
        log = self.folder / f"processor-{time.monotonic_ns()}.log"
        variables = self.environment() | environment
        command = [sys.executable, str(processes.ROOT / "processor.py")]
        with processes.started(command, variables, log, self.folder) as process:
            yield Running("processor", process, settings.stack.run_dir, log)

    def publish(
        self, values: Sequence[bytes | None], *, in_transaction: bool = False, origin: str | None = None
    ) -> None:
        """Write records unchanged and wait until Kafka acknowledges them.

        ``origin`` says where the trades came from, if not from the stream.
        """
        headers = [] if origin is None else [(ORIGIN_HEADER, origin.encode())]
        transaction = {"transactional_id": uuid.uuid4().hex} if in_transaction else {}
        producer = KafkaProducer(bootstrap_servers=self.bootstrap, linger_ms=5, **transaction)
        try:
            if (
                in_transaction
            ):  # Kafka writes a control record at the end of a transaction, which takes an offset
                producer.init_transactions()
                producer.begin_transaction()
            sent = [
                producer.send(self.topic, key=b"BTCUSDT", value=value, partition=0, headers=headers)
                for value in values
            ]
            for one in sent:
                one.get(30)
            if in_transaction:
                producer.commit_transaction()
        finally:
            producer.close()

    def forget_records_before(self, offset: int) -> None:
        """Delete records, as Kafka does when their retention is over."""
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            admin.delete_records({TopicPartition(self.topic, 0): offset})
        finally:
            admin.close()

    def archives_mapped(self, processor: Running) -> set[str]:
        """Return the class-data archives that the JVM has mapped, except Java's own."""
        maps = [one.path for child in processor.children() for one in child.memory_maps()]
        return {path for path in maps if path.endswith(".jsa") and path.startswith(str(self.folder))}

    def cut_connections(self) -> None:
        """Terminate the processor's sessions in PostgreSQL."""
        with self.database.superuser().cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s",
                (credentials.role_name(self.settings(), Role.WRITER),),
            )

    def rejected(self) -> list[tuple[bytes | None, dict[str, str]]]:
        """Return the rejected records in the dead-letter topic: value and headers."""
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

    def wait_until_received(self, records: int, processor: Running) -> None:
        processor.wait_for(lambda: self.counts().get("received", 0) >= records)

    def is_all_closed(self) -> bool:
        with self.reader.cursor() as cursor:
            cursor.execute("SELECT bool_and(is_closed) FROM candles")
            return bool((cursor.fetchone() or (False,))[0])

    def finest_candles(self) -> dict[tuple[str, int], tuple[Decimal, Decimal, str]]:
        """Return close, quote volume and ids of the stored 5-second candles, by symbol and open time."""
        with self.reader.cursor() as cursor:
            cursor.execute(
                "SELECT symbol, (extract(epoch FROM open_time) * 1000000)::bigint, close, quote_volume,"
                " trade_ids::text FROM candles WHERE interval = '5s'"
            )
            return {(row[0], row[1]): (row[2], row[3], row[4]) for row in cursor.fetchall()}

    def folded_as_a_batch(self, spark: SparkSession) -> dict[tuple[str, int], tuple[Decimal, Decimal, str]]:
        """Return the same for the whole topic, read and aggregated by one batch job."""
        found = bounds(self.bootstrap, self.topic)
        records = read_range(spark, self.bootstrap, self.topic, found.begin, found.end)
        once = without_repeats(judge(records, 60_000_000))
        windows = self.settings().windows
        folded = read_fold(CandleFold(windows)(once).collect(), windows)
        rows = [decode(text) for text in folded.partials]
        return {
            (row.symbol, row.open_time): (Decimal(row.close), Decimal(row.quote_volume), row.trade_ids or "")
            for row in rows
        }


def trade(
    trade_id: int, time_ms: int, price: str = "100.5", quantity: str = "0.25", **more: Any
) -> dict[str, Any]:
    return {
        "e": "trade", "E": time_ms + 1, "s": "BTCUSDT", "t": trade_id, "p": price, "q": quantity,
        "T": time_ms, "m": trade_id % 3 == 0, "M": True, **more,
    }  # fmt: skip


def text(payload: dict[str, Any]) -> bytes:
    """Format a payload as Binance does."""
    return json.dumps(payload, separators=(",", ":")).encode()


def market(trades: int, start_ms: int = 1_723_161_255_000) -> list[dict[str, Any]]:
    """Return trades of two symbols over a minute, without gaps in the ids, some in the same millisecond."""
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
def scene(kafka: KafkaServer, database: Database, tmp_path: Path, spark_jars: list[Path]) -> Scene:
    """Delete the topics first: the venue determines their name, so all tests use the same."""
    one = Scene(kafka.bootstrap, database, tmp_path)
    names = (one.topic, one.settings().rejected_topic)
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    try:
        existing = [name for name in names if name in admin.list_topics()]
        if existing:
            admin.delete_topics(existing)
            wait_for(lambda: not set(existing) & set(admin.list_topics()), 30)
    finally:
        admin.close()
    return one


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_trades_become_exact_candles_and_a_stop_leaves_nothing(scene: Scene) -> None:
    trades = market(3_000)
    with scene.processor(TZ="Asia/Kathmandu") as processor:
        processor.wait_until_it_reads()
        scene.publish([text(one) for one in trades[:2_900]])
        scene.publish([text(one) for one in trades[2_900:]], origin=Origin.HISTORICAL)
        scene.wait_until_received(len(trades), processor)
        counts = {
            "merged": 3_000,
            "latency_trades": 2_900,
        }  # trades that were fetched later don't count for latency
        processor.wait_for(lambda: counts.items() <= processor.running_counts().items())
        assert oracle.differences(oracle.all_intervals(trades), scene.candles()) == []
        assert len(scene.finest_candles()) <= processor.running_counts()["candles"] <= 3_000
        processor.wait_for(scene.is_all_closed)  # closed by the clock, as no later trade follows
        counts = {"merged": 3_000, "received": 3_000, "lag": 0}
        processor.wait_for(lambda: counts.items() <= processor.running_counts().items())

        jvm = processor.children()
        listening = {
            place.laddr.ip
            for one in [psutil.Process(processor.process.pid), *jvm]
            for place in one.net_connections()
            if place.status == psutil.CONN_LISTEN
        }
        assert {ip.removeprefix("::ffff:") for ip in listening} <= {"127.0.0.1", "::1"}
        visible = processor.said() + "".join(" ".join(one.cmdline()) for one in jvm)
        writer = credentials.password(scene.settings(), Role.WRITER)
        assert jvm
        assert writer not in visible
        assert scene.database.owner_password not in visible
        processor.process.send_signal(signal.SIGTERM)
        assert processor.process.wait(STOP_SECONDS) == 0
        assert not [one for one in jvm if one.is_running()]
    # The late trades aren't counted here: the trades are hours old, so it depends on when the clock closes
    # their candles.
    assert {"received": 3_000, "merged": 3_000}.items() <= scene.counts().items()
    assert "Traceback" not in processor.said()
    assert not list(scene.folder.glob("candleflow-processor-*"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_second_processor_names_the_first_and_ends(scene: Scene) -> None:
    with scene.processor() as processor:
        processor.wait_until_it_reads()
        with scene.processor() as second:
            assert second.process.wait(processes.START_SECONDS) == 1
            assert f"process {processor.process.pid}" in second.said()
        processor.wait_for(lambda: "lag" in processor.running_counts())
        scene.publish([text(one) for one in market(300)])
        scene.wait_until_received(300, processor)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="reads in /proc what a JVM has mapped")
def test_the_first_start_archives_its_classes_and_the_next_maps_them(
    scene: Scene, spark_jars: list[Path]
) -> None:
    cache = scene.folder / "cache"
    cache.mkdir()
    (cache / "jars").symlink_to(spark_jars[0].parent)
    with scene.processor(CANDLEFLOW_CACHE_DIR=str(cache)) as processor:
        processor.wait_until_it_reads()
        for at in range(20):  # a batch each
            scene.publish([text(trade(1 + at, 1_723_161_255_000 + at))])
            scene.wait_until_received(at + 1, processor)
        processor.wait_for(lambda: "archived Spark's classes" in processor.said(), 600)
        assert not scene.archives_mapped(processor)
    with scene.processor(CANDLEFLOW_CACHE_DIR=str(cache)) as processor:
        processor.wait_until_it_reads()
        assert scene.archives_mapped(processor) == {str(one) for one in cache.glob("cds/*.jsa")}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_repetition_disorder_and_lost_connections_change_no_candle(
    scene: Scene, spark: SparkSession
) -> None:
    """Kill it three times while trades arrive, some repeated, late or in transactions; cut connections."""
    random = Random(4)
    trades = market(6_000)
    records = [text(one) for one in trades] + [text(random.choice(trades)) for _ in range(600)]
    blocks = [records[at : at + 300] for at in range(0, len(records), 300)]
    for block in blocks:
        random.shuffle(block)
    blocks[3], blocks[9] = blocks[9], blocks[3]
    remaining = iter(blocks)
    sent = 0
    for life in range(4):
        with scene.processor() as processor:
            processor.wait_until_it_reads()
            for at, block in enumerate(islice(remaining, 6)):
                scene.publish(block, in_transaction=at % 2 == 0)
                sent += len(block)
                if at == 2:
                    scene.wait_until_received(sent - 300, processor)
                    scene.cut_connections()
            if life < 3:
                processor.process.kill()
            else:
                scene.wait_until_received(len(records), processor)
    assert oracle.differences(oracle.all_intervals(trades), scene.candles()) == []
    assert scene.counts()["received"] == 6_600
    assert scene.counts()["duplicate"] == 600
    assert scene.counts()["merged"] == 6_000
    assert scene.folded_as_a_batch(spark) == scene.finest_candles()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bad_records_go_to_the_dead_letter_topic_with_their_reason_and_stop_nothing(scene: Scene) -> None:
    good = market(200)
    now = time.time_ns() // 1_000
    judged = [(value, reference(value, now)) for _, value, _ in NIGHTMARES if len(value or b"") < 10**6]
    bad = [(value, verdict) for value, verdict in judged if isinstance(verdict, str)]
    assert len(bad) > 60
    with scene.processor() as processor:
        processor.wait_until_it_reads()
        scene.publish([value for value, _ in bad])
        scene.wait_until_received(len(bad), processor)  # a batch with only bad records moves the offsets too
        mixed = [text(one) for one in good[:100]] + [b"\xff", text(good[0] | {"p": 1.0})]
        scene.publish(mixed + [json.dumps(one).encode() for one in good[100:]])
        scene.wait_until_received(len(bad) + 202, processor)
        assert oracle.differences(oracle.all_intervals(good), scene.candles()) == []
    aside = scene.rejected()
    assert [headers["reason"] for _, headers in aside[: len(bad)]] == [reason for _, reason in bad]
    assert [value for value, _ in aside[: len(bad)]] == [value for value, _ in bad]
    assert aside[0][1]["origin"] == f"{scene.topic}/0/0"
    counts = scene.counts()
    assert counts["received"] == len(bad) + 202
    assert counts["merged"] == 200
    assert sum(count for name, count in counts.items() if name.startswith("rejected")) == len(bad) + 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_its_jvm_it_ends_with_one_line_that_says_so(scene: Scene) -> None:
    with scene.processor() as processor:
        processor.wait_until_it_reads()
        scene.publish([text(one) for one in market(10)])
        scene.wait_until_received(10, processor)
        before = processor.said()
        (jvm,) = [child for child in processor.children() if child.name() == "java"]
        jvm.kill()
        assert processor.process.wait(processes.START_SECONDS) == 1
        lines = processor.said().removeprefix(before).splitlines()
        assert len(lines) == 2, lines
        assert lines[0].endswith("processor: stopped")
        assert "ERROR   processor: Spark's JVM has ended (killed by SIGKILL)" in lines[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_waits_for_a_topic_that_lost_the_next_records_to_be_adopted(scene: Scene) -> None:
    with scene.processor() as processor:
        processor.wait_until_it_reads()
        scene.publish([text(one) for one in market(10)])
        scene.wait_until_received(10, processor)
    scene.publish([text(one) for one in market(20)[10:]])
    scene.forget_records_before(15)
    with scene.processor() as processor:
        processor.wait_for(lambda: "waiting until the topic is adopted" in processor.said())
        (line,) = [one for one in processor.said().splitlines() if " ERROR " in one]
        assert "5 records expired unread" in line
        assert "python -m candleflow adopt-topic" in line
        assert scene.counts() == {"received": 10, "merged": 10}
        processor.wait_for(lambda: (beat := processor.heartbeat()) is not None and beat.state == "waiting")
        command = [sys.executable, "-m", "candleflow", "adopt-topic"]
        subprocess.run(command, env=scene.environment(), check=True, timeout=60)
        scene.wait_until_received(15, processor)
    counts = scene.counts()
    assert (counts["received"], counts["merged"]) == (15, 15)
