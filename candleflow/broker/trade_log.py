"""The trade log's writer: what is published reaches Kafka once acknowledged, in order, without a wait here.

    event loop --records--> publisher --> kafka-python
        ^------acknowledged, in batches--------'

and all that once for trades and once for refused records: a record that Kafka itself refuses, say for its
size, makes kafka-python 3.0.12 fail everything else in the same producer, so a refused record must not be
able to harm trades. Notes (events of gaps) go with the trades; they are few, and whoever writes one waits
for it.

kafka-python's buffer has no bound: so ``TradeLog`` counts what is in flight, and whoever publishes waits for
room (``wait_for_room``) once the bound is reached.

A record is in flight until Kafka has acknowledged it. kafka-python retries by itself for days; what it gives
up all the same is logged, counted and sent again. A record can reach the log twice that way,
but while this process lives it can't be lost; readers drop the second by its trade id.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from candleflow.broker.publisher import Kind, Publisher, Receipt, Record

_log = logging.getLogger(__name__)

REJECTED_LIMIT_BYTES: Final = 65_536
"""Of a refused record so much is kept; the header ``truncated_from`` tells the length it had."""
BYTES_PER_RECORD: Final = 512
"""In flight are at most this many bytes for each record that may be: a trade has some 150."""

ORIGIN_HEADER: Final = "origin"
"""Whence a record came: of trades, only those that the stream did not bring have it."""

_STALLED_SECONDS: Final = 3.0
_CLOSE_SECONDS: Final = 2.0


class TradeLog:
    """Writes trades and refused records to Kafka. All methods belong to one event loop.

    ``now_ms`` gives the records' timestamps, in milliseconds since the epoch; it may be called on another
    thread. ``max_in_flight`` bounds what waits for an acknowledgement, in records, and, by
    ``BYTES_PER_RECORD``, in bytes. Nothing is sent before ``start()``.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        rejected_topic: str,
        *,
        max_in_flight: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._topic = topic
        self._rejected_topic = rejected_topic
        self._max_records = max_in_flight
        self._max_bytes = max_in_flight * BYTES_PER_RECORD
        self._records = 0
        self._bytes = 0
        self._acknowledged = dict.fromkeys(Kind, 0)
        self._notes = 0
        self._acknowledged_at = time.monotonic()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._settled: deque[Sequence[Record]] = deque()
        self._collecting = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._trades = Publisher(bootstrap, now_ms, self._on_settled)
        self._refused = Publisher(bootstrap, now_ms, self._on_settled)

    def start(self) -> None:
        """Start the publishers; call it on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._trades.start()
        self._refused.start()

    def publish(
        self, symbol: str, payload: bytes, *, origin: str | None = None, receipt: Receipt | None = None
    ) -> None:
        """Hand one trade over: the exchange's payload as it is, keyed by its symbol.

        ``origin``: whence it came, if not from the stream.
        """
        headers = None if origin is None else [(ORIGIN_HEADER, origin.encode())]
        self._hand_over(Record(self._topic, symbol.encode(), payload, Kind.TRADE, headers, receipt))

    async def note(self, topic: str, key: str, value: bytes) -> None:
        """Write one record to a topic beside the trades', and return once it is acknowledged."""
        receipt = Receipt()
        self._notes += 1
        self._hand_over(Record(topic, key.encode(), value, Kind.NOTE, receipt=receipt))
        await receipt.wait()

    def reject(
        self, record: bytes, reason: str, origin: str = "websocket", length: int | None = None
    ) -> None:
        """Hand one refused record over, with why and whence.

        ``length`` is that of the whole record where ``record`` is not the whole of it.
        """
        length = len(record) if length is None else length
        headers = [("reason", reason.encode()), (ORIGIN_HEADER, origin.encode())]
        kept = record[:REJECTED_LIMIT_BYTES]
        if length > len(kept):
            headers.append(("truncated_from", str(length).encode()))
        self._hand_over(Record(self._rejected_topic, None, kept, Kind.REJECTED, headers))

    @property
    def is_full(self) -> bool:
        """Whether the bound is reached: then publish nothing more before ``wait_for_room`` returns."""
        return self._records >= self._max_records or self._bytes >= self._max_bytes

    async def wait_for_room(self) -> None:
        """Return once there is room for a record; says so in one line where that takes waiting."""
        if not self.is_full:
            return
        if self._has_room.is_set():
            self._has_room.clear()
            _log.warning(
                "%d records (%d bytes) wait for Kafka, the most that may: reading the exchange waits too",
                self._records,
                self._bytes,
            )
        while self.is_full:
            await self._has_room.wait()

    async def flush(self, seconds: float) -> int:
        """Wait until all is acknowledged, for so long at most; the number of records that still are not."""
        try:
            async with asyncio.timeout(seconds):
                await self._is_empty.wait()
        except TimeoutError:
            pass
        return self._records

    async def close(self) -> None:
        """Stop at once; ``flush`` first. What is still in flight may or may not reach the log."""
        self._loop = None
        await asyncio.gather(*(one.stop(_CLOSE_SECONDS) for one in (self._trades, self._refused)))

    @property
    def in_flight(self) -> int:
        """Trades and refused records handed over and not yet acknowledged."""
        return self._records - self._notes

    @property
    def published(self) -> int:
        """Trades acknowledged."""
        return self._acknowledged[Kind.TRADE]

    @property
    def rejected(self) -> int:
        """Refused records acknowledged."""
        return self._acknowledged[Kind.REJECTED]

    @property
    def retried(self) -> int:
        """Records that Kafka's client gave up and that were sent again."""
        return self._trades.retried + self._refused.retried

    @property
    def holds_back(self) -> bool:
        """Whether a reader waits for room; from the bound reached until half of it is free."""
        return not self._has_room.is_set()

    @property
    def is_stalled(self) -> bool:
        """Whether records wait and none has been acknowledged for some seconds: Kafka is away or stuck."""
        return self._records > 0 and time.monotonic() - self._acknowledged_at > _STALLED_SECONDS

    def _hand_over(self, record: Record) -> None:
        if not self._records:
            self._acknowledged_at = time.monotonic()  # nothing was due before: a stall is counted from here
            self._is_empty.clear()
        self._records += 1
        self._bytes += len(record.value)
        if record.receipt is not None:
            record.receipt.expect()
        (self._refused if record.kind is Kind.REJECTED else self._trades).put(record)

    def _on_settled(self, records: Sequence[Record]) -> None:
        """On any thread: wake the loop once for any number of acknowledgements."""
        self._settled.append(records)
        if not self._collecting and (loop := self._loop) is not None:
            self._collecting = True
            try:
                loop.call_soon_threadsafe(self._collect)
            except RuntimeError:  # the loop was closed in the same moment: nobody counts any more
                self._loop = None

    def _collect(self) -> None:
        # Cleared before the queue is emptied: a record that comes later then wakes the loop again.
        self._collecting = False
        self._acknowledged_at = time.monotonic()
        settled = self._settled
        while settled:
            for record in settled.popleft():
                self._records -= 1
                self._bytes -= len(record.value)
                self._acknowledged[record.kind] += 1
                if record.kind is Kind.NOTE:
                    self._notes -= 1
                if record.receipt is not None:
                    record.receipt.settle()
        if not self._records:
            self._is_empty.set()
        # Half empty, not just one place: else reader and publisher would take turns record by record.
        if (
            not self._has_room.is_set()
            and self._records * 2 <= self._max_records
            and self._bytes * 2 <= self._max_bytes
        ):
            self._has_room.set()
            _log.info("Kafka acknowledges again: reading goes on")
