"""The processor: Kafka's trades into PostgreSQL's candles by Spark, until SIGTERM or Ctrl-C.

``run`` brings up Spark's JVM while it waits for Kafka and PostgreSQL, becomes the topic's one processor, and
keeps a query running from PostgreSQL's offsets. A query that fails is started anew from there; what no new
start can mend ends the process with one line that says what does.
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
from pathlib import Path
from statistics import quantiles
from typing import Any, Final, TypeVar

import psutil
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from candleflow.broker.last_records import LastRecords
from candleflow.broker.offsets import EndOffsets, bounds, starting_offsets
from candleflow.broker.topics import ensure_topics, topic_id
from candleflow.engine import trades
from candleflow.engine.ledger import Claim, Ledger, StoreAwayError
from candleflow.engine.session import class_path_of, join_session, start_session, stop_session
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
from candleflow.settings import SPARK_SUBMIT, Settings
from candleflow.stack import process
from candleflow.stack.class_archive import ClassArchive, spark_archive
from candleflow.stack.jars import ensure_jars
from candleflow.stack.java import find_java
from candleflow.stack.work_folder import work_folder
from candleflow.store import credentials, schema
from candleflow.store.credentials import Role
from candleflow.store.snapshots import SnapshotWatch
from candleflow.telemetry import set_up_logging

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

NAME: Final = "processor"
GRACE_SECONDS: Final = 2.0
"""A candle that no later trade closes is closed by the clock so long after its end: Binance's own klines come
up to 2 s late."""
BEAT_SECONDS: Final = 1.0
FINISH_SECONDS: Final = 3.0
"""Of the 10 s a stop may take, the batch under way gets so many to come to its end."""
HOLDER_SECONDS: Final = 15.0
"""A processor that was killed may leave its JVM, and with it the topic's lock, for a moment longer."""
STORE_SECONDS: Final = 60.0
"""PostgreSQL may be starting as well: it is waited for so long."""

_PAUSES_SECONDS: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
_AWAY_PAUSE_SECONDS: Final = 5.0
"""No pause is longer while Kafka or PostgreSQL is away: asking costs little, and candles wait for it."""
_STEADY_SECONDS: Final = 60.0
"""A query that ran so long before it failed is started anew at once, as if it had been the first."""
_SET_BACK_SECONDS: Final = 2.0
"""Spark begins its next batch at a time of the machine's clock (ProcessingTimeExecutor): where that is set
back, it waits until the clock is there again."""
_END_KNOWN_SECONDS: Final = 5.0
"""Kafka is asked once a second where the topic ends: an answer older than so tells no lag any more."""
_SETTLED_BATCHES: Final = 10
_SETTLE_SECONDS: Final = 30.0
"""After so many batches and seconds more, a start's work is over, and its classes are archived."""
_SAY_EVERY_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.1


def run(settings: Settings) -> int:
    """Run the processor until it is told to stop; its exit status. Logs to stderr."""
    set_up_logging(NAME, settings.log.level, settings.log.format)
    processor = _Processor(settings)
    try:
        processor.run()
    except StoppedError:
        return 0
    except CandleflowError as error:
        _log.error("%s", error, exc_info=settings.log.level == "DEBUG")
        return error.exit_status
    except Exception:  # noqa: BLE001 - the process ends here, and says why
        _log.exception("a defect ended the processor")
        return 1
    return 0


class _Processor:
    """One run: ``starting``, ``running`` with ``waiting`` in between, ``stopping``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._heartbeat = served_heartbeat(settings, NAME)
        self._held_by = f"{socket.gethostname()} process {os.getpid()}"
        self._end_offsets = EndOffsets(settings.kafka.bootstrap, settings.topic)
        self._sink: CandleSink | None = None
        self._beaten_at = 0.0
        self._restarts = 0

    def run(self) -> None:
        self._listen_for_signals()
        self._beat("starting", "")
        try:
            with work_folder(f"candleflow-{NAME}-") as work_dir:
                self._run_in(work_dir)
        finally:
            self._heartbeat.remove()

    def _run_in(self, work_dir: Path) -> None:
        settings = self._settings
        if settings.spark.master == SPARK_SUBMIT:
            self._wait_for_kafka()
            self._wait_for_store()
            self._process_in(join_session(work_dir), work_dir)
            return
        java_home = find_java(settings.stack.cache_path)
        jars = ensure_jars("spark", settings.stack.cache_path)
        archive = spark_archive(settings.stack.cache_path, java_home, jars)
        listing = work_dir / "classes.txt"
        with ThreadPoolExecutor(1, "spark-start") as starter:
            starting = starter.submit(
                start_session,
                java_home=java_home,
                jars=jars,
                master=settings.spark.master,
                memory=settings.spark.memory,
                work_dir=work_dir,
                java_options=archive.java_options(listing),
            )
            try:
                self._wait_for_kafka()
                self._wait_for_store()
                spark = self._wait_for_spark(starting)
            except BaseException:
                _end_children()  # the JVM that is coming up: its start can't be called off otherwise
                raise
        if listing.exists():
            making = (archive, listing, class_path_of(spark))
            threading.Thread(target=self._archive_classes, args=making, daemon=True).start()
        self._process_in(spark, work_dir)

    def _process_in(self, spark: SparkSession, work_dir: Path) -> None:
        try:
            self._process(spark, work_dir)
        finally:
            process.end_runs()
            self._end_offsets.stop()
            stop_session(spark)
            _log.info("stopped")

    def _archive_classes(self, archive: ClassArchive, listing: Path, class_path: str) -> None:
        """For the next start, once this one has come to rest and its JVM has loaded what a batch needs."""
        while self._sink is None or self._sink.tally.batches < _SETTLED_BATCHES:
            if self._stop.wait(1):
                return
        if self._stop.wait(_SETTLE_SECONDS):
            return
        began_at = time.monotonic()
        try:
            if archive.make(listing, class_path):
                seconds = time.monotonic() - began_at
                _log.info("archived Spark's classes in %.0f s: the next start is quicker", seconds)
        except StackError as error:
            if not self._stop.is_set():
                _log.warning("%s; the next start takes as long as this one", error)

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
        """Run one query after another, until stopped or until something that no new start can mend."""
        sparks_own = list(work_dir.glob("blockmgr-*"))
        failures = 0
        while not self._stop.is_set():
            began_at = time.monotonic()
            try:
                self._wait_for_kafka()  # which makes the topics, should they have been deleted meanwhile
                claim = self._claim(ledger)
                self._run_query(spark, sink, claim, _fresh_checkpoint(work_dir, sparks_own))
            except (*_FATAL, StoppedError):
                raise
            except (CandleflowError, _QueryEndedError) as error:
                failures = 1 if time.monotonic() - began_at > _STEADY_SECONDS else failures + 1
                pause = _PAUSES_SECONDS[min(failures, len(_PAUSES_SECONDS)) - 1]
                if isinstance(error, (StoreAwayError, BrokerError)):
                    pause = min(pause, _AWAY_PAUSE_SECONDS)
                self._restarts += 1
                _log.warning("the query ended and starts anew in %.0f s: %s", pause, error)
                self._pause(pause, f"to start anew: {error}")

    def _claim(self, ledger: Ledger) -> Claim:
        """Become the one processor of the topic there is now; raises HeldError where another stays it."""
        found = topic_id(self._settings.kafka.bootstrap, self._settings.topic)

        def claim() -> Claim:
            return ledger.claim(found, self._held_by)

        return self._until(claim, (HeldError,), HOLDER_SECONDS, "for the topic")

    def _run_query(self, spark: SparkSession, sink: CandleSink, claim: Claim, checkpoint: Path) -> None:
        """Run a query from the claim's offsets until it is stopped; raises what ended it otherwise."""
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
                raise _why(query, sink)
            before, wall_ahead = wall_ahead, _wall_ahead()
            set_back = before - wall_ahead
            if set_back > _SET_BACK_SECONDS:
                raise _QueryEndedError(
                    f"this machine's clock was set back by {set_back:.0f} s, and Spark waits for the old time"
                )
            self._raise_if_made_anew(sink, began_at)
            self._close_quiet_candles(sink)
            if sink.waits_for:
                self._beat("waiting", f"for {sink.waits_for}")
            else:
                self._beat("running", self._snapshots.message or self._settings.topic)
            self._stop.wait(_POLL_SECONDS)

    def _raise_if_made_anew(self, sink: CandleSink, since: float) -> None:
        """A topic made anew that is longer than the old one was looks to Spark as if it went on."""
        latest = self._end_offsets.latest
        if latest is not None and latest.asked_at > since and latest.topic_id != sink.topic_id:
            raise _QueryEndedError(f"the topic {self._settings.topic} was made anew")

    def _close_quiet_candles(self, sink: CandleSink) -> None:
        """Once a second, where all that the topic held a moment ago is merged, between two batches."""
        latest = self._end_offsets.latest
        if latest is None or latest.asked_at <= self._quiet_asked_at:
            return
        # Trades that came since are no reason to wait: in a busy topic there are always some.
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
            ensure_topics(
                settings.kafka.bootstrap,
                (settings.topic, settings.rejected_topic),
                settings.kafka.partitions,
                settings.kafka.replication,
                settings.kafka.retention_hours,
                gives_up=self._gives_up,
            )
        except BrokerError:
            self._raise_if_stopped()
            raise

    def _wait_for_store(self) -> None:
        self._until(lambda: schema.apply(self._settings), (StoreError,), STORE_SECONDS, "for PostgreSQL")

    def _wait_for_spark(self, starting: Future[SparkSession]) -> SparkSession:
        while not starting.done():
            self._beat("starting", "Spark's JVM")
            if self._stop.wait(_POLL_SECONDS):
                raise StoppedError("stopped while starting")
        return starting.result()

    def _until(
        self, work: Callable[[], _T], passing: tuple[type[Exception], ...], within_seconds: float, what: str
    ) -> _T:
        """What ``work`` returns, tried again while it raises what may pass, and for no longer than so."""
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

    # Telling -------------------------------------------------------------------------------------------

    def _beat(self, state: str, message: str) -> None:
        if time.monotonic() - self._beaten_at < BEAT_SECONDS:
            return
        self._beaten_at = time.monotonic()
        self._heartbeat.beat(state, message, self._counts())

    def _counts(self) -> Mapping[str, int | float]:
        sink = self._sink
        if sink is None:
            return {}
        counts: dict[str, int | float] = {
            name: sink.tally.records[name]
            for name in ("received", "merged", "candles", "duplicate", "rejected", "late")
        }
        counts |= {"batches": sink.tally.batches, "restarts": self._restarts}
        counts |= sink.tally.latency.counts() | sink.tally.latency.histogram()
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
    """The query ended by an error of Spark's, or by a defect; or it has to."""


def _wall_ahead() -> float:
    """How far this machine's clock is ahead of a steady one: that changes when it is set."""
    return time.time() - time.monotonic()


class _FolderGoneError(StackError):
    """The folder of Spark's shuffles, beside the checkpoint, was taken away: its JVM makes that once only."""


def _fresh_checkpoint(work_dir: Path, sparks_own: Sequence[Path]) -> Path:
    """A new folder for a query's checkpoint. Raises StackError where it can't be made now."""
    lost = [folder for folder in sparks_own if not folder.exists()]
    if lost:
        raise _FolderGoneError(f"{lost[0]} was taken away while the processor ran: it has to be started anew")
    try:
        return Path(tempfile.mkdtemp(dir=work_dir))
    except OSError as error:
        raise StackError(f"Spark's checkpoint can't be made in {work_dir}: {error}") from error


_FATAL: Final = (LedgerError, HeldError, SettingError, _FolderGoneError)
"""What a new start of the query can't mend."""


def _why(query: StreamingQuery, sink: CandleSink) -> BaseException:
    """What ended the query: the sink's own error where there is one, or else Spark's in one line."""
    failure = sink.failure
    if isinstance(failure, CandleflowError):
        return failure
    if failure is not None and not isinstance(failure, Exception):
        return failure
    said: Any = failure or query.exception()
    text = " ".join(str(said).split()) or "no reason given"
    if "data loss" in text.lower() or "failOnDataLoss" in text:
        text = f"records were gone before they were read: {text}"
    elif "No space left on device" in text:
        text = f"no space is left on the disk of {sink.checkpoint}: {text}"
    return _QueryEndedError(text[:500])


def _stop(query: StreamingQuery) -> None:
    try:
        query.stop()
    except Exception as error:  # noqa: BLE001 - py4j's errors; the JVM itself is ended next
        _log.warning("the query did not stop: %s", " ".join(str(error).split())[:300])


def _end_children() -> None:
    for child in psutil.Process().children(recursive=True):
        child.kill()
