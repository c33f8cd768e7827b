"""``gaps``: list which trades were missing, why, and whether they were filled, from the topic of gaps."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final, TypeAlias

from rich.console import Console
from rich.table import Table

from candleflow.broker.gap_log import read_all
from candleflow.market.gap import GapEvent, GapEventKind, GapState, gap_state_of
from candleflow.market.window import SECOND_US
from candleflow.settings import Settings

_COLUMNS: Final = (
    "symbol", "first id", "last id", "trades", "seen at", "reason", "settled at", "how", "missing"
)  # fmt: skip
_Place: TypeAlias = tuple[str, int, int, int]
"""Symbol, half-open range of ids (lower, upper), and the position of its event in the log."""
_FILE_COLUMNS: Final = 160
_COUNTS: Final = ("trades", "missing")


@dataclass(frozen=True, slots=True)
class Gap:
    """One gap as it was detected, and its current state. Times in microseconds since the epoch."""

    symbol: str
    first_trade_id: int
    last_trade_id: int
    seen_at: int
    reason: str
    missing: int
    """How many of its trades are still missing."""
    settled_at: int | None
    """When its latest trades were filled or given up."""
    how: str
    """Where its trades were fetched from, or why they were given up."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``gaps``."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--open", action="store_true", help="list only gaps that still miss trades")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print the gaps, oldest first, and return 0. Raises BrokerError if Kafka can't be reached."""
    events = read_all(settings.kafka.bootstrap, settings.gaps_topic)
    found = gaps(events)
    shown = [gap for gap in found if gap.missing or not arguments.open]
    if arguments.json:
        print(json.dumps([asdict(gap) for gap in shown], indent=1))
        return 0
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_COLUMNS)
    console.print(_table(shown))
    missing = gap_state_of(events).open_trades
    print(f"{len(found):,} gaps, {missing:,} trades still missing")
    return 0


def gaps(events: Sequence[GapEvent]) -> list[Gap]:
    """Return every detected gap in the order of detection, with its state after all events."""
    state = gap_state_of(events)
    places: list[_Place] = [
        (event.symbol, lower, upper, at) for at, event in enumerate(events) for lower, upper in event.ranges
    ]
    seen = [place for place in places if events[place[3]].kind is GapEventKind.SEEN]
    outcomes = [place for place in places if events[place[3]].kind is not GapEventKind.SEEN]
    later: defaultdict[_Place, set[int]] = defaultdict(set)
    for gap, outcome in _overlapping(seen, outcomes):
        if outcome[3] > gap[3]:
            later[gap].add(outcome[3])
    return [_gap(gap, events[gap[3]], [events[at] for at in sorted(later[gap])], state) for gap in seen]


def _overlapping(some: Sequence[_Place], others: Sequence[_Place]) -> Iterator[tuple[_Place, _Place]]:
    """Yield each pair of a gap and an outcome that share ids, in one pass over the sorted ranges."""
    begun: tuple[list[_Place], list[_Place]] = ([], [])
    for (symbol, lower, upper, at), kind in sorted([(one, 0) for one in some] + [(one, 1) for one in others]):
        place = symbol, lower, upper, at
        facing = begun[1 - kind]
        facing[:] = [one for one in facing if one[0] == symbol and one[2] > lower]
        for one in facing:
            yield (one, place) if kind else (place, one)
        begun[kind].append(place)


def _gap(place: _Place, seen: GapEvent, outcomes: Sequence[GapEvent], state: GapState) -> Gap:
    symbol, lower, upper, _ = place
    return Gap(
        symbol=symbol,
        first_trade_id=lower,
        last_trade_id=upper - 1,
        seen_at=seen.at,
        reason=seen.why,
        missing=sum(end - begin for begin, end in state.open_within(symbol, lower, upper)),
        settled_at=outcomes[-1].at if outcomes else None,
        how=", ".join(dict.fromkeys(event.why for event in outcomes)),
    )


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
