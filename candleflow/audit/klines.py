"""Our candles against the exchange's own klines, field by field and exact: no I/O, and no clock of its own.

Binance has klines of a second and of a minute, and none of five seconds: as many of ``1s`` as a window has
seconds make one. Its open is that of the first of them with a trade, its close that of the last, high and low
are the greatest and the least, everything else is a sum. A kline without a trade is published flat at the
close before it, and adds nothing.

Times are microseconds since the epoch, UTC.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from functools import partial, reduce
from typing import Final

from candleflow.errors import MarketError
from candleflow.market.kline import Kline
from candleflow.market.stored import StoredCandle
from candleflow.market.trade import EXACT
from candleflow.market.window import ROLL_UPS, SECOND_US, Windows

FIELDS: Final = (
    "open", "high", "low", "close", "volume", "quote_volume",
    "trade_count", "taker_buy_volume", "taker_buy_quote_volume",
)  # fmt: skip
"""The fields compared: all that a kline has of its trades."""

SETTLE_US: Final = 5 * SECOND_US
"""How long after its end a window is compared: Binance's last word on a kline comes up to 2 s late, and 99 of
100 trades are in their row within 1.2 s at 2,000 trades a second."""

_SUMS: Final = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")


@dataclass(frozen=True, slots=True)
class Basis:
    """One stored interval of ours, and the interval of the klines that its windows are made of."""

    interval: str
    windows: Windows
    kline: str
    kline_us: int

    def __post_init__(self) -> None:
        if self.windows.size_us % self.kline_us or self.windows.slide_us % self.kline_us:
            raise MarketError(f"{self.interval} candles can't be made of {self.kline} klines")

    @property
    def klines_in_window(self) -> int:
        return self.windows.size_us // self.kline_us

    def opens(self, since: int, until: int) -> range:
        """The open times of the windows that lie wholly within [since, until)."""
        slide = self.windows.slide_us
        return range(-(-since // slide) * slide, until - self.windows.size_us + 1, slide)


def bases(windows: Windows) -> tuple[Basis, ...]:
    """What is compared where the finest windows are these: they with ``1s``, and ``1m`` with ``1m``."""
    minute = ROLL_UPS["1m"] * SECOND_US
    return (
        Basis(windows.interval, windows, "1s", SECOND_US),
        Basis("1m", Windows(minute, minute), "1m", minute),
    )


class Verdict(StrEnum):
    """What the comparison of one window says; the gravest first."""

    DIFFERENT = "different"
    MISSING = "missing"
    """The exchange has trades, we have no candle."""
    EXTRA = "extra"
    """We have a candle, the exchange has no trades."""
    INCOMPLETE = "incomplete"
    """Less than the exchange has, and our own ledger of trade ids says that trades are missing here."""
    NOT_COMPARABLE = "not comparable"
    EQUAL = "equal"
    """In all fields; or no trades at the exchange, and no candle of ours."""


DIFFERING: Final = frozenset({Verdict.DIFFERENT, Verdict.MISSING, Verdict.EXTRA})
"""The verdicts that nothing explains."""


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """One of FIELDS, as we have it and as the exchange has it."""

    name: str
    ours: Decimal | int
    theirs: Decimal | int


@dataclass(frozen=True, slots=True)
class Finding:
    """A window that isn't equal, and in which fields; of one that only one side has, in the trade count.

    ``reason``: why it is incomplete, or not comparable.
    """

    interval: str
    open_time: int
    verdict: Verdict
    reason: str = ""
    fields: tuple[FieldDifference, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many windows of an interval had which verdict, and all that aren't equal, oldest first."""

    interval: str
    counts: Mapping[Verdict, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def count(self, verdict: Verdict) -> int:
        return self.counts.get(verdict, 0)

    @property
    def differs(self) -> bool:
        """Whether any window differs with nothing to explain it."""
        return any(self.count(verdict) for verdict in DIFFERING)


def joined(interval: str, parts: Iterable[Comparison]) -> Comparison:
    """Comparisons of stretches that follow one another, as one. Raises MarketError for another interval's."""
    counts: Counter[Verdict] = Counter()
    findings: list[Finding] = []
    for part in parts:
        if part.interval != interval:
            raise MarketError(f"a comparison of {part.interval} is no part of one of {interval}")
        counts.update(part.counts)
        findings.extend(part.findings)
    return Comparison(interval, dict(counts), tuple(findings))


def merge(klines: Sequence[Kline]) -> Kline | None:
    """Klines that follow one another as one, named as its parts are; None where none of them has a trade."""
    traded = [one for one in klines if one.trade_count > 0]
    if not traded:
        return None
    return replace(
        klines[0],
        close_time=klines[-1].close_time,
        open=traded[0].open,
        high=max(one.high for one in traded),
        low=min(one.low for one in traded),
        close=traded[-1].close,
        volume=_sum(one.volume for one in traded),
        quote_volume=_sum(one.quote_volume for one in traded),
        trade_count=sum(one.trade_count for one in traded),
        taker_buy_volume=_sum(one.taker_buy_volume for one in traded),
        taker_buy_quote_volume=_sum(one.taker_buy_quote_volume for one in traded),
    )


def compare(
    ours: Iterable[StoredCandle],
    theirs: Iterable[Kline],
    basis: Basis,
    *,
    since: int,
    until: int,
    now: int,
    begins_at: int | None = None,
    settle_us: int = SETTLE_US,
) -> Comparison:
    """Judge every window of one symbol that lies wholly within [since, until).

    ``ours``: its candles, in any order; where the first that opens at ``until`` or later is among them, a
    hole after the last window is known too. ``theirs``: the klines, in any order. What lies outside is not
    judged. ``now``: the time by the exchange's clock. ``begins_at``: the open time of the symbol's first
    candle ever; before it none can be missing.

    Raises MarketError where there is more than one symbol, or another interval than the basis has.
    """
    candles = {one.open_time: one for one in ours}
    klines = {one.open_time: one for one in theirs}
    _check((candles.values(), basis.interval), (klines.values(), basis.kline))
    judge = _Judge(basis, candles, klines, now, begins_at, settle_us)
    judged = [judge.window(open_time) for open_time in basis.opens(since, until)]
    counts = Counter(one.verdict for one in judged)
    unequal = tuple(one for one in judged if one.verdict is not Verdict.EQUAL)
    return Comparison(basis.interval, dict(counts), unequal)


class _Judge:
    """Judges windows one by one."""

    def __init__(
        self,
        basis: Basis,
        candles: Mapping[int, StoredCandle],
        klines: Mapping[int, Kline],
        now: int,
        begins_at: int | None,
        settle_us: int,
    ) -> None:
        self._basis = basis
        self._candles = candles
        self._open_times = sorted(candles)
        self._klines = klines
        self._now = now
        self._begins_at = begins_at
        self._settle_us = settle_us

    def window(self, open_time: int) -> Finding:
        finding = partial(Finding, self._basis.interval, open_time)
        times = range(open_time, open_time + self._basis.windows.size_us, self._basis.kline_us)
        parts = [self._klines[at] for at in times if at in self._klines]
        candle, kline = self._candles.get(open_time), merge(parts)
        if reason := self._why_not(open_time, len(parts), candle, kline):
            return finding(Verdict.NOT_COMPARABLE, reason)
        if candle is None and kline is None:
            return finding(Verdict.EQUAL)
        if candle is None or kline is None:
            ours, theirs = (0 if one is None else one.trade_count for one in (candle, kline))
            verdict = Verdict.MISSING if candle is None else Verdict.EXTRA
            return finding(verdict, fields=(FieldDifference("trade_count", ours, theirs),))
        fields = differences(candle, kline)
        if not fields:
            return finding(Verdict.EQUAL)
        hole = self._hole(candle) if _may_lack_trades(candle, kline) else ""
        return finding(Verdict.INCOMPLETE if hole else Verdict.DIFFERENT, hole, fields)

    def _why_not(self, open_time: int, parts: int, candle: StoredCandle | None, kline: Kline | None) -> str:
        """Why a window is not comparable, or nothing; ``parts``: how many klines the exchange gave for it."""
        basis = self._basis
        end = open_time + basis.windows.size_us
        if end > self._now:
            return "it is under way"
        if end + self._settle_us > self._now:
            return f"it ended less than {self._settle_us / SECOND_US:g} s ago"
        if parts < basis.klines_in_window:
            wanted = f"{parts} of {basis.klines_in_window}" if parts else "no"
            return f"the exchange gave {wanted} {basis.kline} klines for it"
        if candle is not None:
            return "" if candle.is_closed else "our candle is not closed yet"
        is_before_ours = self._begins_at is not None and open_time < self._begins_at
        return "it is before our first candle" if is_before_ours and kline is not None else ""

    def _hole(self, candle: StoredCandle) -> str:
        """Where our own ledger says that trades are missing, or nothing.

        ``is_complete`` looks back only: trades lost at a window's end make the candle after it incomplete.
        """
        if not candle.is_complete:
            return "trade ids are missing in it or before it"
        after = bisect_left(self._open_times, candle.open_time + self._basis.windows.size_us)
        if after == len(self._open_times):
            return ""
        follows = self._candles[self._open_times[after]].first_trade_id == candle.last_trade_id + 1
        return "" if follows else "trade ids are missing after it"


def differences(ours: StoredCandle, theirs: Kline) -> tuple[FieldDifference, ...]:
    """The fields in which both differ, in the order of FIELDS."""
    pairs = ((name, getattr(ours, name), getattr(theirs, name)) for name in FIELDS)
    return tuple(FieldDifference(*pair) for pair in pairs if pair[1] != pair[2])


def _may_lack_trades(ours: StoredCandle, theirs: Kline) -> bool:
    """Whether missing trades can be why they differ: what is missing raises nothing, and lowers no low."""
    return (
        ours.trade_count < theirs.trade_count
        and theirs.low <= ours.low
        and ours.high <= theirs.high
        and all(getattr(ours, name) <= getattr(theirs, name) for name in _SUMS)
    )


def _check(*sides: tuple[Iterable[StoredCandle] | Iterable[Kline], str]) -> None:
    symbols = set()
    for rows, interval in sides:
        for one in rows:
            symbols.add(one.symbol)
            if one.interval != interval:
                raise MarketError(f"{one.interval} is compared where {interval} should be")
    if len(symbols) > 1:
        raise MarketError(f"different symbols are compared: {', '.join(sorted(symbols))}")


def _sum(values: Iterable[Decimal]) -> Decimal:
    return reduce(EXACT.add, values, Decimal(0))
