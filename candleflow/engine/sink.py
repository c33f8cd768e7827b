"""Process each micro-batch: aggregate it in Spark and merge it into PostgreSQL, effectively once.

Most batches are one Spark job. Its few rows come to the driver: partial aggregates, and the number of
rejected records by reason. Further jobs run only to publish rejected records to the dead-letter topic, and
to aggregate a batch again if it repeats a trade or has one that is already in the candles.

Each merge moves the stored offsets in the same transaction. Spark can deliver a batch twice, and a COMMIT
whose answer was lost can have succeeded; in both cases PostgreSQL sees by the offsets that the batch is in.

A batch with too many candles for one transaction is merged in parts. Each part is a range of offsets, read
from Kafka again and merged with its own offsets, so a crash between two parts needs no special handling.

Errors are not handled here, except that a merge is retried while PostgreSQL is down. They end the query, and
the processor restarts it at PostgreSQL's offsets: nothing of a failed batch is lost or counted twice.
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
"""How long a batch waits while PostgreSQL is down. Then the query fails, and the processor restarts it."""
_PAUSES_SECONDS: Final = (0.4, 4.0)
"""The first and the largest upper bound of the random pause between attempts to merge a batch."""
_POLL_SECONDS: Final = 0.1
_BATCHES_REMEMBERED: Final = 1_000
CANDLES_LIMIT: Final = 20_000
"""The maximum number of candles of the finest interval that one transaction merges."""
_SLOW_SECONDS: Final = 5.0
"""A merge that failed after this time was possibly too large: it is not retried with the same size."""
_RESTART_SECONDS: Final = 1.0
"""A broker can't stop, lose records and return within this time."""

Confirm = Callable[[Mapping[int, LastRecord]], None]
"""Raises LedgerError if a partition no longer has the given record, and BrokerError while Kafka is down."""


class StoppedError(CandleflowError):
    """The processor is stopping: the batch was not merged, and is read again at the next start."""


@dataclass(frozen=True, slots=True)
class Work:
    """The configuration of a sink."""

    topic: str
    held_by: str
    bootstrap: str
    rejected_topic: str
    windows: Windows
    max_future_us: int
    candles_limit: int = CANDLES_LIMIT


@dataclass(slots=True)
class Tally:
    """A sink's counters since it was created."""

    records: Counter[str] = field(default_factory=Counter)
    """Records by outcome: ``received``, ``merged``, ``duplicate``, ``rejected``, ``late``. Also ``candles``:
    how many rows of the finest interval were written."""
    batches: int = 0
    batch_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_BATCHES_REMEMBERED))
    latency: RecentLatency = field(default_factory=RecentLatency)


class CandleSink:
    """Merges batches into PostgreSQL. Spark calls it with each batch (``foreachBatch``) from one thread; the
    processor calls the other methods."""

    def __init__(self, ledger: Ledger, work: Work, stopping: threading.Event, confirm: Confirm) -> None:
        """``confirm`` checks that the topic still has the last records merged."""
        self._ledger = ledger
        self._work = work
        self._stopping = stopping
        self._confirm = confirm
        self._busy = threading.Lock()
        self._is_ended = False
        self._fold = BatchFold(work.windows, work.candles_limit)
        self._part_size = PartSize(work.candles_limit)
        self._warned = False
        """Whether the warning about another layout was logged since the query started."""
        self._begins: Mapping[int, int] = {}
        self._ends: Mapping[int, int] = {}
        self._last: Mapping[int, LastRecord] = {}
        self._confirmed_at = -math.inf
        self.record_clock = RecordClock()
        self.checkpoint = Path()
        """The folder of the query's checkpoint, used only to see where a batch ends."""
        self.topic_id = ""
        """Kafka's id of the topic that the offsets belong to."""
        self.offsets: dict[int, int] = {}
        """The next offset of each partition after the last merge."""
        self.waits_for = ""
        """What the current batch waits for, for the heartbeat; empty if it waits for nothing."""
        self.failure: BaseException | None = None
        """The error that ended the last batch; Spark's own error has only its text."""
        self.tally = Tally()

    def blocks(self, records: DataFrame) -> DataFrame:
        """Return the aggregation of ``records`` into ``Block`` rows; the query must run it before the sink.

        It is part of the query because Spark analyzes a query once, but code on a batch for each batch.
        """
        return self._fold.quickly(records, self._work.max_future_us)

    def begin(
        self, claim: Claim, checkpoint: Path, begins: Mapping[int, int], ends: Mapping[int, int]
    ) -> None:
        """Prepare for a query that starts at ``claim``'s offsets with a new ``checkpoint``.

        ``begins``: the offset of each partition from which the query reads. ``ends``: where each one ends
        now. Raises LedgerError if the topic no longer has the last records merged.
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
        """Merge one batch. Raises any error that prevents it."""
        with self._exclusive():
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
        """Close the candles that ended by ``closes_until_us``, unless a batch is running; return whether."""
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
        """Accept no further batch, and wait up to ``within_seconds`` for the current one."""
        self._is_ended = True
        is_over = self._busy.acquire(timeout=within_seconds)
        try:
            yield
        finally:
            if is_over:
                self._busy.release()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the sink's lock for one batch. Raises StoppedError once ``ended`` was called."""
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
        """Merge the batch at once, or part by part if it is too large."""
        first = self._current_offsets(end)
        is_over = False
        while not is_over:
            if self._is_ended:
                raise StoppedError("stopping")
            begin = self._current_offsets(end)
            reached = part_end(begin, end, self._part_size.records)
            is_whole = begin == first and reached == end
            blocks = batch if is_whole else self.blocks(self._records(batch.sparkSession, reached))
            records = sum(reached.values()) - sum(begin.values())
            is_over = self._merge_part(blocks, reached, records) and reached == end

    def _merge_part(self, blocks: DataFrame, reached: dict[int, int], records: int) -> bool:
        """Merge one part; return False, and make the next part smaller, if it was too large."""
        # Fewer tasks than partitions: a task for each would cost more than its few records, and each may
        # produce as many candles as the whole part is allowed to have.
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

    def _current_offsets(self, end: Mapping[int, int]) -> dict[int, int]:
        """Return the next offset to merge in each partition of ``end``; 0 for a partition added meanwhile."""
        return {number: self.offsets.get(number, self._begins.get(number, 0)) for number in end}

    def _merge(self, blocks: DataFrame, reached: dict[int, int]) -> tuple[int, float]:
        """Merge ``blocks``, the records up to ``reached``. Return the number of candles, and the seconds that
        PostgreSQL took.
        """
        read_at = time.monotonic()
        records = partial(self._records, blocks.sparkSession, reached)
        folded, trades_of = self._read(blocks, records)
        self._confirm_log()
        received = folded.sound + sum(folded.rejected.values())
        if folded.sound and any(end > self._ends.get(number, 0) for number, end in reached.items()):
            self.record_clock.note(folded.written_at)  # a record from before the query may be of any age
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
        self._confirmed_at = read_at  # the topic still had the new last records then
        if answer.status != "already_merged":
            self.tally.latency.note(folded.live, folded.trades, round(merged_at * SECOND_US))
            self._count(answer, folded, received)
        return len(folded.partials), answer.seconds

    def _confirm_log(self) -> None:
        """Check that the topic still has the last records merged, unless that was checked a moment ago.

        A broker that lost unflushed records in a power cut can have received new ones since, under the same
        offsets. So the offsets alone don't show the loss.
        """
        asked_at = time.monotonic()
        if self._last and asked_at - self._confirmed_at > _RESTART_SECONDS:
            self._confirm(self._last)
            self._confirmed_at = asked_at

    def _read(
        self, blocks: DataFrame, records: Callable[[], DataFrame]
    ) -> tuple[Folded, Callable[[], DataFrame]]:
        """Return the batch's aggregate, and a function that returns its trades as rows.

        If the query could read every record, the aggregate is the query's. Otherwise ``trades.judge`` reads
        Kafka's ``records`` again. Raises OversizeError if too many records are unread.
        """
        quick = self._fold.read(blocks)
        if not unread_records(quick):
            return quick, lambda: trades.read_quickly(records(), self._work.max_future_us)
        judged = trades.judge(records(), self._work.max_future_us)
        folded = self._fold(judged)
        if folded.sound > 2 * quick.sound and not self._warned:
            _log.warning(
                "most trades are not in the layout that Binance sends: they are decoded, but more slowly"
            )
            self._warned = True
        return folded, lambda: judged

    def _records(self, spark: SparkSession, reached: Mapping[int, int]) -> DataFrame:
        """Read the batch's records from Kafka again, from the current offsets to ``reached``."""
        work = self._work
        begin = self._current_offsets(reached)
        return trades.read_range(spark, work.bootstrap, work.topic, begin, reached)

    def _until_merged(self, reached: dict[int, int], folded: Folded, received: int) -> Merged:
        """Call ``Ledger.merge``, and retry while PostgreSQL is down, up to ``PATIENCE_SECONDS``.

        Raises StoreAwayError after that time, and at once for an attempt that failed after
        ``_SLOW_SECONDS``, which was possibly too large.
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
                    _log.info("PostgreSQL is back: the batch is merged")
                return replace(answer, seconds=time.monotonic() - began_at)

    def _claim_again(self, reached: Mapping[int, int]) -> bool:
        """Take the topic's lock again after the connection was lost; return whether the batch was merged.

        The server can keep the lost session, and with it the lock, for a moment longer.
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
            f"the stored offsets of the topic {self._work.topic} are {claim.offsets}, this processor stored "
            f"{self.offsets}: another processor has merged since, or an older database was restored"
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
    """Return the counts that ``merge_batch`` stores for a batch of ``received`` records."""
    return {
        "received": received,
        "duplicate": received - sum(folded.rejected.values()) - folded.trades,
        "rejected": dict(folded.rejected),
    }


def planned_offsets(checkpoint: Path, batch_id: int) -> dict[int, int]:
    """Return where a batch ends, by partition, from the offset log that Spark writes before a batch.

    The records don't show it: the last offsets of a batch can be Kafka's own transaction markers. Raises
    BrokerError if the log is not in the expected format.
    """
    file = checkpoint / "offsets" / str(batch_id)
    try:
        version, _, source = file.read_text("utf-8").splitlines()
        (offsets,) = json.loads(source).values()
        found = {int(number): int(offset) for number, offset in offsets.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise BrokerError(f"Spark's offset log can't be read: {file}: {error}") from error
    if version != "v1":
        raise BrokerError(f"Spark's offset log {file} has an unknown version: {version}")
    return found
