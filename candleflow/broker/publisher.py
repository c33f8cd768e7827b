"""What the trade log asks of a Kafka client: the seam behind which there are two.

A publisher keeps the order of each partition, never gives up a record while it is sound, and puts a symbol
into the same partition whichever client writes it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol, TypeAlias

CLIENT_ID: Final = "candleflow-producer"
BATCH_BYTES: Final = 131_072
REQUEST_TIMEOUT_MS: Final = 15_000
RECONNECT_MAX_MS: Final = 1_000
"""The clients' defaults, 30 s and 10 s, would let the log stand still so long after Kafka is back."""
PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 10.0
SAY_EVERY_SECONDS: Final = 10.0


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


class Kind(Enum):
    TRADE = auto()
    REJECTED = auto()
    NOTE = auto()


@dataclass(slots=True, eq=False)
class Record:
    """One record on its way."""

    topic: str
    key: bytes | None
    value: bytes
    kind: Kind
    headers: list[tuple[str, bytes]] | None = None
    receipt: Receipt | None = None


OnSettled: TypeAlias = Callable[[Sequence[Record]], None]
"""Told of records that Kafka has acknowledged, on whatever thread."""


class Publisher(Protocol):
    """Sends what is put until stopped. All methods belong to the event loop, and none of them blocks it."""

    @property
    def retried(self) -> int:
        """Records that the client gave up and that were sent again."""

    def start(self) -> None:
        """Begin to send; nothing is sent before."""

    def put(self, record: Record) -> None:
        """Hand one record over. There is no bound here: the trade log has one."""

    async def stop(self, seconds: float) -> None:
        """Stop at once, within so many seconds: what is in flight may or may not reach Kafka."""


class RareWarning:
    """Says the first of many like lines, and then one each SAY_EVERY_SECONDS."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said_at = float("-inf")

    def say(self, line: str, *arguments: object) -> None:
        now = time.monotonic()
        if now - self._said_at >= SAY_EVERY_SECONDS:
            self._said_at = now
            self._log.warning(line, *arguments)


def pause_after(failures_in_a_row: int) -> float:
    """Seconds to wait before what a client gave up is sent again."""
    return min(PAUSE_SECONDS * 2.0 ** min(failures_in_a_row, 16), LONGEST_PAUSE_SECONDS)
