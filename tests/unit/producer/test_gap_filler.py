"""What the gap filler requests, and which outcomes it writes, with a stub of the exchange's history."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from candleflow.broker.trade_log import TradeLog
from candleflow.exchange.history import TradeHistory
from candleflow.exchange.past_trades import Origin, Page
from candleflow.market.gap import GapEvent, GapEventKind
from candleflow.market.trade_ids import TradeIds
from candleflow.producer import gap_filler
from candleflow.producer.gap_filler import GapFiller
from candleflow.producer.intake import Intake
from tests.pipeline.producing import until

SEEN, FILLED, GIVEN_UP = GapEventKind
SYMBOL = "BTCUSDT"
FILL_US = 3_600_000_000
NOW = 1_763_851_200_000_000


class History:
    """A history without trades. It records the requests, and calls ``meanwhile`` during each of them."""

    def __init__(self, begins_at: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.asked: list[tuple[int, int]] = []
        self._begins_at = begins_at
        self._meanwhile = meanwhile

    async def page(self, symbol: str, from_id: int, limit: int) -> Page:
        self.asked.append((from_id, limit))
        await asyncio.sleep(0)
        self._meanwhile()
        return Page((), from_id + limit, self._begins_at, Origin.AGGREGATE)

    async def first_id_since(self, symbol: str, time_us: int) -> None:
        return None


class Scene:
    """A gap filler whose events are read back as soon as they are written."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.noted: list[GapEvent] = []
        log = cast(TradeLog, None)  # no trade is ever published

        async def note_gap(*_: Any) -> None:
            raise AssertionError

        self.filler = GapFiller(
            cast(TradeHistory, history),
            log,
            Intake(log, note_gap, can_refill=True),
            [SYMBOL],
            write=self._write,
            now_us=lambda: NOW,
            fill_us=FILL_US,
        )

    async def _write(self, event: GapEvent) -> None:
        self.noted.append(event)
        self.filler.add([event])

    async def run_until(self, condition: Callable[[], bool]) -> None:
        run = asyncio.create_task(self.filler.run())
        try:
            await until(lambda: run.done() or condition())
            assert not run.done(), run.exception()
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)


def seen(*ranges: tuple[int, int], why: str = "jump") -> GapEvent:
    return GapEvent.of(SEEN, SYMBOL, ranges, NOW, why)


@pytest.mark.parametrize("begins_at", [0, NOW], ids=["too old", "recent"])
@pytest.mark.parametrize("later", [[], [seen((50, 60))]], ids=["empty", "with another gap"])
async def test_a_topic_recreated_while_a_page_is_fetched(begins_at: int, later: Sequence[GapEvent]) -> None:
    scene = Scene(History(begins_at, lambda: scene.filler.replace(later)))
    scene.filler.replace([seen((1, 10))])
    await scene.run_until(lambda: len(scene.noted) >= 1 + len(later))
    assert scene.history.asked == [(1, 9), (50, 10)][: 1 + len(later)]


async def test_gaps_within_a_page_are_asked_for_at_once_and_noted_in_one_event() -> None:
    ranges = tuple((10 * one, 10 * one + 3) for one in range(50))
    scene = Scene(History(NOW))
    scene.filler.replace([seen(*ranges)])
    await scene.run_until(lambda: not scene.filler._gaps.wanted())
    assert [(one.kind, one.ranges) for one in scene.noted] == [(GIVEN_UP, ranges)]
    assert scene.history.asked == [(0, 493)]


async def test_a_small_gap_does_not_wait_for_a_large_one() -> None:
    scene = Scene(History(NOW))
    scene.filler.replace([seen((1, 1_000_000), (2_000_000, 2_000_005)), seen((5_000_000, 6_000_000))])
    await scene.run_until(lambda: len(scene.noted) >= 1)
    assert scene.noted[0].ranges == ((2_000_000, 2_000_005),)


async def test_forced_and_other_ids_are_requested_separately() -> None:
    scene = Scene(History(0))
    scene.filler.replace([seen((1, 10), (20, 30), (40, 50)), seen((20, 30), why="audit")])
    await scene.run_until(lambda: not scene.filler._gaps.wanted())
    assert {one.why: one.ranges for one in scene.noted} == {
        "older than 1 h": ((1, 10), (40, 50)),
        gap_filler.ONLY_AGGREGATES: ((20, 30),),
    }
    assert not any(scene.filler._forced.values()), "settled ids are not kept"


@pytest.mark.parametrize("why", [gap_filler.ONLY_AGGREGATES, None], ids=["given up", "wanted"])
def test_the_event_loop_is_not_held_up_by_a_hundred_thousand_gaps(why: str | None) -> None:
    """The search for the smallest gap once took 2.2 s, every second, and blocked live trades meanwhile."""
    ranges = TradeIds.of_ranges((10 * one, 10 * one + 3) for one in range(100_000)).ranges
    scene = Scene(History(NOW))
    scene.filler.replace([seen(*ranges)])
    if why is not None:
        scene.filler.add([GapEvent.of(GIVEN_UP, SYMBOL, ranges, NOW, why)])
    scene.filler._paused_until.clear()
    took = []
    for _ in range(3):
        began_at = time.process_time()
        asked = scene.filler._next_due()
        took.append(time.process_time() - began_at)
        assert (asked is None) == (why is not None)
    assert min(took) < 0.01
    assert (scene.filler.open_gaps, scene.filler.open_trades) == (100_000, 300_000)
