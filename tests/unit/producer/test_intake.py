"""What the intake does with trades while Kafka accepts nothing, and with ids that arrive out of order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from decimal import Decimal

import pytest

from candleflow.broker.publisher import Receipt
from candleflow.exchange.messages import TradeMessage
from candleflow.market.trade import Trade
from candleflow.producer import intake as intake_module
from candleflow.producer.intake import FAR_US, Intake

A, B = "BTCUSDT", "ETHUSDT"


class Log:
    """A trade log that accepts everything and records the published trades in order."""

    def __init__(self) -> None:
        self.trades: list[tuple[str, int]] = []
        self.is_full = self.has_back_pressure = False

    async def wait_for_room(self) -> None:
        return

    def publish(
        self, symbol: str, payload: bytes, *, origin: str | None = None, receipt: Receipt | None = None
    ) -> None:
        self.trades.append((symbol, json.loads(payload)["t"] if origin else int(payload)))


class Gaps:
    """A topic of gaps that acknowledges nothing while it is unavailable."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.is_there = asyncio.Event()
        self.begun: list[tuple[str, int, int]] = []
        self.noted: list[tuple[str, int, int, str]] = []
        self.published_before: list[int] = []

    async def come_back(self) -> None:
        """Acknowledge the events in flight."""
        self.is_there.set()
        while len(self.noted) < len(self.begun):
            await asyncio.sleep(0)

    async def note(self, symbol: str, first: int, last: int, why: str) -> None:
        self.begun.append((symbol, first, last))
        await self.is_there.wait()
        self.noted.append((symbol, first, last, why))
        self.published_before.append(max(one for of, one in self._log.trades if of == symbol))


def trades(symbol: str, ids: Sequence[int], time_us: int = 1) -> list[TradeMessage]:
    return [TradeMessage(symbol, one, time_us, str(one).encode()) for one in ids]


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "PATIENCE_SECONDS", 0.05)


async def take(intake: Intake, messages: Sequence[TradeMessage]) -> None:
    for message in messages:
        await intake.take(message)


def intake_of(log: Log, gaps: Gaps, *, can_refill: bool = True) -> Intake:
    return Intake(log, gaps.note, can_refill=can_refill)  # type: ignore[arg-type]


async def test_a_gap_that_cannot_be_recorded_delays_only_its_own_symbol() -> None:
    log = Log()
    gaps = Gaps(log)
    intake = intake_of(log, gaps)
    async with asyncio.timeout(5):
        await take(intake, [*trades(A, [1, 2, 5, 6]), *trades(B, [1, 2]), *trades(A, [8]), *trades(B, [3])])
    assert log.trades == [(A, 1), (A, 2), (B, 1), (B, 2), (B, 3)]
    assert intake.dropped == 3
    assert gaps.begun == [(A, 3, 4)], "one event at a time is on its way"
    await gaps.come_back()
    await take(intake, [*trades(A, [10, 11]), *trades(B, [4])])
    assert gaps.noted == [(A, 3, 4, "jump"), (A, 5, 9, "overload")]
    assert max(gaps.published_before) == 2, "on record before any later trade is published"
    assert log.trades[5:] == [(A, 10), (A, 11), (B, 4)]
    assert intake.received == 8


async def test_patience_runs_out_once_for_all_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "PATIENCE_SECONDS", 1.0)
    log = Log()
    gaps = Gaps(log)
    intake = intake_of(log, gaps)
    symbols = [f"SYMBOL{number}" for number in range(50)]
    await take(intake, [one for symbol in symbols for one in trades(symbol, [1])])
    async with asyncio.timeout(10):  # not 50 s
        await take(intake, [one for symbol in symbols for one in trades(symbol, [3])])
    assert intake.dropped == 50
    assert gaps.begun == [(symbol, 2, 2) for symbol in symbols]


async def test_without_history_reading_waits_for_the_gap_to_be_on_record() -> None:
    log = Log()
    gaps = Gaps(log)
    intake = intake_of(log, gaps, can_refill=False)
    taking = asyncio.create_task(take(intake, trades(A, [1, 3])))
    await asyncio.wait({taking}, timeout=0.3)
    assert not taking.done()
    gaps.is_there.set()
    await taking
    assert log.trades == [(A, 1), (A, 3)]
    assert intake.dropped == 0


async def test_a_late_trade_that_comes_while_its_gap_is_recorded_is_published_once() -> None:
    log = Log()
    gaps = Gaps(log)
    intake = intake_of(log, gaps)
    await take(intake, trades(A, [1, 4]))
    await take(intake, trades(A, [2]))  # from another connection
    await gaps.come_back()
    await take(intake, trades(A, [5, 3, 2]))
    assert [one[:3] for one in gaps.noted] == [(A, 2, 3), (A, 4, 4)]
    assert log.trades == [(A, 1), (A, 2), (A, 5), (A, 3)]
    assert intake.duplicates == 1


@pytest.mark.parametrize(
    ("ids", "trade_id", "later_us", "is_new"),
    [
        ([1_000_000], 1, 1, True),  # the symbol was listed again
        ([1_000_000], 1, 0, False),
        ([1_000_000], 1, -5, False),
        ([100, 101], 100, 1, True),  # no duplicate is newer
        ([100, 101], 100, 0, False),
        ([100, 101], 100, -1, False),
        ([100, 102], 101, -1, False),  # late
        ([100, 102], 101, 1, False),
        ([100, 102], 101, FAR_US + 1, True),
        ([100], 1, FAR_US + 1, True),
        ([100], 1, -FAR_US - 1, False),
    ],
)
async def test_a_lower_id_starts_a_new_sequence_only_if_it_cannot_be_late_or_repeated(
    ids: list[int], trade_id: int, later_us: int, is_new: bool
) -> None:
    log = Log()
    gaps = Gaps(log)
    gaps.is_there.set()
    intake = intake_of(log, gaps)
    now = 10 * FAR_US
    await take(intake, trades(A, ids, now))
    await take(intake, trades(A, [trade_id], now + later_us))
    assert intake.next_ids[A] == (trade_id + 1 if is_new else ids[-1] + 1)
    assert intake.duplicates == (not is_new and trade_id in ids)


async def test_a_late_trade_of_a_gap_begins_no_new_sequence_filled_or_not() -> None:
    log = Log()
    gaps = Gaps(log)
    gaps.is_there.set()
    intake = intake_of(log, gaps)
    await take(intake, trades(A, [1]))
    await intake.note_missing(A, 20_000)
    await take(intake, trades(A, [2, 3], 2 * FAR_US))  # newer than all, and far below the recorded ids
    for trade_id in (4, 5):
        trade = Trade(A, trade_id, Decimal(1), Decimal(1), 3 * FAR_US, True)
        intake.fill_in(trade, "historicalTrades", Receipt(), even_if_published=False)
    await take(intake, trades(A, [4, 5], 3 * FAR_US))
    await take(intake, trades(A, [20_001], 4 * FAR_US))
    assert [trade_id for _, trade_id in log.trades] == [1, 2, 3, 4, 5, 20_001]
    assert intake.duplicates == 2
    assert gaps.noted == [(A, 2, 20_000, "jump")]


async def test_an_id_that_is_on_record_as_the_last_before_any_trade_came_is_not_counted_back() -> None:
    log = Log()
    gaps = Gaps(log)
    gaps.is_there.set()
    log.trades.append((A, 0))
    intake = intake_of(log, gaps)
    intake.begin_after({A: 10})
    await intake.note_missing(A, 20)
    await take(intake, trades(A, [15, 21]))
    assert gaps.noted == [(A, 11, 20, "restart")]
