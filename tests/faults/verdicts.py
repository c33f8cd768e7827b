"""Compare each stored candle with one that an independent oracle computes from the trades.

The oracle (``tests/oracle.py``) is plain Python and shares no code with ours. Each error names the stage that
caused it. If a missing trade is not in the topic, the producer lost it; if it is in the topic but not in its
candle, the processor lost it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from fractions import Fraction
from io import StringIO
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from rich.console import Console
from rich.table import Table

from tests import oracle
from tests.oracle import FIELDS, INTERVAL_SECONDS, OracleCandle

Trades: TypeAlias = dict[tuple[str, int], dict[str, Any]]
"""Payloads as the exchange sends them, by symbol and trade id."""
Key: TypeAlias = tuple[Any, ...]
"""Symbol, interval and open time."""

NONE: Final[Mapping[str, int]] = MappingProxyType({})
KILLS: Final = ("kill -9", "immediate stop")
"""How the names of faults begin that leave a process no time to clean up."""
_WIDTH: Final = 150
_SHOWN: Final = 40
_VOLUMES: Final = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume", "trade_count")


class Outcome(StrEnum):
    """The result of comparing a candle."""

    OK = "ok"
    MISSING = "missing"
    """The candle or one of its trades is missing."""
    DUPLICATE = "duplicate"
    """It has the right trades, but some of them count more than once."""
    WRONG = "wrong"
    """It has the right trades once, but a field has another value than they give."""
    EXTRA = "extra"
    """The oracle doesn't have the candle or one of its trades."""


class Stage(StrEnum):
    """The stage that lost a trade."""

    PRODUCER = "producer: never in the topic"
    PROCESSOR = "processor: in the topic, not in the candle"


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored candle and the trade ids that its row contains."""

    candle: OracleCandle
    trade_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result for one candle."""

    key: Key
    outcome: Outcome
    words: str = ""
    stage: Stage | None = None


def compare(expected: Trades, in_topic: Trades, found: Mapping[Key, Stored]) -> list[Verdict]:
    """Return a verdict for each stored or expected candle, in order of their keys."""
    candles = oracle.all_intervals(expected.values())
    members = _members(expected)
    return [
        _judged(key, candles.get(key), members.get(key, frozenset()), in_topic, found.get(key))
        for key in sorted(candles.keys() | found.keys())
    ]


def _judged(
    key: Key, candle: OracleCandle | None, ids: frozenset[int], in_topic: Trades, found: Stored | None
) -> Verdict:
    if candle is None:
        return Verdict(key, Outcome.EXTRA, "no trade belongs here")
    held = found.trade_ids if found is not None else frozenset()
    if found is None or ids - held:
        lost = sorted(ids - held)
        by_processor = [one for one in lost if (key[0], one) in in_topic]
        stage = Stage.PROCESSOR if by_processor else Stage.PRODUCER
        return Verdict(key, Outcome.MISSING, _listed(by_processor or lost), stage)
    if held - ids:
        return Verdict(key, Outcome.EXTRA, _listed(sorted(held - ids)))
    wrong = [name for name in FIELDS if getattr(found.candle, name) != getattr(candle, name)]
    if not wrong:
        return Verdict(key, Outcome.OK)
    has_more = any(getattr(found.candle, name) > getattr(candle, name) for name in _VOLUMES if name in wrong)
    words = "; ".join(f"{name} {_show(found.candle, name)}, not {_show(candle, name)}" for name in wrong)
    return Verdict(key, Outcome.DUPLICATE if has_more else Outcome.WRONG, words)


def _members(trades: Trades) -> dict[Key, frozenset[int]]:
    """Return the trade ids that belong in each candle."""
    found: dict[Key, set[int]] = defaultdict(set)
    for (symbol, trade_id), trade in trades.items():
        for interval, seconds in INTERVAL_SECONDS.items():
            start = oracle.millis(trade) // 1_000 // seconds * seconds
            found[symbol, interval, datetime.fromtimestamp(start, UTC)].add(trade_id)
    return {key: frozenset(ids) for key, ids in found.items()}


def read_candles(connection: Any) -> dict[Key, Stored]:
    """Read every row of ``candles``; ``connection`` is psycopg2's."""
    candles = oracle.stored_candles(connection)
    with connection.cursor() as cursor:
        cursor.execute("SELECT symbol, interval, open_time, held_ids(candles)::text FROM candles")
        return {
            key: Stored(candles[key], _ids_in(text))
            for symbol, interval, open_time, text in cursor.fetchall()
            for key in [(symbol, interval, open_time.astimezone(UTC))]
        }


def _ids_in(multirange: str) -> frozenset[int]:
    ranges = re.findall(r"\[(\d+),(\d+)\)", multirange)
    return frozenset(one for lower, upper in ranges for one in range(int(lower), int(upper)))


def gaps_in(trades: Trades) -> dict[str, int]:
    """Return how many ids are missing between the first and the last, by symbol."""
    ids: dict[str, list[int]] = defaultdict(list)
    for symbol, trade_id in trades:
        ids[symbol].append(trade_id)
    return {symbol: max(of_it) - min(of_it) + 1 - len(of_it) for symbol, of_it in ids.items()}


@dataclass
class Report:
    """The faults of one test and its results."""

    name: str
    feed: str
    faults: Counter[str] = field(default_factory=Counter)
    plan: str = ""
    """The schedule of faults, with the seed that repeats it."""
    records: int = 0
    """Number of records in the topic."""
    trades: int = 0
    """Number of different trades in the topic."""
    lost_by_producer: int = 0
    verdicts: Sequence[Verdict] = ()
    complaints: list[str] = field(default_factory=list)
    """Other errors."""
    ended: Sequence[str] = ()
    """Programs that ended unexpectedly and were restarted."""

    @property
    def outcomes(self) -> Counter[Outcome]:
        return Counter(one.outcome for one in self.verdicts)

    @property
    def is_exact(self) -> bool:
        return bool(self.verdicts) and self.outcomes.keys() <= {Outcome.OK} and not self.complaints

    def judge(self, verdicts: Sequence[Verdict], in_topic: Trades, had: Trades) -> None:
        """Record the verdicts and count the lost trades. ``had``: all trades of the exchange."""
        self.verdicts = verdicts
        self.trades = len(in_topic)
        self.lost_by_producer = len(had.keys() - in_topic.keys())
        missing = sum(gaps_in(in_topic).values())
        if missing != self.lost_by_producer:
            self.complaints.append(
                f"the topic has gaps of {missing} ids, but lacks {self.lost_by_producer} exchange trades"
            )

    def check_counts(
        self, counts: Mapping[str, int], refused: Mapping[str, int] = NONE, *, is_topic_whole: bool = True
    ) -> None:
        """Check the counts in PostgreSQL: every record of the topic counted once, each trade merged once.

        ``refused``: the expected number of rejected records by reason. If the topic was lost
        (``is_topic_whole`` is False), the counts are only compared with each other.
        """
        refusals = sum(refused.values())
        merged = counts["merged"] + counts.get("duplicate", 0) + refusals
        records = self.records if is_topic_whole else merged
        due = {"received": records, "merged": self.trades, "duplicate": records - self.trades - refusals}
        due |= {f"rejected: {reason}": count for reason, count in refused.items()}
        due |= {name: 0 for name in counts if name.startswith("rejected") and name not in due}
        for name, count in due.items():
            if counts.get(name, 0) != count:
                self.complaints.append(f"count of {name} is {counts.get(name, 0)}, expected {count}")

    def check_refused(self, expected: Iterable[object], found: Iterable[object]) -> None:
        """Check that the dead-letter topic has each expected record once and no other."""
        due, rejected = Counter(expected), Counter(found)
        self.complaints += [f"missing in the dead-letter topic: {one}" for one in due - rejected]
        self.complaints += [f"unexpected in the dead-letter topic: {one}" for one in rejected - due]

    def check_producer(self, said: str) -> None:
        """Check the counts of the producer's last log line: received = published + duplicate + rejected."""
        totals = re.findall(r"stopped: (received .*)", said)
        if not totals:
            self.complaints.append("the producer logged no totals")
            return
        counts = {
            name: int(count.replace(",", "")) for name, count in re.findall(r"(\w+) ([\d,]*\d)", totals[-1])
        }
        done = sum(counts[name] for name in ("published", "duplicate", "rejected"))
        if counts["in_flight"] or counts["received"] != done:
            self.complaints.append(f"the producer's totals do not add up: {totals[-1]}")

    def words(self) -> str:
        """Describe all errors, and how to repeat the test."""
        bad = [one for one in self.verdicts if one.outcome is not Outcome.OK]
        table = Table("symbol", "interval", "opens at", "verdict", "stage", "what", title=self.name)
        for one in bad[:_SHOWN]:
            symbol, interval, open_time = one.key
            table.add_row(
                symbol, interval, f"{open_time:%F %T}", one.outcome, one.stage or "", one.words[:200]
            )
        more = f"... and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        return "\n".join(one for one in (self.plan, drawn(table), more, *self.complaints, *self.ended) if one)


def tables(reports: Iterable[Report]) -> str:
    """Return a table of the verdicts of each test, and the number of faults of each kind."""
    reports = list(reports)
    table = Table("test", "input", "trades", "candles", *Outcome, "gaps", "verdict", title="Faults")
    done: Counter[str] = Counter()
    for one in reports:
        counts = [str(one.outcomes[outcome]) for outcome in Outcome]
        verdict = "exact" if one.is_exact else "NOT EXACT" if one.verdicts else "no verdict"
        table.add_row(
            one.name, one.feed, f"{one.trades:,}", str(len(one.verdicts)), *counts,
            f"{one.lost_by_producer}", verdict,
        )  # fmt: skip
        done.update(one.faults)
    sums = Table("fault", "times")
    for fault, count in sorted((+done).items()):
        sums.add_row(fault, str(count))
    note = "gaps: trades lost before Kafka; their candles are marked as incomplete"
    kills = sum(count for fault, count in done.items() if fault.startswith(KILLS))
    total = f"{done.total()} faults, {kills} of them kills"
    return f"{drawn(table)}\n{note}\n{total}\n{drawn(sums)}"


def drawn(table: Table) -> str:
    """Render the table as text."""
    text = StringIO()
    Console(file=text, width=_WIDTH).print(table)
    return text.getvalue()


def _listed(ids: Sequence[int]) -> str:
    return f"{len(ids)} trades, ids {ids[0]} to {ids[-1]}" if ids else "the candle"


def _show(candle: OracleCandle, name: str) -> str:
    value = getattr(candle, name)
    return f"{float(value):.16g}" if isinstance(value, Fraction) else str(value)
