"""What is done with each micro-batch: fold it in Spark, merge it in PostgreSQL, once and all of it.

A batch is one job, whose few rows come to the driver: what its candles are added up from, and how many
records were refused and why. Further jobs run only where they must: to put refused records aside, and to fold
a batch once more that has a trade twice, or one that is in the candles already. Spark may bring a batch
twice, and a COMMIT that the network cut may have been done: PostgreSQL compares the offsets and says so.

A batch with more candles than one transaction may merge is merged in parts, each a range of offsets that is
read from Kafka again and moves the offsets with its candles. So a crash between two parts is like any other.

An error leaves this module as it is. Spark then ends the query, which goes on from PostgreSQL's offsets when
it is started anew: nothing of a failed batch is lost, and nothing counts twice.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from pyspark.sql import DataFrame, SparkSession

from candleflow.backoff import Backoff
from candleflow.engine import trades
from candleflow.engine.folding import BatchFold, Overlap, unread_records
from candleflow.engine.ledger import Claim, Ledger, Merged, StoreAwayError, SupersededError
from candleflow.engine.partials import Folded, LastRecord, OversizeError
from candleflow.engine.parts import PartSize, part_end
from candleflow.engine.recent_latency import RecentLatency
from candleflow.engine.record_clock import RecordClock
from candleflow.engine.rejected import publish_rejected
from candleflow.errors import BrokerError, CandleflowError, HeldError
from candleflow.market.window import SECOND_US, Windows

_log = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 60.0
"""While PostgreSQL is away a batch waits for it so long; then the query ends, and is started anew."""
_PAUSES_SECONDS: Final = (0.4, 4.0)
"""The shortest and the longest bound of the pauses between attempts to merge a batch."""
_POLL_SECONDS: Final = 0.1
_BATCHES_REMEMBERED: Final = 1_000
CANDLES_LIMIT: Final = 20_000
"""One transaction merges at most so many finest candles, whatever the trades look like."""
_SLOW_SECONDS: Final = 5.0
"""A merge that failed after this time may have failed for its size: it is not repeated unchanged."""
_RESTART_SECONDS: Final = 1.0
"""No broker is stopped, loses records and is back within so little."""

Confirm = Callable[[Mapping[int, LastRecord]], None]
"""Raises LedgerError where a partition no longer has this record, and BrokerError where Kafka is away."""


class StoppedError(CandleflowError):
    """The processor is stopping: this batch was given up, and comes again at the next start."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a sink is set to do."""

    topic: str
    held_by: str
    bootstrap: str
    rejected_topic: str
    windows: Windows
    max_future_us: int
    candles_limit: int = CANDLES_LIMIT


@dataclass(slots=True)
class Tally:
    """What a sink did since it was made."""

    records: Counter[str] = field(default_factory=Counter)
    """By outcome: ``received``, ``merged``, ``duplicate``, ``rejected``, ``late``. And ``candles``: how many
    rows of the finest candles were written."""
    batches: int = 0
    batch_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_BATCHES_REMEMBERED))
    latency: RecentLatency = field(default_factory=RecentLatency)


class CandleSink:
    """Called by Spark with each batch (``foreachBatch``), from one thread; the rest by the service."""

    def __init__(self, ledger: Ledger, work: Work, stopping: threading.Event, confirm: Confirm) -> None:
        """``confirm`` is asked whether the topic still has the last record that was merged."""
        self._ledger = ledger
        self._work = work
        self._stopping = stopping
        self._confirm = confirm
        self._busy = threading.Lock()
        self._is_ended = False
        self._fold = BatchFold(work.windows, work.candles_limit)
        self._part_size = PartSize(work.candles_limit)
        self._warned = False
        """Whether it was said that most trades are in another layout."""
        self._begins: Mapping[int, int] = {}
        self._ends: Mapping[int, int] = {}
        self._last: Mapping[int, LastRecord] = {}
        self._confirmed_at = -math.inf
        self.record_clock = RecordClock()
        self.checkpoint = Path()
        """The folder of the query's own, which is no truth."""
        self.topic_id = ""
        """Which topic of its name the offsets belong to."""
        self.offsets: dict[int, int] = {}
        """Where the candles stand: the next offset of each partition."""
        self.waits_for = ""
        """What the batch under way waits for, in words; empty while it waits for nothing."""
        self.failure: BaseException | None = None
        """What ended the last batch, as Spark's own error has it as text only."""
        self.tally = Tally()

    def blocks(self, records: DataFrame) -> DataFrame:
        """What the query must make of Kafka's records before a batch of them comes here: the fold's rows.

        All of it is in the query: Spark analyzes that once, and what is done with a batch anew for each.
        """
        return self._fold.quickly(records, self._work.max_future_us)

    def begin(
        self, claim: Claim, checkpoint: Path, begins: Mapping[int, int], ends: Mapping[int, int]
    ) -> None:
        """A query is about to start at ``claim``'s offsets, with a fresh ``checkpoint``. It reads from
        ``begins``, and the topic ends at ``ends`` now.

        Raises LedgerError where the topic has lost what was merged last.
        """
        self.offsets = dict(claim.offsets)
        self.topic_id = claim.topic_id
        self._last = claim.last
        self._confirmed_at = -math.inf
        self._confirm_log()
        self._begins = begins
        self._ends = ends
        self.failure = None
        self._is_ended = False
        self._warned = False
        self.checkpoint = checkpoint

    def __call__(self, batch: DataFrame, batch_id: int) -> None:
        """Merge one batch; raises whatever keeps it from being merged."""
        with self._taken():
            began_at = time.perf_counter()
            try:
                self._merge_in_parts(batch, planned_offsets(self.checkpoint, batch_id))
            except BaseException as error:
                self.failure = error
                raise
            finally:
                self.waits_for = ""
            self.tally.batches += 1
            self.tally.batch_seconds.append(time.perf_counter() - began_at)

    def close_quiet_candles(self, closes_until_us: int) -> bool:
        """Close what has ended by then, unless a batch is under way; whether it was done."""
        if not self._busy.acquire(blocking=False):
            return False
        try:
            if not self._ledger.is_open:
                self._claim_again(self.offsets)
            self._ledger.close_quiet_candles(closes_until_us)
        except StoreAwayError as error:
            self.waits_for = f"PostgreSQL: {error}"
            return False
        finally:
            self._busy.release()
        self.waits_for = ""
        return True

    @contextmanager
    def ended(self, within_seconds: float) -> Iterator[None]:
        """Take no further batch, and wait for the one under way, but no longer than so."""
        self._is_ended = True
        is_over = self._busy.acquire(timeout=within_seconds)
        try:
            yield
        finally:
            if is_over:
                self._busy.release()

    @contextmanager
    def _taken(self) -> Iterator[None]:
        """The sink for one batch; raises StoppedError once it has ended, and never waits for that."""
        while not self._busy.acquire(timeout=_POLL_SECONDS):
            if self._is_ended:
                raise StoppedError("stopping")
        try:
            if self._is_ended:
                raise StoppedError("stopping")
            yield
        finally:
            self._busy.release()

    def _merge_in_parts(self, batch: DataFrame, end: Mapping[int, int]) -> None:
        """Merge the batch: at once, or one part after another where that would be too much."""
        first = self._standing(end)
        is_over = False
        while not is_over:
            if self._is_ended:
                raise StoppedError("stopping")
            begin = self._standing(end)
            reached = part_end(begin, end, self._part_size.records)
            is_whole = begin == first and reached == end
            blocks = batch if is_whole else self.blocks(self._records(batch.sparkSession, reached))
            records = sum(reached.values()) - sum(begin.values())
            is_over = self._merge_part(blocks, reached, records) and reached == end

    def _merge_part(self, blocks: DataFrame, reached: dict[int, int], records: int) -> bool:
        """Merge so many records; whether it was done, and they had not too many candles for that."""
        # A task for each partition of the topic would take longer than its few records, and each task may
        # have as many candles as all of them may have in the end.
        tasks = max(1, math.ceil(records / trades.RECORDS_PER_TASK))
        try:
            candles, seconds = self._merge(blocks.coalesce(tasks), reached)
        except OversizeError as error:
            self._part_size.failed(records, error.records)
            if records <= 1:
                raise
            _log.info("%s: merging %d records in parts of about %d", error, records, self._part_size.records)
            return False
        except BaseException:
            self._part_size.failed(records)
            raise
        self._part_size.merged(records, candles, seconds)
        return True

    def _standing(self, end: Mapping[int, int]) -> dict[int, int]:
        """Where the candles stand, in the partitions of ``end``: one that was added meanwhile begins at 0."""
        return {number: self.offsets.get(number, self._begins.get(number, 0)) for number in end}

    def _merge(self, blocks: DataFrame, reached: dict[int, int]) -> tuple[int, float]:
        """Merge what comes up to ``reached``, which is in ``blocks``: how many candles that were, and how
        many seconds PostgreSQL took.
        """
        read_at = time.monotonic()
        records = partial(self._records, blocks.sparkSession, reached)
        folded, trades_of = self._read(blocks, records)
        self._confirm_log()
        received = folded.sound + sum(folded.rejected.values())
        if folded.sound and any(end > self._ends.get(number, 0) for number, end in reached.items()):
            self.record_clock.note(folded.written_at)  # what was there before may be of any age
        if folded.rejected:
            publish_rejected(trades_of(), self._work.bootstrap, self._work.rejected_topic)
        if folded.has_repeats:
            folded = self._fold.once(trades_of(), folded)
        answer = self._until_merged(reached, folded, received)
        overlaps: list[Overlap] = []
        while answer.overlap is not None:
            overlaps.append(answer.overlap)
            folded = self._fold.once(trades_of(), folded, overlaps)
            answer = self._until_merged(reached, folded, received)
        merged_at = time.time()
        self.offsets = {**self.offsets, **reached}
        self._last = {**self._last, **folded.last}
        self._confirmed_at = read_at  # the log still had what is now the last one
        if answer.status != "already_merged":
            self.tally.latency.note(folded.live, folded.trades, round(merged_at * SECOND_US))
            self._count(answer, folded, received)
        return len(folded.partials), answer.seconds

    def _confirm_log(self) -> None:
        """Have it confirmed that the topic goes on from the last record merged, where it may not.

        A broker that lost its unflushed records by a power cut may have more records than before when it is
        asked next: its offsets alone don't tell.
        """
        asked_at = time.monotonic()
        if self._last and asked_at - self._confirmed_at > _RESTART_SECONDS:
            self._confirm(self._last)
            self._confirmed_at = asked_at

    def _read(
        self, blocks: DataFrame, records: Callable[[], DataFrame]
    ) -> tuple[Folded, Callable[[], DataFrame]]:
        """The batch folded, and what makes its trades row by row: as the query folded it, if that could read
        every record; or else judged from Kafka's ``records``. Raises OversizeError where it left too many.
        """
        quick = self._fold.read(blocks)
        if not unread_records(quick):
            return quick, lambda: trades.read_quickly(records(), self._work.max_future_us)
        judged = trades.judge(records(), self._work.max_future_us)
        folded = self._fold(judged)
        if folded.sound > 2 * quick.sound and not self._warned:
            _log.warning(
                "most trades are not in the layout that Binance sends: they are read, but more slowly"
            )
            self._warned = True
        return folded, lambda: judged

    def _records(self, spark: SparkSession, reached: Mapping[int, int]) -> DataFrame:
        """The batch's records once more: those from where the candles stand to where the batch ends."""
        work = self._work
        return trades.read_range(spark, work.bootstrap, work.topic, self._standing(reached), reached)

    def _until_merged(self, reached: dict[int, int], folded: Folded, received: int) -> Merged:
        """``Ledger.merge``, tried again while PostgreSQL is away; raises StoreAwayError in the end.

        A merge that failed only after a while is given up at once: it may have been too large.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        backoff = Backoff(*_PAUSES_SECONDS)
        is_waiting = False
        while True:
            began_at = math.inf
            try:
                if not self._ledger.is_open and self._claim_again(reached):
                    return Merged("already_merged")
                began_at = time.monotonic()
                counts = _counts(folded, received)
                answer = self._ledger.merge(self.offsets, reached, folded.last, folded.partials, counts)
            except StoreAwayError as error:
                failed_at = time.monotonic()
                if failed_at >= deadline or failed_at - began_at >= _SLOW_SECONDS:
                    raise
                if not is_waiting:
                    _log.warning("waiting for PostgreSQL, the batch is kept: %s", error)
                is_waiting = True
                self.waits_for = f"PostgreSQL: {error}"
                if self._stopping.wait(backoff.next_delay()):
                    raise StoppedError("stopping while PostgreSQL is away") from error
            else:
                if is_waiting:
                    _log.info("PostgreSQL is back, the batch is merged")
                return replace(answer, seconds=time.monotonic() - began_at)

    def _claim_again(self, reached: Mapping[int, int]) -> bool:
        """Take the topic again after the connection was lost; whether the batch had been merged.

        The lost session may live on for a moment in the server, and hold the topic against us.
        """
        try:
            claim = self._ledger.claim(self.topic_id, self._work.held_by)
        except HeldError as error:
            self._ledger.close()
            raise StoreAwayError(f"{error}") from error
        if claim.offsets == self.offsets:
            return False
        if claim.offsets == {**self.offsets, **reached}:
            return True
        self._ledger.close()
        raise SupersededError(
            f"the offsets of the topic {self._work.topic} stand at {claim.offsets}, and were left at "
            f"{self.offsets}: another processor has merged since, or an earlier database was put back"
        )

    def _count(self, answer: Merged, folded: Folded, received: int) -> None:
        counts = _counts(folded, received)
        self.tally.records.update(
            received=received,
            merged=folded.trades,
            candles=len(folded.partials),
            duplicate=counts["duplicate"],
            rejected=sum(folded.rejected.values()),
            late=answer.late,
        )


def _counts(folded: Folded, received: int) -> dict[str, Any]:
    """What ``merge_batch`` is told of a batch of ``received`` records."""
    return {
        "received": received,
        "duplicate": received - sum(folded.rejected.values()) - folded.trades,
        "rejected": dict(folded.rejected),
    }


def planned_offsets(checkpoint: Path, batch_id: int) -> dict[int, int]:
    """Where a batch ends, by partition: from the log that Spark wrote before the batch began.

    The records themselves can't tell: the last ones of a batch may be Kafka's own, of transactions. Raises
    BrokerError where the log isn't as this Spark writes it.
    """
    file = checkpoint / "offsets" / str(batch_id)
    try:
        version, _, source = file.read_text("utf-8").splitlines()
        (offsets,) = json.loads(source).values()
        found = {int(number): int(offset) for number, offset in offsets.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise BrokerError(f"Spark's log of offsets can't be read: {file}: {error}") from error
    if version != "v1":
        raise BrokerError(f"Spark's log of offsets is of an unknown version: {version}")
    return found
