"""Compare candles with the exchange's own klines, field by field, exactly. No I/O; times are arguments.

Binance has 1 s and 1 min klines, but no 5 s ones. So the klines of a 5 s window are its five ``1s`` klines,
merged: the open of the first one with a trade, the close of the last, the highest high, the lowest low, and
sums for everything else. Binance publishes a second without trades as a flat kline at the previous close;
such klines are ignored.

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
"""The compared fields: everything that a kline says about its trades."""

SETTLE_US: Final = 5 * SECOND_US
"""How long after its end to compare a window. Binance's final kline comes up to 2 s late. At 2,000 trades a
second, 99 % of the trades are in their row within 1.2 s."""

_SUMS: Final = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")


@dataclass(frozen=True, slots=True)
class Basis:
    """An interval of stored candles, and the kline interval that it is compared with."""

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
        """Return the open times of the windows that lie completely within [since, until)."""
        slide = self.windows.slide_us
        return range(-(-since // slide) * slide, until - self.windows.size_us + 1, slide)


def bases(windows: Windows) -> tuple[Basis, ...]:
    """Return the comparisons to make: the finest windows with ``1s`` klines, and ``1m`` with ``1m``."""
    minute = ROLL_UPS["1m"] * SECOND_US
    return (
        Basis(windows.interval, windows, "1s", SECOND_US),
        Basis("1m", Windows(minute, minute), "1m", minute),
    )


class Verdict(StrEnum):
    """The result of comparing one window; the most serious first."""

    DIFFERENT = "different"
    MISSING = "missing"
    """The exchange has trades, but there is no stored candle."""
    EXTRA = "extra"
    """There is a stored candle, but the exchange has no trades."""
    INCOMPLETE = "incomplete"
    """The candle has less than the kline, and its trade ids show that trades are missing here."""
    NOT_COMPARABLE = "not comparable"
    EQUAL = "equal"
    """All fields are equal, or the exchange has no trades and there is no stored candle."""


DIFFERING: Final = frozenset({Verdict.DIFFERENT, Verdict.MISSING, Verdict.EXTRA})
"""The verdicts for unexplained differences."""


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """A field of FIELDS with two different values: the stored candle's and the exchange's."""

    name: str
    ours: Decimal | int
    theirs: Decimal | int


@dataclass(frozen=True, slots=True)
class Finding:
    """A window that isn't equal, and the fields that differ. If only one side has it: the trade count.

    ``reason``: why the window is incomplete or not comparable.
    """

    interval: str
    open_time: int
    verdict: Verdict
    reason: str = ""
    fields: tuple[FieldDifference, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """The number of windows of an interval by verdict, and all windows that aren't equal, oldest first."""

    interval: str
    counts: Mapping[Verdict, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def count(self, verdict: Verdict) -> int:
        return self.counts.get(verdict, 0)

    @property
    def differs(self) -> bool:
        """Whether any window has an unexplained difference."""
        return any(self.count(verdict) for verdict in DIFFERING)


def joined(interval: str, parts: Iterable[Comparison]) -> Comparison:
    """Join comparisons of consecutive time ranges. Raises MarketError if the intervals differ."""
    counts: Counter[Verdict] = Counter()
    findings: list[Finding] = []
    for part in parts:
        if part.interval != interval:
            raise MarketError(
                f"can't join a comparison of {part.interval} candles to one of {interval} candles"
            )
        counts.update(part.counts)
        findings.extend(part.findings)
    return Comparison(interval, dict(counts), tuple(findings))


def merge(klines: Sequence[Kline]) -> Kline | None:
    """Merge consecutive klines into one; keeps their interval name. None if none of them has a trade."""
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
    """Compare every window of one symbol that lies completely within [since, until).

    ``ours``: the stored candles, in any order. Include the first one that opens at ``until`` or later, if
    there is one: it shows whether trades are missing after the last window. ``theirs``: the klines, in any
    order. ``now``: the time by the exchange's clock. ``begins_at``: the open time of the symbol's first
    stored candle; no candle is missing before it.

    Raises MarketError if there is more than one symbol, or an interval that isn't that of ``basis``.
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
    """Compares windows one by one."""

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
        gap = self._gap(candle) if _may_lack_trades(candle, kline) else ""
        return finding(Verdict.INCOMPLETE if gap else Verdict.DIFFERENT, gap, fields)

    def _why_not(self, open_time: int, parts: int, candle: StoredCandle | None, kline: Kline | None) -> str:
        """Return why a window is not comparable, or ``""``; ``parts``: how many of its klines there are."""
        basis = self._basis
        end = open_time + basis.windows.size_us
        if end > self._now:
            return "it has not ended yet"
        if end + self._settle_us > self._now:
            return f"it ended less than {self._settle_us / SECOND_US:g} s ago"
        if parts < basis.klines_in_window:
            wanted = f"{parts} of {basis.klines_in_window}" if parts else "no"
            return f"the exchange returned {wanted} {basis.kline} klines for it"
        if candle is not None:
            return "" if candle.is_closed else "the stored candle is not closed yet"
        is_before_ours = self._begins_at is not None and open_time < self._begins_at
        return "it is before the first stored candle" if is_before_ours and kline is not None else ""

    def _gap(self, candle: StoredCandle) -> str:
        """Return where the candles' trade ids show that trades are missing, or ``""``.

        ``is_complete`` only covers ids up to the candle's last one. Trades lost at a window's end show in the
        first id of the next candle.
        """
        if not candle.is_complete:
            return "trade ids are missing in it or before it"
        after = bisect_left(self._open_times, candle.open_time + self._basis.windows.size_us)
        if after == len(self._open_times):
            return ""
        follows = self._candles[self._open_times[after]].first_trade_id == candle.last_trade_id + 1
        return "" if follows else "trade ids are missing after it"


def differences(ours: StoredCandle, theirs: Kline) -> tuple[FieldDifference, ...]:
    """Return the fields that differ, in the order of FIELDS."""
    pairs = ((name, getattr(ours, name), getattr(theirs, name)) for name in FIELDS)
    return tuple(FieldDifference(*pair) for pair in pairs if pair[1] != pair[2])


def _may_lack_trades(ours: StoredCandle, theirs: Kline) -> bool:
    """Whether missing trades can explain the difference: they only make sums and price range smaller."""
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
                raise MarketError(f"expected {interval} candles or klines to compare, got {one.interval}")
    if len(symbols) > 1:
        raise MarketError(f"can't compare different symbols: {', '.join(sorted(symbols))}")


def _sum(values: Iterable[Decimal]) -> Decimal:
    return reduce(EXACT.add, values, Decimal(0))
