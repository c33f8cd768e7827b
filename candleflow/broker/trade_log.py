"""The trade log's writer: what is published reaches Kafka once acknowledged, in order, without a wait here.

Three threads share the work, and nothing but simple queues lies between them:

    event loop --records--> publisher thread --KafkaProducer.send--> kafka-python's sender thread
        ^-----------------------acknowledged, in batches--------------------------'

and all that once for trades and once for refused records: a record that Kafka itself refuses, say for its
size, makes kafka-python 3.0.12 fail everything else in the same producer, so a refused record must not be
able to harm trades. Notes (events of gaps) go with the trades; they are few, and whoever writes one waits
for it.

``send`` can block for its topic's metadata, and on the event loop that would miss the exchange's ping: so it
has a thread of its own. kafka-python 3 puts no bound on its buffer: so ``TradeLog`` counts what is in flight,
and whoever publishes waits for room (``wait_for_room``) once the bound is reached.

A record is in flight until Kafka has acknowledged it. kafka-python retries by itself for DELIVERY_TIMEOUT_MS,
so that it hardly ever gives one up; what it gives up all the same is logged, counted and sent again by a new
KafkaProducer. A record can reach the log twice that way, but while this process lives it can't be lost;
readers drop the second by its trade id.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Any, Final

from kafka import KafkaProducer, errors

from candleflow.broker.topics import words

_log = logging.getLogger(__name__)

REJECTED_LIMIT_BYTES: Final = 65_536
"""Of a refused record so much is kept; the header ``truncated_from`` tells the length it had."""
BYTES_PER_RECORD: Final = 512
"""In flight are at most this many bytes for each record that may be: a trade has some 150."""

LINGER_MS: Final = 2
"""A record on its own was acknowledged after 4 ms with a linger of 1 ms, after 8 ms with 5 ms (p50)."""

BATCH_BYTES: Final = 131_072
DELIVERY_TIMEOUT_MS: Final = 7 * 24 * 3_600_000
REQUEST_TIMEOUT_MS: Final = 15_000
RECONNECT_MAX_MS: Final = 1_000
"""kafka-python's default, 30 s, would let the log stand still so long after Kafka is back."""

ORIGIN_HEADER: Final = "origin"
"""Whence a record came: of trades, only those that the stream did not bring have it."""

_BOOTSTRAP_MS: Final = 2_000
_METADATA_MS: Final = 2_000
_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 10.0
_SAY_EVERY_SECONDS: Final = 10.0
_STALLED_SECONDS: Final = 3.0
_CLOSE_SECONDS: Final = 2.0


class Receipt:
    """Tells when all that was published with it has been acknowledged."""

    def __init__(self) -> None:
        self._pending = 0
        self._is_settled = asyncio.Event()
        self._is_settled.set()

    async def wait(self) -> None:
        await self._is_settled.wait()

    def expect(self) -> None:
        self._pending += 1
        self._is_settled.clear()

    def settle(self) -> None:
        self._pending -= 1
        if not self._pending:
            self._is_settled.set()


class _Kind(Enum):
    TRADE = auto()
    REJECTED = auto()
    NOTE = auto()


@dataclass(slots=True, eq=False)
class _Record:
    """One record on its way."""

    topic: str
    key: bytes | None
    value: bytes
    kind: _Kind
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    receipt: Receipt | None = None


@dataclass(frozen=True, slots=True)
class _Again:
    """A record that a KafkaProducer (the ``generation``-th) gave up."""

    record: _Record
    error: BaseException
    generation: int


class _Stop:
    """The publisher thread's last order."""


class TradeLog:
    """Writes trades and refused records to Kafka. All methods belong to one event loop.

    ``now_ms`` gives the records' timestamps, in milliseconds since the epoch; it is called on the publisher's
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
        self._keys: dict[str, bytes] = {}
        self._records = 0
        self._bytes = 0
        self._acknowledged = dict.fromkeys(_Kind, 0)
        self._notes = 0
        self._acknowledged_at = time.monotonic()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._settled: deque[_Record] = deque()
        self._collecting = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._trades = _Publisher(bootstrap, now_ms, self._on_settled)
        self._refused = _Publisher(bootstrap, now_ms, self._on_settled)

    def start(self) -> None:
        """Start the publishers' threads; call it on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._trades.start()
        self._refused.start()

    def publish(
        self, symbol: str, payload: bytes, *, origin: str | None = None, receipt: Receipt | None = None
    ) -> None:
        """Hand one trade over: the exchange's payload as it is, keyed by its symbol.

        ``origin``: whence it came, if not from the stream.
        """
        key = self._keys.get(symbol)
        if key is None:
            key = self._keys[symbol] = symbol.encode()
        headers = [] if origin is None else [(ORIGIN_HEADER, origin.encode())]
        self._hand_over(_Record(self._topic, key, payload, _Kind.TRADE, headers, receipt))

    async def note(self, topic: str, key: str, value: bytes) -> None:
        """Write one record to a topic beside the trades', and return once it is acknowledged."""
        receipt = Receipt()
        self._notes += 1
        self._hand_over(_Record(topic, key.encode(), value, _Kind.NOTE, receipt=receipt))
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
        self._hand_over(_Record(self._rejected_topic, None, kept, _Kind.REJECTED, headers))

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
        stops = (asyncio.to_thread(one.stop, _CLOSE_SECONDS) for one in (self._trades, self._refused))
        await asyncio.gather(*stops)

    @property
    def in_flight(self) -> int:
        """Trades and refused records handed over and not yet acknowledged."""
        return self._records - self._notes

    @property
    def published(self) -> int:
        """Trades acknowledged."""
        return self._acknowledged[_Kind.TRADE]

    @property
    def rejected(self) -> int:
        """Refused records acknowledged."""
        return self._acknowledged[_Kind.REJECTED]

    @property
    def retried(self) -> int:
        """Records that kafka-python gave up and that were sent again."""
        return self._trades.retried + self._refused.retried

    @property
    def holds_back(self) -> bool:
        """Whether a reader waits for room; from the bound reached until half of it is free."""
        return not self._has_room.is_set()

    @property
    def is_stalled(self) -> bool:
        """Whether records wait and none has been acknowledged for some seconds: Kafka is away or stuck."""
        return self._records > 0 and time.monotonic() - self._acknowledged_at > _STALLED_SECONDS

    def _hand_over(self, record: _Record) -> None:
        if not self._records:
            self._acknowledged_at = time.monotonic()  # nothing was due before: a stall is counted from here
            self._is_empty.clear()
        self._records += 1
        self._bytes += len(record.value)
        if record.receipt is not None:
            record.receipt.expect()
        (self._refused if record.kind is _Kind.REJECTED else self._trades).put(record)

    def _on_settled(self, record: _Record) -> None:
        """On kafka-python's thread: wake the loop once for any number of acknowledgements."""
        self._settled.append(record)
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
            record = settled.popleft()
            self._records -= 1
            self._bytes -= len(record.value)
            self._acknowledged[record.kind] += 1
            if record.kind is _Kind.NOTE:
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


class _Publisher:
    """Sends what is put, on its own thread, until stopped. ``on_settled`` is called on kafka-python's."""

    def __init__(
        self, bootstrap: str, now_ms: Callable[[], int], on_settled: Callable[[_Record], None]
    ) -> None:
        # A daemon: a send that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self.retried = 0
        self._bootstrap = bootstrap
        self._now_ms = now_ms
        self._on_settled = on_settled
        self._queue: queue.SimpleQueue[_Record | _Again | _Stop] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._producer: Any = None
        self._generation = 0
        self._failures_in_a_row = 0
        self._said_at = float("-inf")

    def start(self) -> None:
        self._thread.start()

    def put(self, record: _Record) -> None:
        self._queue.put(record)

    def stop(self, seconds: float) -> None:
        """Stop, and wait for the thread so long at most; call it from a thread that may wait."""
        self._stopped.set()
        self._queue.put(_Stop())
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopped.is_set():
            order = self._queue.get()
            if isinstance(order, _Again):
                self._take_back(order)
                order = order.record
            if isinstance(order, _Record):
                self._send(order)
        self._drop_producer()

    def _send(self, record: _Record) -> None:
        """Hand ``record`` to kafka-python, however long its topic's metadata take."""
        while not self._stopped.is_set():
            try:
                if self._producer is None:
                    self._producer = _connect(self._bootstrap)
                future = self._producer.send(
                    record.topic, record.value, record.key, record.headers, timestamp_ms=self._now_ms()
                )
            except (errors.KafkaError, OSError, ValueError) as error:
                # ValueError: kafka-python's partitioner found no partition, as metadata changed meanwhile.
                self._say("Kafka at %s can't take records: %s", self._bootstrap, words(error))
                if isinstance(error, errors.IllegalStateError):
                    self._drop_producer()
                self._stopped.wait(_PAUSE_SECONDS)
            else:
                future.add_callback(partial(self._on_acknowledged, record))
                future.add_errback(partial(self._on_failed, record, self._generation))
                return

    def _on_acknowledged(self, record: _Record, _metadata: object) -> None:
        """On kafka-python's thread."""
        self._failures_in_a_row = 0
        self._on_settled(record)

    def _on_failed(self, record: _Record, generation: int, error: BaseException) -> None:
        """On kafka-python's thread: the publisher shall send it again."""
        self._queue.put(_Again(record, error, generation))

    def _take_back(self, again: _Again) -> None:
        self.retried += 1
        self._say("Kafka did not take %d record(s), sent again: %s", self.retried, words(again.error))
        if again.generation == self._generation:  # else that producer has been replaced already
            self._drop_producer()
            self._stopped.wait(min(_PAUSE_SECONDS * 2.0**self._failures_in_a_row, _LONGEST_PAUSE_SECONDS))
            self._failures_in_a_row = min(self._failures_in_a_row + 1, 16)

    def _drop_producer(self) -> None:
        """Close the producer without waiting: each record in it fails, and comes back to be sent again."""
        if self._producer is not None:
            self._generation += 1
            _close_at_once(self._producer)
            self._producer = None

    def _say(self, line: str, *arguments: object) -> None:
        now = time.monotonic()
        if now - self._said_at >= _SAY_EVERY_SECONDS:
            self._said_at = now
            _log.warning(line, *arguments)


def _close_at_once(producer: Any) -> None:
    try:
        producer.close(timeout=0)
    except errors.KafkaTimeoutError:
        # kafka-python 3.0.12: close() flushes first, and if that times out it raises before its thread is
        # stopped, which then goes on for ever, and at exit raises once more.
        producer._sender.force_close()  # noqa: SLF001


def _connect(bootstrap: str) -> KafkaProducer:
    """A producer that keeps the order of each partition and never gives up a record while it is sound."""
    return KafkaProducer(
        bootstrap_servers=bootstrap.split(","),
        client_id="candleflow-producer",
        enable_idempotence=True,
        acks="all",
        linger_ms=LINGER_MS,
        batch_size=BATCH_BYTES,
        delivery_timeout_ms=DELIVERY_TIMEOUT_MS,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        max_block_ms=_METADATA_MS,
        bootstrap_timeout_ms=_BOOTSTRAP_MS,
        reconnect_backoff_max_ms=RECONNECT_MAX_MS,
        allow_auto_create_topics=False,
        metrics_enabled=False,
    )
