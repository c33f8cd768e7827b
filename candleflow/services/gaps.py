"""``gaps``: which trades were missing, how that came, and what became of them; from the topic of gaps."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from candleflow.broker.gap_log import read_all
from candleflow.market.gap import GapEvent, GapEventKind, book_of
from candleflow.market.trade_ids import TradeIds
from candleflow.market.window import SECOND_US
from candleflow.settings import Settings

_COLUMNS: Final = (
    "symbol", "first id", "last id", "trades", "seen at", "reason", "settled at", "how", "missing"
)  # fmt: skip
_FILE_COLUMNS: Final = 160
_COUNTS: Final = ("trades", "missing")


@dataclass(frozen=True, slots=True)
class Gap:
    """One gap as it was seen, and how it stands. Times in microseconds since the epoch."""

    symbol: str
    first_trade_id: int
    last_trade_id: int
    seen_at: int
    reason: str
    missing: int
    """So many of its trades are missing still."""
    settled_at: int | None
    """When the last of it was filled or given up."""
    how: str
    """Where its trades were had from, or why not."""


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print the gaps, the latest last; 0. Raises BrokerError where Kafka can't be asked."""
    events = read_all(settings.kafka_bootstrap, settings.gaps_topic)
    found = gaps(events)
    shown = [gap for gap in found if gap.missing or not arguments.open]
    if arguments.json:
        print(json.dumps([_fields(gap) for gap in shown], indent=1))
        return 0
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_COLUMNS)
    console.print(_table(shown))
    ranges = book_of(events).open_ranges().values()
    missing = sum(upper - lower for some in ranges for lower, upper in some)
    print(f"{len(found):,} gaps, {missing:,} trades missing still")
    return 0


def gaps(events: Sequence[GapEvent]) -> list[Gap]:
    """Each range that was seen missing, in the order of seeing, as it stands after all events."""
    missing = book_of(events).open_ranges()
    return [
        _gap(seen, events[at + 1 :], missing.get(seen.symbol, ()))
        for at, seen in enumerate(events)
        if seen.kind is GapEventKind.SEEN
    ]


def _gap(seen: GapEvent, later: Sequence[GapEvent], missing: Sequence[tuple[int, int]]) -> Gap:
    lower, upper = seen.first_trade_id, seen.last_trade_id + 1
    outcomes = [
        event
        for event in later
        if event.symbol == seen.symbol
        and event.kind is not GapEventKind.SEEN
        and event.first_trade_id < upper
        and event.last_trade_id >= lower
    ]
    still = TradeIds()
    for begin, end in missing:
        still.add_range(max(begin, lower), min(end, upper))
    return Gap(
        symbol=seen.symbol,
        first_trade_id=seen.first_trade_id,
        last_trade_id=seen.last_trade_id,
        seen_at=seen.at,
        reason=seen.why,
        missing=len(still),
        settled_at=outcomes[-1].at if outcomes else None,
        how=", ".join(dict.fromkeys(event.why for event in outcomes)),
    )


def _fields(gap: Gap) -> dict[str, Any]:
    return {name: getattr(gap, name) for name in gap.__slots__}


def _table(found: Sequence[Gap]) -> Table:
    table = Table(box=None)
    for name in _COLUMNS:
        table.add_column(name, justify="right" if name in _COUNTS else "left")
    for gap in found:
        table.add_row(
            gap.symbol,
            str(gap.first_trade_id),
            str(gap.last_trade_id),
            f"{gap.last_trade_id - gap.first_trade_id + 1:,}",
            _time(gap.seen_at),
            gap.reason,
            "" if gap.settled_at is None else _time(gap.settled_at),
            gap.how,
            f"[red]{gap.missing:,}[/red]" if gap.missing else "0",
        )
    return table


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / SECOND_US, UTC).strftime("%Y-%m-%d %H:%M:%S")
