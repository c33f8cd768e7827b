"""Writes trades and rejected records to Kafka, in order and at least once, without blocking the event loop.

    event loop --records--> publisher --> kafka-python
        ^------acknowledged, in batches--------'

Trades and rejected records have a publisher each. If Kafka refuses a record, for example for its size,
kafka-python 3.0.12 fails all other records of the same KafkaProducer; so a rejected record can't affect
trades. Notes (gap events) are sent with the trades. They are few, and their writers wait for the
acknowledgement.

A record is in flight until Kafka has acknowledged it. kafka-python's buffer has no bound, so ``TradeLog``
counts the records in flight. When the in-flight limit is reached, publishers wait for room
(``wait_for_room``).

kafka-python retries for days. Records that it still gives up are logged, counted and sent again. So a record
may be written twice, and readers drop the second one by its trade id. No record is lost while this process
runs.
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
"""How much of a rejected record is kept. The header ``truncated_from`` has its full length."""
BYTES_PER_RECORD: Final = 512
"""The in-flight limit in bytes is the limit in records times this. A trade has about 150 bytes."""

ORIGIN_HEADER: Final = "origin"
"""The header with a record's source. Trades from the live stream don't have it."""

_STALLED_SECONDS: Final = 3.0
_CLOSE_SECONDS: Final = 2.0


class TradeLog:
    """Writes trades and rejected records to Kafka. All methods belong to one event loop.

    ``now_ms`` returns the records' timestamps, in milliseconds since the epoch; it may be called on another
    thread. ``max_in_flight`` limits the unacknowledged records, and through ``BYTES_PER_RECORD`` their bytes.
    Nothing is sent before ``start()``.
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
        self._rejected = Publisher(bootstrap, now_ms, self._on_settled)

    def start(self) -> None:
        """Start the publishers; call it on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._trades.start()
        self._rejected.start()

    def publish(
        self, symbol: str, payload: bytes, *, origin: str | None = None, receipt: Receipt | None = None
    ) -> None:
        """Queue one trade for sending: the exchange's unchanged payload, keyed by its symbol.

        ``origin``: the trade's source, if it is not the live stream.
        """
        headers = None if origin is None else [(ORIGIN_HEADER, origin.encode())]
        self._enqueue(Record(self._topic, symbol.encode(), payload, Kind.TRADE, headers, receipt))

    async def note(self, topic: str, key: str, value: bytes) -> None:
        """Write one record to another topic than the trades', and return once it is acknowledged."""
        receipt = Receipt()
        self._notes += 1
        self._enqueue(Record(topic, key.encode(), value, Kind.NOTE, receipt=receipt))
        await receipt.wait()

    def reject(
        self, record: bytes, reason: str, origin: str = "websocket", length: int | None = None
    ) -> None:
        """Queue one rejected record for sending, with the reason and the source in its headers.

        ``length``: the full length, if ``record`` is only a part of it.
        """
        length = len(record) if length is None else length
        headers = [("reason", reason.encode()), (ORIGIN_HEADER, origin.encode())]
        kept = record[:REJECTED_LIMIT_BYTES]
        if length > len(kept):
            headers.append(("truncated_from", str(length).encode()))
        self._enqueue(Record(self._rejected_topic, None, kept, Kind.REJECTED, headers))

    @property
    def is_full(self) -> bool:
        """Whether the in-flight limit is reached. If so, await ``wait_for_room`` before publishing more."""
        return self._records >= self._max_records or self._bytes >= self._max_bytes

    async def wait_for_room(self) -> None:
        """Return once there is room for a record; if that takes waiting, log one warning."""
        if not self.is_full:
            return
        if self._has_room.is_set():
            self._has_room.clear()
            _log.warning(
                "%d records (%d bytes) are unacknowledged by Kafka, which is the limit "
                "(CANDLEFLOW_MAX_IN_FLIGHT): reading from the exchange is paused",
                self._records,
                self._bytes,
            )
        while self.is_full:
            await self._has_room.wait()

    async def flush(self, seconds: float) -> int:
        """Wait up to ``seconds`` until all records are acknowledged; return how many are not."""
        try:
            async with asyncio.timeout(seconds):
                await self._is_empty.wait()
        except TimeoutError:
            pass
        return self._records

    async def close(self) -> None:
        """Stop at once; call ``flush`` first. Records still in flight may or may not reach Kafka."""
        self._loop = None
        await asyncio.gather(*(one.stop(_CLOSE_SECONDS) for one in (self._trades, self._rejected)))

    @property
    def in_flight(self) -> int:
        """The number of trades and rejected records that are not acknowledged yet."""
        return self._records - self._notes

    @property
    def published(self) -> int:
        """The number of acknowledged trades."""
        return self._acknowledged[Kind.TRADE]

    @property
    def rejected(self) -> int:
        """The number of acknowledged rejected records."""
        return self._acknowledged[Kind.REJECTED]

    @property
    def retried(self) -> int:
        """The number of records that kafka-python gave up and that were sent again."""
        return self._trades.retried + self._rejected.retried

    @property
    def has_back_pressure(self) -> bool:
        """Whether back-pressure is on: from reaching the in-flight limit until half of it is free."""
        return not self._has_room.is_set()

    @property
    def is_stalled(self) -> bool:
        """Whether records are in flight and none was acknowledged for 3 s: Kafka is down or stuck."""
        return self._records > 0 and time.monotonic() - self._acknowledged_at > _STALLED_SECONDS

    def _enqueue(self, record: Record) -> None:
        if not self._records:
            self._acknowledged_at = time.monotonic()  # nothing was in flight: a stall counts from here
            self._is_empty.clear()
        self._records += 1
        self._bytes += len(record.value)
        if record.receipt is not None:
            record.receipt.expect()
        (self._rejected if record.kind is Kind.REJECTED else self._trades).put(record)

    def _on_settled(self, records: Sequence[Record]) -> None:
        """Wake the event loop, once for any number of acknowledgements. Called on any thread."""
        self._settled.append(records)
        if not self._collecting and (loop := self._loop) is not None:
            self._collecting = True
            try:
                loop.call_soon_threadsafe(self._collect)
            except RuntimeError:  # the loop was closed at the same moment, so the counts no longer matter
                self._loop = None

    def _collect(self) -> None:
        # Cleared before the queue is emptied, so that a record that arrives later wakes the loop again.
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
        # Resume only when half is free: otherwise reader and publisher would take turns record by record.
        if (
            not self._has_room.is_set()
            and self._records * 2 <= self._max_records
            and self._bytes * 2 <= self._max_bytes
        ):
            self._has_room.set()
            _log.info("Kafka acknowledges records again: reading from the exchange resumes")
