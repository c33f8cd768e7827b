"""Records put into Kafka past the producer: a backlog that one symbol fills, poison among sound trades."""

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
    """One record, and what must become of it."""

    value: bytes | None
    partition: int
    key: bytes | None = None
    """kafka-python can't send a record with neither key nor value: a tombstone's is empty."""
    refusal: str | None = None
    """The reason for which it must be refused; None for a sound trade."""

    def refused_as(self, origin: str) -> Refused:
        value = self.value or b""
        length = str(len(value)) if len(value) > RECORD_KEPT_BYTES else None
        kept = value[:RECORD_KEPT_BYTES] if self.value is not None else None
        return Refused(origin, self.refusal or "", length, kept)


@dataclass(frozen=True, slots=True)
class Refused:
    """A record of the topic of refused ones."""

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
    """Write them in their order; where each came to lie: partition and offset."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=5, batch_size=262_144)
    try:
        sent = [producer.send(topic, one.value, one.key, partition=one.partition) for one in records]
        found = [one.get(ACKNOWLEDGED_SECONDS) for one in sent]
    finally:
        producer.close()
    return [(one.partition, one.offset) for one in found]


def end_in_log(log: bytes, offset: int) -> int:
    """Where in a segment's file the first batch of records begins that has this offset or a later one.

    The layout: kafka.apache.org/documentation/#recordbatch.
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
    """A trade as Binance sends it; price and quantity come of its id, so that no two are alike."""
    return {
        "e": "trade", "E": time_ms + 1, "s": symbol, "t": trade_id,
        "p": f"{60_000 + trade_id * 7_919 % 1_000}.{trade_id % 100:02d}", "q": f"0.{trade_id % 997 + 1:05d}",
        "T": time_ms, "m": trade_id % 3 == 0, "M": True, **more,
    }  # fmt: skip


def text(payload: Mapping[str, Any]) -> bytes:
    """As Binance writes it."""
    return json.dumps(payload, separators=(",", ":")).encode()


def quiet_backlog(symbols: int, windows: int, begin_ms: int, window_ms: int) -> Iterator[Record]:
    """One trade of each symbol in each of the windows, in the order of their time."""
    for window in range(windows):
        for number in range(symbols):
            name, time_ms = f"Q{number:04d}USDT", begin_ms + window * window_ms + number % window_ms
            yield Record(text(trade(name, window + 1, time_ms)), 0, name.encode())


def skewed_backlog(
    busy: str, calm: Sequence[str], *, times: int, count: int, span_ms: tuple[int, int], partitions: int
) -> Iterator[Record]:
    """``count`` trades of the busy symbol and, of each calm one, ``times`` fewer, in the order
    of their time, which goes through ``span_ms``. The first of the calm ones is in the busy one's partition.
    """
    ids = dict.fromkeys([busy, *calm], 0)
    homes = {busy: 0} | {symbol: at % partitions for at, symbol in enumerate(calm)}
    begin_ms, end_ms = span_ms
    for at in range(count):
        time_ms = begin_ms + (end_ms - begin_ms) * at // count
        for symbol in [busy] if at % times else [busy, *calm]:
            ids[symbol] += 1
            yield Record(text(trade(symbol, ids[symbol], time_ms)), homes[symbol], symbol.encode())
