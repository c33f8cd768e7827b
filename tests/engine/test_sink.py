"""Merge a batch in parts, with real Kafka, Spark and PostgreSQL; kill it between parts, and replay it.

No query runs here: the tests call the sink as Spark does, so that they decide where a batch ends.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from candleflow.broker.last_records import LastRecords
from candleflow.broker.offsets import bounds
from candleflow.broker.topics import ensure_topics
from candleflow.engine import sink as sinks
from candleflow.engine import trades as trades_of_spark
from candleflow.engine.ledger import Claim, Ledger, Merged, StoreAwayError
from candleflow.engine.partials import LastRecord
from candleflow.engine.sink import CandleSink, Work
from candleflow.engine.trades import read_range
from candleflow.errors import LedgerError
from candleflow.market.window import Windows
from candleflow.store import credentials
from candleflow.store.credentials import Role
from tests import oracle
from tests.faults.direct import text, trade
from tests.store_fixtures import Database

BEGIN_MS = 1_723_161_255_000
WINDOW_MS = 5_000
SYMBOLS = ("AAAUSDT", "BBBUSDT", "CCCUSDT")
LIMIT = 10
WINDOWS = Windows.of_seconds(5)


class KilledError(Exception):
    """Simulates kill -9 at a moment that the test chooses."""


class KilledLedger(Ledger):
    """Raises ``error`` in the merge after ``merges`` successful ones, before or after its COMMIT."""

    merges = 10**9
    before_commit = False
    error: Exception = KilledError()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tried: list[int] = []
        self.sizes: list[int] = []
        """The number of candles in each attempted merge (``tried``) and in each finished one (``sizes``)."""

    def merge(self, *arguments: Any) -> Merged:
        self.tried.append(len(arguments[3]))
        self.merges -= 1
        if self.merges < 0 and self.before_commit:
            raise self.error
        answer = super().merge(*arguments)
        self.sizes.append(len(arguments[3]))
        if self.merges < 0:
            raise self.error
        return answer


@dataclass
class Place:
    """A test's own topic and database."""

    spark: SparkSession
    bootstrap: str
    topic: str
    database: Database
    folder: Path
    ledgers: list[Ledger] = field(default_factory=list)

    def publish(self, values: Sequence[bytes], partition: int = 0) -> None:
        producer = KafkaProducer(bootstrap_servers=self.bootstrap, linger_ms=5)
        try:
            for value in values:
                producer.send(self.topic, value=value, partition=partition)
        finally:
            producer.close()

    def start(self, confirm: sinks.Confirm | None = None) -> tuple[CandleSink, KilledLedger]:
        """Create a sink as a starting processor does, at the offsets stored in PostgreSQL."""
        for one in self.ledgers:
            one.close()
        dsn = credentials.dsn(self.database.settings, Role.WRITER)
        ledger = KilledLedger(self.spark, dsn.jdbc_url(), dsn.jdbc_properties(), self.topic, WINDOWS)
        self.ledgers.append(ledger)
        work = Work(
            self.topic, "a test", self.bootstrap, f"{self.topic}.rejected", WINDOWS, 60_000_000, LIMIT
        )
        sink = CandleSink(ledger, work, threading.Event(), confirm or self.confirm)
        self.begin(sink, ledger.claim("an id", "a test"))
        return sink, ledger

    def begin(self, sink: CandleSink, claim: Claim) -> None:
        """Start a query."""
        found = bounds(self.bootstrap, self.topic)
        sink.begin(claim, self.folder, {**found.begin, **claim.offsets}, found.end)

    def confirm(self, last: Mapping[int, tuple[int, int]]) -> None:
        with closing(LastRecords(self.bootstrap, self.topic)) as records:
            records.confirm(last)

    def merge_all(self, sink: CandleSink) -> None:
        """Merge one batch, from the sink's offsets to the topic's end, as the query would deliver it."""
        found = bounds(self.bootstrap, self.topic)
        (self.folder / "offsets").mkdir(exist_ok=True)
        source = json.dumps({self.topic: {str(number): end for number, end in found.end.items()}})
        (self.folder / "offsets" / "0").write_text(f"v1\n{{}}\n{source}")
        begin = {**found.begin, **sink.offsets}
        sink(sink.blocks(read_range(self.spark, self.bootstrap, self.topic, begin, found.end)), 0)

    def counts(self) -> dict[str, int]:
        with self.database.reader().cursor() as cursor:
            cursor.execute("SELECT outcome, records FROM record_counts WHERE topic = %s", (self.topic,))
            return dict(cursor.fetchall())

    def candles(self) -> dict[tuple[Any, ...], oracle.OracleCandle]:
        return oracle.stored_candles(self.database.reader())


@pytest.fixture
def place(
    spark: SparkSession, kafka_bootstrap: str, topic: str, database: Database, tmp_path: Path
) -> Iterator[Place]:
    ensure_topics(kafka_bootstrap, [topic, f"{topic}.rejected"], 2, 1, 87_600)
    made = Place(spark, kafka_bootstrap, topic, database, tmp_path)
    yield made
    for one in made.ledgers:
        one.close()


def quiet_trades(windows: int, symbols: Sequence[str] = SYMBOLS) -> list[dict[str, Any]]:
    """Return one trade of each symbol in each window."""
    return [
        trade(symbol, 1_000 + window, BEGIN_MS + window * WINDOW_MS, s=symbol)
        for window in range(windows)
        for symbol in symbols
    ]


@pytest.mark.slow
def test_killed_between_two_parts_it_goes_on_from_the_last_one(place: Place) -> None:
    """The kill comes before a COMMIT, and after one."""
    trades = quiet_trades(8)
    place.publish([text(one) for one in trades[::2]], partition=0)
    place.publish([text(one) for one in trades[1::2]], partition=1)
    for before_commit in (True, False):
        sink, ledger = place.start()
        ledger.merges, ledger.before_commit = 1, before_commit
        with pytest.raises(KilledError):
            place.merge_all(sink)
    sink, ledger = place.start()
    place.merge_all(sink)
    end = bounds(place.bootstrap, place.topic).end
    assert max(ledger.sizes) <= LIMIT
    assert sink.offsets == end
    assert sink.tally.batches == 1
    assert oracle.differences(oracle.all_intervals(trades), place.candles()) == []
    assert place.counts() == {"received": 24, "merged": 24}
    last = ledger.claim("an id", "a test").last
    assert {number: one.offset + 1 for number, one in last.items()} == end
    place.confirm(last)


@pytest.mark.slow
def test_repeated_and_bad_records_balance_over_the_parts(place: Place) -> None:
    """Some trades come twice, in the same part or in another; two records are invalid; and it is killed."""
    trades = quiet_trades(10)
    records = [text(one) for one in trades]
    place.publish([*records[::2], records[0], records[28]], partition=0)
    place.publish([records[0], *records[1::2], records[29], b"no trade", b"{}"], partition=1)
    for merges, before_commit in ((2, True), (1, False), (1, True)):
        sink, ledger = place.start()
        ledger.merges, ledger.before_commit = merges, before_commit
        with pytest.raises(KilledError):
            place.merge_all(sink)
    sink, _ = place.start()
    place.merge_all(sink)
    assert oracle.differences(oracle.all_intervals(trades), place.candles()) == []
    found = {name: count for name, count in place.counts().items() if name != "late"}
    rejected = {"rejected: not JSON": 1, "rejected: not a trade event": 1}
    assert found == {"received": 36, "merged": 30, "duplicate": 4} | rejected


def test_a_batch_with_few_candles_is_merged_at_once(place: Place) -> None:
    place.publish([text(one) for one in quiet_trades(LIMIT, SYMBOLS[:1])])
    sink, ledger = place.start()
    place.merge_all(sink)
    assert ledger.sizes == [LIMIT]


def test_a_flood_in_another_layout_is_merged_in_parts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver decodes at most ``UNREAD_LIMIT`` records at once."""
    monkeypatch.setattr(trades_of_spark, "UNREAD_LIMIT", 4)
    trades = quiet_trades(3)
    place.publish([text(one | {"X": 1}) for one in trades])
    sink, ledger = place.start()
    place.merge_all(sink)
    assert max(ledger.sizes) <= 4
    assert oracle.differences(oracle.all_intervals(trades), place.candles()) == []
    assert place.counts() == {"received": 9, "merged": 9}


def test_after_a_failure_of_time_or_size_the_next_attempt_is_smaller(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts shrink until they succeed, even though each attempt is made by a new query."""
    monkeypatch.setattr(sinks, "_SLOW_SECONDS", 0.0)  # as if the merge had failed slowly
    trades = quiet_trades(3)
    place.publish([text(one) for one in trades])
    sink, ledger = place.start()
    jvm: Any = place.spark._jvm
    errors: list[Exception] = [
        Py4JJavaError("An error occurred", jvm.java.lang.OutOfMemoryError("Java heap space")),
        StoreAwayError("the answer did not come in time (08006)"),
    ]
    for error in errors:
        ledger.merges, ledger.before_commit, ledger.error = 0, True, error
        with pytest.raises(type(error)):
            place.merge_all(sink)
        place.begin(sink, ledger.claim("an id", "a test"))
    ledger.merges = len(trades)
    place.merge_all(sink)
    assert ledger.tried[:3] == [9, 4, 2]
    assert oracle.differences(oracle.all_intervals(trades), place.candles()) == []


def test_another_record_where_the_last_one_was_stops_it_before_it_merges(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checked at the start of a query, and while one runs, because Kafka can restart meanwhile."""
    place.publish([text(one) for one in quiet_trades(2)])
    sink, ledger = place.start()
    place.merge_all(sink)
    merged = place.counts()
    claim = ledger.claim("an id", "a test")
    other = Claim(
        claim.topic_id, claim.run_id, claim.offsets, {0: LastRecord(5, claim.last[0].written_at + 1)}
    )
    with pytest.raises(LedgerError, match="python -m candleflow adopt-topic"):
        place.begin(sink, other)
    place.begin(sink, claim)
    monkeypatch.setattr(sinks, "_RESTART_SECONDS", 0.0)
    sink._last = other.last
    place.publish([text(one) for one in quiet_trades(3)[6:]])
    with pytest.raises(LedgerError, match="another record at offset 5"):
        place.merge_all(sink)
    assert place.counts() == merged
