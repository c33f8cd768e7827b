"""The report of ``verify``: tables, or JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from candleflow.audit.klines import DIFFERING, Comparison, Finding, Verdict
from candleflow.market.trade import EXACT

SHOWN: Final = 20
"""Maximum number of unequal windows in the table; JSON has all."""

_WIDTH: Final = 140
"""Line width in characters if the output is not a terminal."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Asked:
    """The input: a symbol, and a time range [since, until) in microseconds."""

    symbol: str
    since: int
    until: int


@dataclass(frozen=True, slots=True)
class Verified:
    """The result: one comparison per interval, and the address that the klines came from."""

    asked: Asked
    exchange: str
    comparisons: tuple[Comparison, ...]
    is_simulated: bool = False

    @property
    def differs(self) -> bool:
        return any(one.differs for one in self.comparisons)


def as_json(verified: Verified) -> dict[str, Any]:
    """Return the result for JSON: decimals as strings, times as ISO 8601 in UTC."""
    return {
        "symbol": verified.asked.symbol,
        "exchange": verified.exchange,
        "simulated": verified.is_simulated,
        "from": written(verified.asked.since),
        "to": written(verified.asked.until),
        "differs": verified.differs,
        "intervals": {
            one.interval: {verdict.value: one.count(verdict) for verdict in Verdict}
            for one in verified.comparisons
        },
        "windows": [
            {
                "interval": one.interval,
                "open_time": written(one.open_time),
                "verdict": one.verdict.value,
                "reason": one.reason,
                "fields": {
                    field.name: {"ours": _plain(field.ours), "theirs": _plain(field.theirs)}
                    for field in one.fields
                },
            }
            for one in _findings(verified)
        ],
    }


def _findings(verified: Verified) -> list[Finding]:
    """Return all windows that aren't equal: the most serious verdict first, then by time."""
    found = [one for comparison in verified.comparisons for one in comparison.findings]
    order = list(Verdict)
    return sorted(found, key=lambda one: (order.index(one.verdict), one.open_time, one.interval))


def print_report(verified: Verified) -> None:
    """Print the counts by interval, then the first SHOWN windows that differ, and the conclusion."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    if verified.is_simulated:
        console.print("SIMULATED", style="bold white on red")
    asked = verified.asked
    stretch = f"{asked.symbol}  {written(asked.since)} to {written(asked.until)}  against {verified.exchange}"
    console.print(stretch, soft_wrap=True, highlight=False, markup=False)
    console.print(_summary(verified.comparisons))
    findings = _findings(verified)
    reasons = Counter((one.verdict, one.reason) for one in findings if one.reason)
    for (verdict, reason), count in reasons.most_common():
        console.print(f"{count:,} {verdict}: {reason}", highlight=False)
    unequal = [one for one in findings if one.fields]
    if unequal:
        console.print(_windows(unequal[:SHOWN]))
    if len(unequal) > SHOWN:
        console.print(f"and {len(unequal) - SHOWN:,} more windows: --json prints all", highlight=False)
    console.print(_conclusion(verified), style="bold", highlight=False)


def _summary(comparisons: Sequence[Comparison]) -> Table:
    order = (Verdict.EQUAL, *(one for one in Verdict if one is not Verdict.EQUAL))
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("interval", no_wrap=True)
    for verdict in order:
        table.add_column(verdict.value, justify="right")
    for one in comparisons:
        table.add_row(one.interval, *(f"{one.count(verdict):,}" for verdict in order))
    return table


def _windows(findings: Sequence[Finding]) -> Table:
    """Build a table with a row for each window, and below it one for each field. Fits 80 characters."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("interval and window", no_wrap=True)
    for name in ("ours", "exchange's"):
        table.add_column(name, justify="right", overflow="fold")
    for one in findings:
        table.add_row(f"{one.interval} {written(one.open_time)} {one.verdict}")
        for field in one.fields:
            table.add_row(f"  {field.name}", str(_plain(field.ours)), str(_plain(field.theirs)))
    return table


def _conclusion(verified: Verified) -> str:
    equal = sum(one.count(Verdict.EQUAL) for one in verified.comparisons)
    differing = sum(one.count(verdict) for one in verified.comparisons for verdict in DIFFERING)
    if differing:
        return f"{differing:,} windows differ from the exchange's klines, {equal:,} are equal"
    return (
        f"{equal:,} windows equal the exchange's klines, none differs"
        if equal
        else "no window could be compared"
    )


def _plain(value: Decimal | int) -> str | int:
    return format(EXACT.normalize(value), "f") if isinstance(value, Decimal) else value


def written(time_us: int) -> str:
    """Format a time as the options accept it: ``2026-11-22T10:00:00Z``, with microseconds if not 0."""
    at = _EPOCH + timedelta(microseconds=time_us)
    return at.replace(tzinfo=None).isoformat() + "Z"
