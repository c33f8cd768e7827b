"""Sends records to Kafka with kafka-python, for the trade log.

Three threads share the work, joined only by simple queues:

    event loop --records--> publisher thread --KafkaProducer.send--> kafka-python's sender thread
        ^-----------------------acknowledged, in batches--------------------------'

``send`` can block while it waits for the topic's metadata. On the event loop that would delay the answer to
the exchange's ping, so ``send`` runs on its own thread. Records from one turn of the event loop go to that
thread together, as waking it for each record took longer than sending the record. Of such a batch, only the
last record has a success callback.

kafka-python retries for DELIVERY_TIMEOUT_MS. Records that it gives up are sent again by a new KafkaProducer.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any, Final, TypeAlias

from kafka import KafkaProducer, errors
from kafka.partitioner import DefaultPartitioner, murmur2

from candleflow.backoff import Backoff
from candleflow.broker.security import python_options
from candleflow.broker.topics import words

_log = logging.getLogger(__name__)

CLIENT_ID: Final = "candleflow-producer"
BATCH_BYTES: Final = 131_072
REQUEST_TIMEOUT_MS: Final = 15_000
RECONNECT_MAX_MS: Final = 1_000
"""With kafka-python's defaults (30 s and 10 s), nothing would be sent for that long after Kafka is back."""
PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 10.0
LOG_EVERY_SECONDS: Final = 10.0
LINGER_MS: Final = 2
"""Kept low for latency: a single record was acknowledged after 4 ms with a linger of 1 ms, and after 8 ms
with 5 ms (p50)."""
DELIVERY_TIMEOUT_MS: Final = 7 * 24 * 3_600_000

_BOOTSTRAP_MS: Final = 2_000
_METADATA_MS: Final = 2_000


class Receipt:
    """Lets a caller wait until all records that were published with it are acknowledged."""

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


class Kind(Enum):
    TRADE = auto()
    REJECTED = auto()
    NOTE = auto()


@dataclass(slots=True, eq=False)
class Record:
    """One record to send."""

    topic: str
    key: bytes | None
    value: bytes
    kind: Kind
    headers: list[tuple[str, bytes]] | None = None
    receipt: Receipt | None = None


OnSettled: TypeAlias = Callable[[Sequence[Record]], None]
"""Called with records that Kafka has acknowledged, on any thread."""

_Sent: TypeAlias = list[tuple[Record, Any]]
"""Records, each with its future."""


class _RateLimitedWarning:
    """Logs the first of many similar warnings, then at most one per LOG_EVERY_SECONDS."""

    def __init__(self) -> None:
        self._logged_at = float("-inf")

    def say(self, line: str, *arguments: object) -> None:
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_SECONDS:
            self._logged_at = now
            _log.warning(line, *arguments)


@dataclass(frozen=True, slots=True)
class _FailedRecord:
    """A record that a KafkaProducer (the ``generation``-th) gave up."""

    record: Record
    error: BaseException
    generation: int


class Publisher:
    """Sends records until stopped, in order within each partition, and retries each one until it succeeds.

    All methods belong to the event loop, and none blocks it. ``on_settled`` is called on kafka-python's
    thread or the publisher's.
    """

    def __init__(self, bootstrap: str, now_ms: Callable[[], int], on_settled: OnSettled) -> None:
        # A daemon thread: a send that hangs must not keep the process from exiting.
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._bootstrap = bootstrap
        self._now_ms = now_ms
        self._on_settled = on_settled
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[Record] = []
        self._queue: queue.SimpleQueue[list[Record] | _FailedRecord | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._producer: Any = None
        self._generation = 0
        self.retried = 0
        """The number of records that kafka-python gave up and that were sent again."""
        self._backoff = Backoff(PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        self._warning = _RateLimitedWarning()
        self._retry_warning = _RateLimitedWarning()

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        if self._waiting:
            self._loop.call_soon(self._pass_to_thread)

    def put(self, record: Record) -> None:
        self._waiting.append(record)
        if len(self._waiting) == 1 and self._loop is not None:
            self._loop.call_soon(self._pass_to_thread)

    async def stop(self, seconds: float) -> None:
        self._stopped.set()
        self._queue.put(None)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, seconds)

    def _pass_to_thread(self) -> None:
        """Pass the records of one turn of the event loop to the thread, in one batch."""
        self._queue.put(self._waiting)
        self._waiting = []

    def _run(self) -> None:
        while not self._stopped.is_set():
            item = self._queue.get()
            if isinstance(item, _FailedRecord):
                self._prepare_retry(item)
                self._send([item.record])
            elif item is not None:
                self._send(item)
        self._drop_producer()

    def _send(self, records: Sequence[Record]) -> None:
        sent: _Sent = []
        now_ms = self._now_ms()
        for record in records:
            while (future := self._future_of(record, now_ms)) is None:
                # The acknowledgements of the records sent before must not wait for this one.
                self._watch(sent)
                sent = []
                if self._stopped.wait(PAUSE_SECONDS):
                    return
                now_ms = self._now_ms()
            future.add_errback(partial(self._on_failed, record, self._generation))
            sent.append((record, future))
        self._watch(sent)

    def _future_of(self, record: Record, now_ms: int) -> Any:
        """Pass ``record`` to kafka-python and return its future.

        Returns None if kafka-python can't accept it, for example without the topic's metadata.
        """
        try:
            if self._producer is None:
                self._producer = _connect(self._bootstrap)
            return self._producer.send(
                record.topic, record.value, record.key, record.headers, timestamp_ms=now_ms
            )
        except (errors.KafkaError, OSError, ValueError) as error:
            # ValueError: kafka-python's partitioner found no partition, as the metadata changed meanwhile.
            self._warning.say("Kafka at %s accepts no records, retrying: %s", self._bootstrap, words(error))
            if isinstance(error, errors.IllegalStateError):
                self._drop_producer()
            return None

    def _watch(self, sent: _Sent) -> None:
        """Settle records once the last one is done. Others in the same partition are done by then."""
        if sent:
            sent[-1][1].add_both(partial(self._settle, sent))

    def _settle(self, sent: _Sent, _: object) -> None:
        """Report the acknowledged records; ``_on_failed`` handles failed ones.

        Called on kafka-python's thread or the publisher's.
        """
        settled = []
        for record, future in sent:
            if not future.is_done:
                future.add_callback(partial(self._settle, [(record, future)]))
            elif future.exception is None:
                settled.append(record)
        if settled:
            self._backoff.reset()
            self._on_settled(settled)

    def _on_failed(self, record: Record, generation: int, error: BaseException) -> None:
        """Have the publisher's thread send the record again. Called on kafka-python's thread."""
        self._queue.put(_FailedRecord(record, error, generation))

    def _prepare_retry(self, failed: _FailedRecord) -> None:
        self.retried += 1
        self._retry_warning.say(
            "Kafka did not accept records (%d so far), sending them again: %s",
            self.retried,
            words(failed.error),
        )
        if failed.generation == self._generation:  # otherwise that KafkaProducer was replaced already
            self._drop_producer()
            self._stopped.wait(self._backoff.next_delay())

    def _drop_producer(self) -> None:
        """Close the KafkaProducer without waiting. Its unsent records fail, and are sent again."""
        if self._producer is not None:
            self._generation += 1
            _close_at_once(self._producer)
            self._producer = None


class _Partitioner(DefaultPartitioner):  # type: ignore[misc]  # kafka-python has no types
    """kafka-python's partitioner with a cache of the keys' hashes, which it computes in pure Python."""

    def __init__(self) -> None:
        self._hashes: dict[bytes, int] = {}

    def partition(
        self,
        topic: str,
        key: Any,
        serialized_key: bytes | None,
        value: Any,
        serialized_value: Any,
        cluster: Any,
    ) -> int | None:
        if serialized_key is None:
            chosen: int | None = super().partition(topic, key, None, value, serialized_value, cluster)
            return chosen
        hashed = self._hashes.get(serialized_key)
        if hashed is None:
            hashed = self._hashes[serialized_key] = murmur2(serialized_key) & 0x7FFFFFFF
        partitions: set[int] | None = cluster.partitions_for_topic(topic)
        if not partitions:
            raise ValueError(f"topic {topic} has no partitions")
        return sorted(partitions)[hashed % len(partitions)]


def _close_at_once(producer: Any) -> None:
    try:
        producer.close(timeout=0)
    except errors.KafkaTimeoutError:
        # kafka-python 3.0.12: close() flushes first. If the flush times out, it raises before it stops its
        # thread. The thread would then run for ever, and raise again at exit.
        producer._sender.force_close()  # noqa: SLF001


def _connect(bootstrap: str) -> KafkaProducer:
    """Return a KafkaProducer that keeps each partition's order and retries a record for days."""
    return KafkaProducer(
        **python_options(bootstrap),
        client_id=CLIENT_ID,
        enable_idempotence=True,
        acks="all",
        linger_ms=LINGER_MS,
        batch_size=BATCH_BYTES,
        delivery_timeout_ms=DELIVERY_TIMEOUT_MS,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        max_block_ms=_METADATA_MS,
        bootstrap_timeout_ms=_BOOTSTRAP_MS,
        reconnect_backoff_max_ms=RECONNECT_MAX_MS,
        partitioner=_Partitioner(),
        allow_auto_create_topics=False,
        metrics_enabled=False,
    )
