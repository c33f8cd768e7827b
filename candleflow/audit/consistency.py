"""Which stored candles can't be right, by what they say of each other. No I/O, and no clock of its own.

The finest candles and the roll-ups are each merged from the trades. Where they do not fit together, one of
them is wrong, and both are rebuilt. An error that is in all of them only the exchange's klines can show
(``kline_mismatches``). Times are microseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from candleflow.audit.klines import Basis, Comparison, Verdict
from candleflow.market.candle_ids import CandleIds, StrayRollUp
from candleflow.market.window import SECOND_US, Windows

TRIES: Final = 3
"""How often a stretch is tried that the topic doesn't have whole: it may be fetched again meanwhile."""
PAUSE_US: Final = 60 * SECOND_US
REMEMBERED: Final = 10_000
LONGEST_US: Final = 3_600 * SECOND_US


@dataclass(frozen=True, slots=True)
class SuspectRange:
    """A stretch of windows to rebuild: those that open in [since, until).

    Where that is empty, only the roll-ups that hold ``since`` are. ``state`` is another one where the candles
    in question are.
    """

    since: int
    until: int
    reason: str
    state: str = ""


def find_suspect_ranges(
    stored: Sequence[CandleIds], strays: Iterable[StrayRollUp], windows: Windows
) -> list[SuspectRange]:
    """What to rebuild of one symbol, in the order of time; ``stored`` in that order too."""
    found = [
        _window(candle, windows, "a candle's figures are not those of its ids")
        for candle in stored
        if not candle.balances(windows.size_us)
    ]
    tiles = [candle for candle in stored if candle.open_time % windows.size_us == 0]
    found += [_window(candle, windows, "ids are in two candles") for candle in overlapping(tiles)]
    found += _of_roll_ups(strays)
    return merge_overlapping(found)


def overlapping(stored: Iterable[CandleIds]) -> list[CandleIds]:
    """Those that share an id with another of them."""
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
    """The windows that differ from the exchange's klines though they have as many trades."""
    step = basis.windows.slide_us
    return [
        SuspectRange(
            one.open_time,
            one.open_time + step,
            f"a {basis.interval} candle differs from the exchange's",
            repr(one.fields),
        )
        for one in comparison.findings
        if one.verdict is Verdict.DIFFERENT and all(field.name != "trade_count" for field in one.fields)
    ]


def merge_overlapping(found: Iterable[SuspectRange]) -> list[SuspectRange]:
    """The same windows in the order of time, each once: stretches that overlap are made one."""
    kept: list[SuspectRange] = []
    for one in sorted(found, key=lambda suspect: (suspect.since, -suspect.until)):
        if kept and (one.since < kept[-1].until or one.since == kept[-1].since):
            kept[-1] = spanning([kept[-1], one])
        else:
            kept.append(one)
    return kept


def group_adjacent(found: Iterable[SuspectRange]) -> list[list[SuspectRange]]:
    """The stretches of ``merge_overlapping`` in runs that have no room between them, of an hour at most each."""
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
    """A run as one stretch."""
    reasons = dict.fromkeys(reason for one in run for reason in one.reason.split("; "))
    return SuspectRange(
        min(one.since for one in run),
        max(one.until for one in run),
        "; ".join(reasons),
        " ".join(one.state for one in run),
    )


class Attempts:
    """Which suspects are to be looked into: none for ever."""

    def __init__(self) -> None:
        self._left: dict[tuple[str, SuspectRange], tuple[int, int]] = {}

    def is_due(self, symbol: str, suspect: SuspectRange, now: int) -> bool:
        """Whether the suspect is new in this state, or may be tried once more."""
        tries, due_at = self._left.get((symbol, suspect), (TRIES, now))
        return tries > 0 and now >= due_at

    def note(self, symbol: str, suspect: SuspectRange, now: int, *, is_settled: bool) -> None:
        """It was looked into; ``is_settled``: with all of its trades, so that trying again is of no use."""
        tries, _ = self._left.pop((symbol, suspect), (TRIES, now))
        while len(self._left) >= REMEMBERED:
            del self._left[next(iter(self._left))]
        self._left[symbol, suspect] = (0 if is_settled else tries - 1, now + PAUSE_US)


def _window(candle: CandleIds, windows: Windows, reason: str) -> SuspectRange:
    return SuspectRange(candle.open_time, candle.open_time + windows.slide_us, reason, candle.state)


def _of_roll_ups(strays: Iterable[StrayRollUp]) -> list[SuspectRange]:
    """The shortest that stray: whatever holds them is rebuilt with them."""
    found: list[SuspectRange] = []
    some = sorted(strays, key=lambda stray: stray.end_time - stray.open_time)
    for one in some:
        if any(one.open_time <= other.since < one.end_time for other in found):
            continue
        others = (other for other in some if other is not one)
        until = one.open_time if _is_alone_at_fault(one, others) else one.end_time
        found.append(
            SuspectRange(
                one.open_time, until, f"a {one.interval} roll-up is not the fold of its candles", one.state
            )
        )
    return found


def _is_alone_at_fault(stray: StrayRollUp, others: Iterable[StrayRollUp]) -> bool:
    """Whether its finest candles are right, so that the topic need not be read: where it isn't there, or has
    no trade more than they, and all other roll-ups of that time agree with them. But not where its prices
    differ: those of one candle, if it is none of the extreme ones, don't show in the longer roll-ups."""
    if any(other.open_time < stray.end_time and stray.open_time < other.end_time for other in others):
        return False
    if stray.folded is None:
        return False
    return stray.stored is None or (stray.prices_agree and stray.folded.has_all(stray.stored))
