"""confluent-kafka (librdkafka) as the trade log's client: the quick one, where it is installed.

librdkafka has threads of its own, none of which runs Python, and ``produce`` only puts a record into its
queue: so all of this is on the event loop. Acknowledgements are told within ``poll``, which the loop calls
while anything is in flight. A thread of ours that waits in ``poll`` would share Python's lock with the loop.

librdkafka retries for ever (``message.timeout.ms`` 0). What it gives up all the same, such as records of a
topic that has gone, is sent again by itself; after a fatal error, which its idempotence has, by a new
producer, once the old one has given everything back.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from candleflow.broker.publisher import (
    BATCH_BYTES,
    CLIENT_ID,
    PAUSE_SECONDS,
    RECONNECT_MAX_MS,
    REQUEST_TIMEOUT_MS,
    OnSettled,
    RareWarning,
    Record,
    pause_after,
)
from candleflow.broker.security import confluent_advice, confluent_options

_log = logging.getLogger(__name__)

LINGER_MS: Final = 1
MESSAGE_TIMEOUT_MS: Final = 0
"""For ever."""
POLL_SECONDS: Final = 0.001
"""So soon acknowledgements are asked for after the last ones; then by a quarter later each time."""
LONGEST_POLL_SECONDS: Final = 0.05

_POLL_GROWTH: Final = 1.25
_QUEUE_RECORDS: Final = 10_000_000
_QUEUE_KILOBYTES: Final = 2_147_483_647


class ConfluentPublisher:
    """See ``publisher.Publisher``. ``on_settled`` is called on the event loop."""

    def __init__(self, bootstrap: str, now_ms: Callable[[], int], on_settled: OnSettled) -> None:
        self._bootstrap = bootstrap
        self._now_ms = now_ms
        self._on_settled = on_settled
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[Record] = deque()
        self._in_flight = 0
        self._settled: list[Record] = []
        self._given_up: list[Record] = []
        self._producer: Any = None
        self._has_failed = False
        self._paused = False
        self._sending: asyncio.Handle | None = None
        self._polling: asyncio.TimerHandle | None = None
        self._poll_seconds = POLL_SECONDS
        self._retried = 0
        self._failures_in_a_row = 0
        self._warning = RareWarning(_log)
        self._loss_warning = RareWarning(_log)

    @property
    def retried(self) -> int:
        return self._retried

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._send_soon()

    def put(self, record: Record) -> None:
        self._waiting.append(record)
        if self._sending is None:
            self._send_soon()

    async def stop(self, seconds: float) -> None:
        for handle in (self._sending, self._polling):
            if handle is not None:
                handle.cancel()
        self._loop = None
        producer, self._producer = self._producer, None
        if producer is not None:
            # A thread, as taking librdkafka down waits for its threads; a daemon, should they hang.
            ending = threading.Thread(target=_end, args=[[producer]], name="publisher-end", daemon=True)
            del producer
            ending.start()
            await asyncio.to_thread(ending.join, seconds)

    def _send_soon(self, seconds: float = 0.0) -> None:
        if self._loop is not None:
            self._sending = self._loop.call_later(seconds, self._send)

    def _send(self) -> None:
        """Hand over what waits, as far as librdkafka takes it: what was put in one turn of the loop."""
        self._sending = None
        if self._paused or self._has_failed:
            return
        now_ms = self._now_ms()
        while self._waiting:
            if not self._produce(self._waiting[0], now_ms):
                self._send_soon(PAUSE_SECONDS)
                break
            self._waiting.popleft()
            self._in_flight += 1
        self._poll_soon()

    def _produce(self, record: Record, now_ms: int) -> bool:
        """Whether librdkafka took the record: not while its queue is full, or a topic is known to be away."""
        try:
            if self._producer is None:
                self._producer = _connect(self._bootstrap, self._on_error)
            self._producer.produce(
                record.topic,
                record.value,
                record.key,
                timestamp=now_ms,
                headers=record.headers,
                on_delivery=partial(self._on_outcome, record),
            )
        except (BufferError, KafkaException) as error:
            self._warning.say("Kafka at %s can't take records: %s", self._bootstrap, _words(error))
            return False
        return True

    def _poll_soon(self) -> None:
        has_news = self._producer is not None and (self._in_flight or self._waiting or self._has_failed)
        if has_news and self._polling is None and self._loop is not None:
            self._polling = self._loop.call_later(self._poll_seconds, self._poll)

    def _poll(self) -> None:
        """Hear what became of records; both callbacks below are called in here."""
        self._polling = None
        self._producer.poll(0)
        heard = bool(self._settled or self._given_up)
        self._poll_seconds = (
            POLL_SECONDS if heard else min(self._poll_seconds * _POLL_GROWTH, LONGEST_POLL_SECONDS)
        )
        if self._settled:
            self._failures_in_a_row = 0
            settled, self._settled = self._settled, []
            self._on_settled(settled)
        if self._given_up:
            self._take_back()
        if self._has_failed and not self._in_flight:
            self._replace_producer()
        self._poll_soon()

    def _on_outcome(self, record: Record, error: KafkaError | None, _: object) -> None:
        self._in_flight -= 1
        if error is None:
            self._settled.append(record)
            return
        self._retried += 1
        self._given_up.append(record)
        self._loss_warning.say(
            "Kafka did not take %d record(s), sent again: %s", self._retried, _words(error)
        )

    def _on_error(self, error: KafkaError) -> None:
        """librdkafka's own troubles; it goes on trying, but for fatal ones."""
        self._warning.say("Kafka at %s can't take records: %s", self._bootstrap, _words(error))
        if error.fatal() and not self._has_failed:
            self._has_failed = True
            self._producer.purge(in_queue=True, in_flight=True, blocking=False)

    def _take_back(self) -> None:
        """What was given up goes before what waits, after a pause."""
        self._waiting.extendleft(reversed(self._given_up))
        self._given_up = []
        if not self._paused and self._loop is not None:
            self._paused = True
            self._loop.call_later(pause_after(self._failures_in_a_row), self._go_on)
            self._failures_in_a_row += 1

    def _go_on(self) -> None:
        self._paused = False
        if self._sending is None:
            self._send_soon()

    def _replace_producer(self) -> None:
        """Its last record has come back: what waits goes to a new one."""
        self._has_failed = False
        producer, self._producer = self._producer, None
        threading.Thread(target=_end, args=[[producer]], name="publisher-end", daemon=True).start()
        self._go_on()


def _end(last_reference: list[Any]) -> None:
    """Let go of what is in flight, and of the producer: librdkafka goes down with the last reference."""
    producer = last_reference.pop()
    producer.purge(in_queue=True, in_flight=True, blocking=False)


def _words(error: Exception | KafkaError) -> str:
    """An error of confluent-kafka's in a few words on one line: librdkafka's name for it, what to look at."""
    if isinstance(error, KafkaException):
        error = error.args[0]
    if isinstance(error, KafkaError):
        said = f"{error.name()}: {' '.join(error.str().split())}"
        advice = confluent_advice(error.name(), said)
        return f"{said}: {advice}" if advice else said
    return " ".join(str(error).split())


def _connect(bootstrap: str, on_error: Callable[[KafkaError], None]) -> Producer:
    """A producer that keeps the order of each partition and never gives up a record while it is sound."""
    return Producer(
        {
            **confluent_options(bootstrap),
            "client.id": CLIENT_ID,
            "enable.idempotence": True,
            "acks": "all",
            # kafka-python's and Java's; librdkafka's own would put a symbol into another partition.
            "partitioner": "murmur2_random",
            "linger.ms": LINGER_MS,
            "batch.size": BATCH_BYTES,
            "message.timeout.ms": MESSAGE_TIMEOUT_MS,
            "request.timeout.ms": REQUEST_TIMEOUT_MS,
            "socket.timeout.ms": REQUEST_TIMEOUT_MS,
            "reconnect.backoff.max.ms": RECONNECT_MAX_MS,
            "queue.buffering.max.messages": _QUEUE_RECORDS,  # the trade log's own bound is below
            "queue.buffering.max.kbytes": _QUEUE_KILOBYTES,
            "allow.auto.create.topics": False,
            "error_cb": on_error,
            "log_level": 0,  # told of by the error callback; librdkafka would write to stderr
        }
    )
