"""Write records to Kafka without the producer: uneven backlogs, and invalid records among valid trades."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kafka import KafkaProducer

from candleflow.engine.rejected import RECORD_KEPT_BYTES

ACKNOWLEDGED_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Record:
    """One record, and the expected result."""

    value: bytes | None
    partition: int
    key: bytes | None = None
    """Empty, not None, for a tombstone: kafka-python can't send a record with neither key nor value."""
    refusal: str | None = None
    """The expected reason of its rejection; None for a valid trade."""

    def refused_as(self, origin: str) -> Refused:
        value = self.value or b""
        length = str(len(value)) if len(value) > RECORD_KEPT_BYTES else None
        kept = value[:RECORD_KEPT_BYTES] if self.value is not None else None
        return Refused(origin, self.refusal or "", length, kept)


@dataclass(frozen=True, slots=True)
class Refused:
    """A record in the topic of rejected records."""

    origin: str
    reason: str
    truncated_from: str | None
    value: bytes | None

    @classmethod
    def of(cls, record: Any) -> Refused:
        """``record`` is kafka-python's."""
        headers: Mapping[str, str] = {name: value.decode() for name, value in record.headers}
        return cls(
            headers.get("origin", ""), headers.get("reason", ""), headers.get("truncated_from"), record.value
        )

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}: {(self.value or b'')[:60]!r}"


def put(bootstrap: str, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
    """Write the records in order; return the partition and offset of each."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=5, batch_size=262_144)
    try:
        sent = [producer.send(topic, one.value, one.key, partition=one.partition) for one in records]
        found = [one.get(ACKNOWLEDGED_SECONDS) for one in sent]
    finally:
        producer.close()
    return [(one.partition, one.offset) for one in found]


def end_in_log(log: bytes, offset: int) -> int:
    """Return the position in a segment file of the first record batch that contains ``offset`` or later ones.

    The format: kafka.apache.org/documentation/#recordbatch.
    """
    at = 0
    while at < len(log):
        base, length = struct.unpack_from(">qi", log, at)
        (last_delta,) = struct.unpack_from(">i", log, at + 23)
        if base + last_delta >= offset:
            return at
        at += 12 + length
    return at


def trade(symbol: str, trade_id: int, time_ms: int, **more: Any) -> dict[str, Any]:
    """Return a trade in Binance's format; price and quantity depend on the id, so that trades differ."""
    return {
        "e": "trade", "E": time_ms + 1, "s": symbol, "t": trade_id,
        "p": f"{60_000 + trade_id * 7_919 % 1_000}.{trade_id % 100:02d}", "q": f"0.{trade_id % 997 + 1:05d}",
        "T": time_ms, "m": trade_id % 3 == 0, "M": True, **more,
    }  # fmt: skip


def text(payload: Mapping[str, Any]) -> bytes:
    """Serialize a payload as compact JSON, like Binance."""
    return json.dumps(payload, separators=(",", ":")).encode()


def quiet_backlog(symbols: int, windows: int, begin_ms: int, window_ms: int) -> Iterator[Record]:
    """Yield one trade of each symbol in each window, in order of time."""
    for window in range(windows):
        for number in range(symbols):
            name, time_ms = f"Q{number:04d}USDT", begin_ms + window * window_ms + number % window_ms
            yield Record(text(trade(name, window + 1, time_ms)), 0, name.encode())


def skewed_backlog(
    busy: str, calm: Sequence[str], *, times: int, count: int, span_ms: tuple[int, int], partitions: int
) -> Iterator[Record]:
    """Yield ``count`` trades of the busy symbol and ``count / times`` of each calm one, in order of time.

    The times cover ``span_ms``. The first calm symbol shares the busy symbol's partition.
    """
    ids = dict.fromkeys([busy, *calm], 0)
    homes = {busy: 0} | {symbol: at % partitions for at, symbol in enumerate(calm)}
    begin_ms, end_ms = span_ms
    for at in range(count):
        time_ms = begin_ms + (end_ms - begin_ms) * at // count
        for symbol in [busy] if at % times else [busy, *calm]:
            ids[symbol] += 1
            yield Record(text(trade(symbol, ids[symbol], time_ms)), homes[symbol], symbol.encode())
