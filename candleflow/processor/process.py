"""The processor: a Spark query that turns Kafka's trades into PostgreSQL's candles, until SIGTERM or Ctrl-C.

``run`` starts Spark's JVM while it waits for Kafka and PostgreSQL. It then takes the topic's lock, so that no
second processor reads it, and starts a query at the offsets that PostgreSQL holds. If the query fails, the
processor restarts it from those offsets. If the topic doesn't fit the offsets, it waits for an operator. An
error that a restart can't fix ends the process with one line that says what to do.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from statistics import quantiles
from typing import Any, Final, TypeVar

import psutil
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from candleflow.backoff import Backoff
from candleflow.broker.last_records import LastRecords
from candleflow.broker.offsets import EndOffsets, bounds, starting_offsets
from candleflow.broker.topics import ensure_trade_topics, topic_id
from candleflow.engine import trades
from candleflow.engine.ledger import Claim, Ledger, StoreAwayError
from candleflow.engine.session import (
    FindSpark,
    SparkFiles,
    class_path_of,
    join_session,
    jvm_status,
    start_session,
    stop_session,
)
from candleflow.engine.sink import CandleSink, StoppedError, Work
from candleflow.errors import (
    BrokerError,
    CandleflowError,
    HeldError,
    LedgerError,
    SettingError,
    StackError,
    StoreError,
)
from candleflow.market.window import SECOND_US
from candleflow.metrics.serving import served_heartbeat
from candleflow.process_loop import exit_status
from candleflow.settings import SPARK_SUBMIT, Settings
from candleflow.store import credentials, schema
from candleflow.store.credentials import Role
from candleflow.store.snapshots import SnapshotWatch

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

NAME: Final = "processor"
GRACE_SECONDS: Final = 2.0
"""How long after its end a candle is closed by the clock if no later trade closes it. Binance's own klines
arrive up to 2 s late."""
BEAT_SECONDS: Final = 1.0
FINISH_SECONDS: Final = 3.0
"""How long a stop waits for the current batch to finish; the whole stop may take 10 s."""
HOLDER_SECONDS: Final = 15.0
"""How long a start waits for another processor's lock on the topic. The JVM of a killed processor, and with
it the lock, can outlive it for a moment."""
STORE_SECONDS: Final = 60.0
"""How long a start waits for PostgreSQL, which may be starting too."""

_PAUSES_SECONDS: Final = (2.0, 30.0)
"""The first and the largest upper bound of the random pause before a failed query restarts."""
_AWAY_PAUSE_SECONDS: Final = 5.0
"""The longest pause while Kafka or PostgreSQL is down: a retry is cheap, and candles wait for it."""
_STEADY_SECONDS: Final = 60.0
"""After a query has run this long, its next failure starts again with the shortest pause."""
_SET_BACK_SECONDS: Final = 2.0
"""Restart the query if the machine's clock was set back by more than this. Spark schedules the next batch by
that clock (ProcessingTimeExecutor), and would wait until the clock reaches the old time again."""
_END_KNOWN_SECONDS: Final = 5.0
"""Report no lag if Kafka's last answer about the topic's end is older than this. It is asked each second."""
_SETTLED_BATCHES: Final = 10
_SETTLE_SECONDS: Final = 30.0
"""The JVM's classes are archived after ``_SETTLED_BATCHES`` batches and this long, when the work of starting
is over."""
_SAY_EVERY_SECONDS: Final = 10.0
_REFUSED_PAUSE_SECONDS: Final = 5.0
"""How often to check again whether a topic that doesn't fit the stored offsets was adopted."""
_SAY_REFUSED_EVERY_SECONDS: Final = 60.0
_IN_DOCKER: Final = Path("/.dockerenv")
"""Docker makes this file in each container."""
ADOPT_IN_COMPOSE: Final = "docker compose exec processor python -m candleflow adopt-topic"
_POLL_SECONDS: Final = 0.1


def run(settings: Settings, find_spark: FindSpark) -> int:
    """Run the processor until SIGTERM or Ctrl-C and return the exit status. Logs to stderr."""

    def work() -> None:
        with suppress(StoppedError):
            _Processor(settings, find_spark).run()

    return exit_status(NAME, settings, work)


class _Processor:
    """One run of the processor. Its heartbeat's states: ``starting``, ``waiting`` and ``running``."""

    def __init__(self, settings: Settings, find_spark: FindSpark) -> None:
        self._settings = settings
        self._find_spark = find_spark
        self._stop = threading.Event()
        self._heartbeat = served_heartbeat(settings, NAME)
        self._held_by = f"{socket.gethostname()} process {os.getpid()}"
        self._end_offsets = EndOffsets(settings.kafka.bootstrap, settings.topic)
        self._sink: CandleSink | None = None
        self._beaten_at = 0.0
        self._restarts = 0
        self._refused = ("", 0.0)

    def run(self) -> None:
        self._listen_for_signals()
        self._beat("starting", "")
        try:
            with self._find_spark() as files:
                spark = self._started(files)
                try:
                    self._process(spark, files.work_dir)
                except Exception:
                    if (status := jvm_status()) is not None:
                        raise _jvm_gone(status) from None
                    raise
                finally:
                    self._end_offsets.stop()
                    stop_session(spark)
                    _log.info("stopped")
        finally:
            self._heartbeat.remove()

    def _started(self, files: SparkFiles) -> SparkSession:
        """Start Spark while waiting for Kafka and PostgreSQL; return its session when all three are up."""
        settings = self._settings
        if settings.spark.master == SPARK_SUBMIT:
            self._wait_for_kafka()
            self._wait_for_store()
            return join_session(files.work_dir)
        with ThreadPoolExecutor(1, "spark-start") as starter:
            starting = starter.submit(
                start_session, files, master=settings.spark.master, memory=settings.spark.memory
            )
            try:
                self._wait_for_kafka()
                self._wait_for_store()
                spark = self._wait_for_spark(starting)
            except BaseException:
                _end_children()  # kill the starting JVM: its start can't be cancelled in another way
                raise
        if files.archive_classes is not None:
            making = (files.archive_classes, class_path_of(spark))
            threading.Thread(target=self._archive_classes, args=making, daemon=True).start()
        return spark

    def _archive_classes(self, archive: Callable[[str], None], class_path: str) -> None:
        """Archive the JVM's classes for a faster next start, once it has loaded what a batch needs."""
        while self._sink is None or self._sink.tally.batches < _SETTLED_BATCHES:
            if self._stop.wait(1):
                return
        if self._stop.wait(_SETTLE_SECONDS):
            return
        try:
            archive(class_path)
        except StackError as error:
            if not self._stop.is_set():
                _log.warning("%s; the next start will be as slow as this one", error)

    def _process(self, spark: SparkSession, work_dir: Path) -> None:
        settings = self._settings
        writer = credentials.dsn(settings, Role.WRITER)
        ledger = Ledger(spark, writer.jdbc_url(), writer.jdbc_properties(), settings.topic, settings.windows)
        work = Work(
            topic=settings.topic,
            held_by=self._held_by,
            bootstrap=settings.kafka.bootstrap,
            rejected_topic=settings.rejected_topic,
            windows=settings.windows,
            max_future_us=int(settings.max_future_seconds * SECOND_US),
        )
        last_records = LastRecords(settings.kafka.bootstrap, settings.topic)
        self._sink = CandleSink(ledger, work, self._stop, last_records.confirm)
        self._snapshots = SnapshotWatch(writer)
        self._end_offsets.start()
        self._snapshots.start()
        try:
            self._keep_processing(spark, ledger, self._sink, work_dir)
        finally:
            self._snapshots.stop()
            ledger.close()
            last_records.close()

    def _keep_processing(self, spark: SparkSession, ledger: Ledger, sink: CandleSink, work_dir: Path) -> None:
        """Run one query after another, until stopped or until an error that a restart can't fix."""
        spark_folders = list(work_dir.glob("blockmgr-*"))
        backoff = Backoff(*_PAUSES_SECONDS)
        while not self._stop.is_set():
            began_at = time.monotonic()
            try:
                self._wait_for_kafka()  # also creates the topics again if they were deleted
                claim = self._claim(ledger)
                self._run_query(spark, sink, claim, _fresh_checkpoint(work_dir, spark_folders))
            except (*_FATAL, StoppedError):
                raise
            except LedgerError as error:
                ledger.close()  # releases the topic's lock, which adopt-topic needs
                self._say_refused(error)
                self._pause(_REFUSED_PAUSE_SECONDS, str(error))
            except (CandleflowError, _QueryEndedError) as error:
                if time.monotonic() - began_at > _STEADY_SECONDS:
                    backoff.reset()
                pause = backoff.next_delay()
                if isinstance(error, (StoreAwayError, BrokerError)):
                    pause = min(pause, _AWAY_PAUSE_SECONDS)
                self._restarts += 1
                _log.warning("the query failed and restarts in %.0f s: %s", pause, error)
                self._pause(pause, f"to restart the query: {error}")

    def _say_refused(self, error: LedgerError) -> None:
        """Log that the topic doesn't fit the stored offsets: at once, then once a minute."""
        words, said_at = self._refused
        if str(error) != words or time.monotonic() - said_at > _SAY_REFUSED_EVERY_SECONDS:
            self._refused = (str(error), time.monotonic())
            compose = f"; with docker compose: {ADOPT_IN_COMPOSE}" if _IN_DOCKER.exists() else ""
            _log.error("waiting until the topic is adopted: %s%s", error, compose)

    def _claim(self, ledger: Ledger) -> Claim:
        """Take the topic's lock for this processor. Raises HeldError if another one keeps it."""
        found = topic_id(self._settings.kafka.bootstrap, self._settings.topic)

        def claim() -> Claim:
            return ledger.claim(found, self._held_by)

        return self._retry(claim, (HeldError,), HOLDER_SECONDS, "for the topic")

    def _run_query(self, spark: SparkSession, sink: CandleSink, claim: Claim, checkpoint: Path) -> None:
        """Run a query from the claim's offsets until the processor stops. Raises the query's error."""
        settings = self._settings
        began_at = time.monotonic()
        found = bounds(settings.kafka.bootstrap, settings.topic)
        offsets = starting_offsets(settings.topic, claim.offsets, found)
        sink.begin(claim, checkpoint, offsets, found.end)
        records = trades.read_stream(
            spark,
            settings.kafka.bootstrap,
            settings.topic,
            offsets,
            records_per_batch=settings.spark.max_offsets_per_trigger,
        )
        query = (
            sink.blocks(records)
            .writeStream.foreachBatch(sink)
            .option("checkpointLocation", checkpoint.as_uri())
            .trigger(processingTime=f"{settings.spark.trigger_milliseconds} milliseconds")
            .start()
        )
        behind = sum(found.end[number] - offset for number, offset in offsets.items())
        _log.info("reading %s, %d records behind", settings.topic, behind)
        try:
            self._follow(query, sink, began_at)
        finally:
            with sink.ended(FINISH_SECONDS):
                _stop(query)
            shutil.rmtree(checkpoint, ignore_errors=True)

    def _follow(self, query: StreamingQuery, sink: CandleSink, began_at: float) -> None:
        wall_ahead = _wall_ahead()
        while not self._stop.is_set():
            if not query.isActive:
                raise _query_error(query, sink)
            before, wall_ahead = wall_ahead, _wall_ahead()
            set_back = before - wall_ahead
            if set_back > _SET_BACK_SECONDS:
                raise _QueryEndedError(
                    f"this machine's clock was set back by {set_back:.0f} s: Spark would wait that long"
                )
            self._raise_if_topic_recreated(sink, began_at)
            self._close_quiet_candles(sink)
            if sink.waits_for:
                self._beat("waiting", f"for {sink.waits_for}")
            else:
                self._beat("running", self._snapshots.message or self._settings.topic)
            self._stop.wait(_POLL_SECONDS)

    def _raise_if_topic_recreated(self, sink: CandleSink, since: float) -> None:
        """Raise if the topic was deleted and created again.

        Spark does not notice that once the new topic is longer than the old one was.
        """
        latest = self._end_offsets.latest
        if latest is not None and latest.asked_at > since and latest.topic_id != sink.topic_id:
            raise _QueryEndedError(f"the topic {self._settings.topic} was deleted and created again")

    def _close_quiet_candles(self, sink: CandleSink) -> None:
        """Close the candles that ended without a later trade, at most once a second.

        Only between two batches, and only when every record up to the topic's last known end is merged.
        """
        latest = self._end_offsets.latest
        if latest is None or latest.asked_at <= self._quiet_asked_at:
            return
        # Newer trades are no reason to wait: in a busy topic there are always some.
        if any(sink.offsets.get(number, 0) < end for number, end in latest.end.items()):
            return
        closes_until = sink.record_clock.at(latest.asked_at - GRACE_SECONDS)
        if closes_until is not None and (sink.close_quiet_candles(closes_until) or sink.waits_for):
            self._quiet_asked_at = latest.asked_at

    _quiet_asked_at = 0.0

    # Waiting -------------------------------------------------------------------------------------------

    def _wait_for_kafka(self) -> None:
        settings = self._settings
        self._beat("waiting", f"for Kafka at {settings.kafka.bootstrap}")
        try:
            ensure_trade_topics(settings, gives_up=self._gives_up)
        except BrokerError:
            self._raise_if_stopped()
            raise

    def _wait_for_store(self) -> None:
        self._retry(lambda: schema.apply(self._settings), (StoreError,), STORE_SECONDS, "for PostgreSQL")

    def _wait_for_spark(self, starting: Future[SparkSession]) -> SparkSession:
        while not starting.done():
            self._beat("starting", "Spark's JVM")
            if self._stop.wait(_POLL_SECONDS):
                raise StoppedError("stopped while starting")
        return starting.result()

    def _retry(
        self, work: Callable[[], _T], passing: tuple[type[Exception], ...], within_seconds: float, what: str
    ) -> _T:
        """Call ``work`` and return its result. Retry on ``passing`` errors for up to ``within_seconds``."""
        deadline = time.monotonic() + within_seconds
        said_at = 0.0
        while True:
            self._raise_if_stopped()
            try:
                return work()
            except passing as error:
                if time.monotonic() >= deadline:
                    raise
                if time.monotonic() - said_at > _SAY_EVERY_SECONDS:
                    said_at = time.monotonic()
                    _log.info("waiting %s: %s", what, error)
                self._pause(0.5, f"{what}: {error}")

    def _pause(self, seconds: float, message: str) -> None:
        until = time.monotonic() + seconds
        while not self._stop.is_set() and time.monotonic() < until:
            self._beat("waiting", message)
            self._stop.wait(_POLL_SECONDS)

    def _gives_up(self) -> bool:
        self._beat("waiting", f"for Kafka at {self._settings.kafka.bootstrap}")
        return self._stop.is_set()

    def _raise_if_stopped(self) -> None:
        if self._stop.is_set():
            raise StoppedError("stopped while waiting")

    def _listen_for_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())

    # Heartbeat -----------------------------------------------------------------------------------------

    def _beat(self, state: str, message: str) -> None:
        if time.monotonic() - self._beaten_at < BEAT_SECONDS:
            return
        self._beaten_at = time.monotonic()
        latency = {} if self._sink is None else {"latency": self._sink.tally.latency.histogram()}
        self._heartbeat.beat(state, message, self._counts(), latency)

    def _counts(self) -> Mapping[str, int | float]:
        sink = self._sink
        if sink is None:
            return {}
        counts: dict[str, int | float] = {
            name: sink.tally.records[name]
            for name in ("received", "merged", "candles", "duplicate", "rejected", "late")
        }
        counts |= {"batches": sink.tally.batches, "restarts": self._restarts}
        counts |= sink.tally.latency.counts()
        latest = self._end_offsets.latest
        if latest is not None and time.monotonic() - latest.asked_at < _END_KNOWN_SECONDS:
            counts["lag"] = sum(
                max(0, end - sink.offsets.get(number, 0)) for number, end in latest.end.items()
            )
        milliseconds = [1_000 * seconds for seconds in list(sink.tally.batch_seconds)]
        if len(milliseconds) > 1:
            percentiles = quantiles(milliseconds, n=100, method="inclusive")
            counts |= {"batch_ms_p50": round(percentiles[49], 1), "batch_ms_p99": round(percentiles[98], 1)}
        return counts


class _QueryEndedError(CandleflowError):
    """Spark or a bug ended the query, or the processor has to end it."""


def _jvm_gone(status: int) -> StackError:
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return StackError(f"Spark's JVM has ended ({how}): restart the processor, it continues where it was")


def _wall_ahead() -> float:
    """Return how far the wall clock is ahead of the monotonic clock; it changes when the former is set."""
    return time.time() - time.monotonic()


class _FolderGoneError(StackError):
    """Spark's shuffle folder was deleted. The JVM creates it only once, so the process must restart."""


def _fresh_checkpoint(work_dir: Path, spark_folders: Sequence[Path]) -> Path:
    """Create a new folder for a query's checkpoint. Raises StackError if that fails."""
    lost = [folder for folder in spark_folders if not folder.exists()]
    if lost:
        raise _FolderGoneError(f"{lost[0]} was deleted while the processor ran: restart the processor")
    try:
        return Path(tempfile.mkdtemp(dir=work_dir))
    except OSError as error:
        raise StackError(f"can't create Spark's checkpoint folder in {work_dir}: {error}") from error


_FATAL: Final = (HeldError, SettingError, _FolderGoneError)
"""Errors that a restart of the query can't fix."""


def _query_error(query: StreamingQuery, sink: CandleSink) -> BaseException:
    """Return what ended the query: the sink's own error if there is one, else Spark's error in one line."""
    failure = sink.failure
    if isinstance(failure, CandleflowError):
        return failure
    if failure is not None and not isinstance(failure, Exception):
        return failure
    said: Any = failure or query.exception()
    text = " ".join(str(said).split()) or "no reason given"
    if "data loss" in text.lower() or "failOnDataLoss" in text:
        text = f"Kafka deleted records before they were read: {text}"
    elif "No space left on device" in text:
        text = f"no space is left on the disk of {sink.checkpoint}: {text}"
    return _QueryEndedError(text[:500])


def _stop(query: StreamingQuery) -> None:
    try:
        query.stop()
    except Exception as error:  # noqa: BLE001 - py4j's errors; the JVM itself is ended next
        if jvm_status() is None:
            _log.warning("the query did not stop: %s", " ".join(str(error).split())[:300])


def _end_children() -> None:
    for child in psutil.Process().children(recursive=True):
        child.kill()
