"""Find stored candles that contradict each other or their own trade ids. No I/O; times are arguments.

The processor merges the trades into the finest candles and, separately, into the roll-ups. If these don't
agree, one of them is wrong, and both are rebuilt. An error in both shows only in a comparison with the
exchange's klines (``kline_mismatches``). Times are microseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from candleflow.audit.klines import Basis, Comparison, Verdict
from candleflow.market.candle_ids import CandleIds, StrayRollUp
from candleflow.market.window import SECOND_US, Windows

TRIES: Final = 3
"""How often to try a range whose trades are not all in the topic: they may be fetched meanwhile."""
PAUSE_US: Final = 60 * SECOND_US
REMEMBERED: Final = 10_000
LONGEST_US: Final = 3_600 * SECOND_US


@dataclass(frozen=True, slots=True)
class SuspectRange:
    """A range of windows to rebuild: those that open in [since, until).

    If ``since`` equals ``until``, only the roll-ups over ``since`` are rebuilt. ``state`` identifies the
    content of the candles; it changes when they change.
    """

    since: int
    until: int
    reason: str
    state: str = ""


def find_suspect_ranges(
    stored: Sequence[CandleIds], strays: Iterable[StrayRollUp], windows: Windows
) -> list[SuspectRange]:
    """Return the ranges of one symbol to rebuild, in order of time. ``stored`` must be in that order too."""
    found = [
        _window(candle, windows, "a candle's counts don't match its trade ids")
        for candle in stored
        if not candle.balances(windows.size_us)
    ]
    tiles = [candle for candle in stored if candle.open_time % windows.size_us == 0]
    found += [_window(candle, windows, "trade ids are in two candles") for candle in overlapping(tiles)]
    found += _of_roll_ups(strays)
    return merge_overlapping(found)


def overlapping(stored: Iterable[CandleIds]) -> list[CandleIds]:
    """Return the candles that share a trade id with another one."""
    kept = list(stored)
    owned = sorted((lower, upper, at) for at, candle in enumerate(kept) for lower, upper in candle.ids.ranges)
    shared: set[int] = set()
    reached, owner = 0, -1
    for lower, upper, at in owned:
        if lower < reached and owner != at:
            shared |= {owner, at}
        if upper > reached:
            reached, owner = upper, at
    return [kept[at] for at in sorted(shared)]


def kline_mismatches(comparison: Comparison, basis: Basis) -> list[SuspectRange]:
    """Return the windows that differ from the klines but have the same number of trades."""
    step = basis.windows.slide_us
    return [
        SuspectRange(
            one.open_time,
            one.open_time + step,
            f"a {basis.interval} candle differs from the exchange's kline",
            repr(one.fields),
        )
        for one in comparison.findings
        if one.verdict is Verdict.DIFFERENT and all(field.name != "trade_count" for field in one.fields)
    ]


def merge_overlapping(found: Iterable[SuspectRange]) -> list[SuspectRange]:
    """Return the ranges in order of time, with overlapping ones merged."""
    kept: list[SuspectRange] = []
    for one in sorted(found, key=lambda suspect: (suspect.since, -suspect.until)):
        if kept and (one.since < kept[-1].until or one.since == kept[-1].since):
            kept[-1] = spanning([kept[-1], one])
        else:
            kept.append(one)
    return kept


def group_adjacent(found: Iterable[SuspectRange]) -> list[list[SuspectRange]]:
    """Merge overlapping ranges, then group those that touch, up to an hour per group."""
    grouped: list[list[SuspectRange]] = []
    for one in merge_overlapping(found):
        last = grouped[-1] if grouped else []
        touches = bool(last) and one.since == last[-1].until > last[-1].since and one.until > one.since
        if touches and one.until - last[0].since <= LONGEST_US:
            last.append(one)
        else:
            grouped.append([one])
    return grouped


def spanning(run: Sequence[SuspectRange]) -> SuspectRange:
    """Return one range that covers all of ``run``."""
    reasons = dict.fromkeys(reason for one in run for reason in one.reason.split("; "))
    return SuspectRange(
        min(one.since for one in run),
        max(one.until for one in run),
        "; ".join(reasons),
        " ".join(one.state for one in run),
    )


class Attempts:
    """Counts the rebuild attempts per range, so that none is retried forever."""

    def __init__(self) -> None:
        self._left: dict[tuple[str, SuspectRange], tuple[int, int]] = {}

    def is_due(self, symbol: str, suspect: SuspectRange, now: int) -> bool:
        """Whether the range is new in its current state, or has an attempt left that is due."""
        tries, due_at = self._left.get((symbol, suspect), (TRIES, now))
        return tries > 0 and now >= due_at

    def note(self, symbol: str, suspect: SuspectRange, now: int, *, is_settled: bool) -> None:
        """Record an attempt. ``is_settled``: all trades were read, so that a retry would change nothing."""
        tries, _ = self._left.pop((symbol, suspect), (TRIES, now))
        while len(self._left) >= REMEMBERED:
            del self._left[next(iter(self._left))]
        self._left[symbol, suspect] = (0 if is_settled else tries - 1, now + PAUSE_US)


def _window(candle: CandleIds, windows: Windows, reason: str) -> SuspectRange:
    return SuspectRange(candle.open_time, candle.open_time + windows.slide_us, reason, candle.state)


def _of_roll_ups(strays: Iterable[StrayRollUp]) -> list[SuspectRange]:
    """Return the shortest wrong roll-ups; longer ones over the same time are rebuilt with them."""
    found: list[SuspectRange] = []
    some = sorted(strays, key=lambda stray: stray.end_time - stray.open_time)
    for one in some:
        if any(one.open_time <= other.since < one.end_time for other in found):
            continue
        others = (other for other in some if other is not one)
        until = one.open_time if _is_alone_at_fault(one, others) else one.end_time
        found.append(
            SuspectRange(
                one.open_time, until, f"a {one.interval} roll-up is not the sum of its candles", one.state
            )
        )
    return found


def _is_alone_at_fault(stray: StrayRollUp, others: Iterable[StrayRollUp]) -> bool:
    """Whether only the roll-up is wrong, so that it can be rebuilt from its candles, without the topic.

    That is if all other roll-ups of that time agree with the finest candles, and this one is missing, or has
    no more trades than they and the same prices. If its prices differ, the finest candles may be wrong: a
    longer roll-up shows only the first, the last, the highest and the lowest price.
    """
    if any(other.open_time < stray.end_time and stray.open_time < other.end_time for other in others):
        return False
    if stray.folded is None:
        return False
    return stray.stored is None or (stray.prices_agree and stray.folded.has_all(stray.stored))
