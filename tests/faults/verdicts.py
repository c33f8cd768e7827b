"""The judgement after the faults: each candle in the table against an oracle of the trades themselves.

The oracle (``tests/oracle.py``) is plain Python and shares no code with ours. What is wrong is told with the
stage where it arose: a trade that is in no record of the topic was lost by the producer, one that is in the
topic and not in its candle by the processor.
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
"""Faults whose names begin so gave a process no time to see to anything."""
_WIDTH: Final = 150
_SHOWN: Final = 40
_VOLUMES: Final = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume", "trade_count")


class Outcome(StrEnum):
    """What a candle is."""

    OK = "ok"
    MISSING = "missing"
    """The candle, or a trade of it."""
    DUPLICATE = "duplicate"
    """It holds the right trades, and some of them more than once."""
    WRONG = "wrong"
    """It holds the right trades once, and a field is not what they make."""
    EXTRA = "extra"
    """The candle, or a trade in it that the oracle has not."""


class Stage(StrEnum):
    """Where a trade was lost."""

    PRODUCER = "producer: never in the topic"
    PROCESSOR = "processor: in the topic, not in the candle"


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of the table, and the ids that it says it holds."""

    candle: OracleCandle
    trade_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one candle."""

    key: Key
    outcome: Outcome
    words: str = ""
    stage: Stage | None = None


def compare(expected: Trades, in_topic: Trades, found: Mapping[Key, Stored]) -> list[Verdict]:
    """A verdict for each candle that is in the table or should be, in the order of their keys."""
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
        return Verdict(key, Outcome.MISSING, _told(by_processor or lost), stage)
    if held - ids:
        return Verdict(key, Outcome.EXTRA, _told(sorted(held - ids)))
    wrong = [name for name in FIELDS if getattr(found.candle, name) != getattr(candle, name)]
    if not wrong:
        return Verdict(key, Outcome.OK)
    has_more = any(getattr(found.candle, name) > getattr(candle, name) for name in _VOLUMES if name in wrong)
    words = "; ".join(f"{name} {_show(found.candle, name)}, not {_show(candle, name)}" for name in wrong)
    return Verdict(key, Outcome.DUPLICATE if has_more else Outcome.WRONG, words)


def _members(trades: Trades) -> dict[Key, frozenset[int]]:
    """The trade ids that belong in each candle."""
    found: dict[Key, set[int]] = defaultdict(set)
    for (symbol, trade_id), trade in trades.items():
        for interval, seconds in INTERVAL_SECONDS.items():
            start = oracle.millis(trade) // 1_000 // seconds * seconds
            found[symbol, interval, datetime.fromtimestamp(start, UTC)].add(trade_id)
    return {key: frozenset(ids) for key, ids in found.items()}


def read_candles(connection: Any) -> dict[Key, Stored]:
    """Every row of ``candles``; ``connection`` is psycopg2's."""
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


def holes_in(trades: Trades) -> dict[str, int]:
    """How many ids are missing between the first and the last of each symbol."""
    ids: dict[str, list[int]] = defaultdict(list)
    for symbol, trade_id in trades:
        ids[symbol].append(trade_id)
    return {symbol: max(of_it) - min(of_it) + 1 - len(of_it) for symbol, of_it in ids.items()}


@dataclass
class Report:
    """What one test did to a pipeline, and what came of it."""

    name: str
    feed: str
    faults: Counter[str] = field(default_factory=Counter)
    plan: str = ""
    """The schedule, with the seed that makes it again."""
    records: int = 0
    """In the topic."""
    trades: int = 0
    """Different ones in the topic."""
    lost_by_producer: int = 0
    verdicts: Sequence[Verdict] = ()
    complaints: list[str] = field(default_factory=list)
    """What else is wrong."""
    ended: Sequence[str] = ()
    """Programs that ended unasked, and were started again as the supervisor would."""

    @property
    def outcomes(self) -> Counter[Outcome]:
        return Counter(one.outcome for one in self.verdicts)

    @property
    def is_exact(self) -> bool:
        return bool(self.verdicts) and self.outcomes.keys() <= {Outcome.OK} and not self.complaints

    def judge(self, verdicts: Sequence[Verdict], in_topic: Trades, had: Trades) -> None:
        """``had``: all that the exchange had to give."""
        self.verdicts = verdicts
        self.trades = len(in_topic)
        self.lost_by_producer = len(had.keys() - in_topic.keys())
        holes = sum(holes_in(in_topic).values())
        if holes != self.lost_by_producer:
            self.complaints.append(
                f"{holes} ids are missing in the topic, {self.lost_by_producer} of the exchange's trades are"
            )

    def check_books(
        self, counts: Mapping[str, int], refused: Mapping[str, int] = NONE, *, is_topic_whole: bool = True
    ) -> None:
        """The counts in PostgreSQL against the topic: every record once, and each trade merged once.

        ``refused``: how many records must be, by the reason. Where the topic was lost and what is left was
        read again, only against one another.
        """
        refusals = sum(refused.values())
        merged = counts["merged"] + counts.get("duplicate", 0) + refusals
        records = self.records if is_topic_whole else merged
        due = {"received": records, "merged": self.trades, "duplicate": records - self.trades - refusals}
        due |= {f"rejected: {reason}": count for reason, count in refused.items()}
        due |= {name: 0 for name in counts if name.startswith("rejected") and name not in due}
        for name, count in due.items():
            if counts.get(name, 0) != count:
                self.complaints.append(f"{name} says {counts.get(name, 0)}, and it is {count}")

    def check_refused(self, expected: Iterable[object], found: Iterable[object]) -> None:
        """Each refused record is put aside once, as it must be, and nothing else is."""
        due, aside = Counter(expected), Counter(found)
        self.complaints += [f"not put aside: {one}" for one in due - aside]
        self.complaints += [f"put aside, and should not be: {one}" for one in aside - due]

    def check_producer(self, said: str) -> None:
        """The counts that the producer says last: received = published + duplicate + rejected."""
        told = re.findall(r"stopped: (received .*)", said)
        if not told:
            self.complaints.append("the producer did not say what it did")
            return
        counts = {
            name: int(count.replace(",", "")) for name, count in re.findall(r"(\w+) ([\d,]*\d)", told[-1])
        }
        done = sum(counts[name] for name in ("published", "duplicate", "rejected"))
        if counts["in_flight"] or counts["received"] != done:
            self.complaints.append(f"the producer's books do not balance: {told[-1]}")

    def words(self) -> str:
        """What is wrong, and how to see it again."""
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
    """The verdicts of each test, and the sum of all that was done."""
    reports = list(reports)
    table = Table("test", "input", "trades", "candles", *Outcome, "holes", "judgement", title="Faults")
    done: Counter[str] = Counter()
    for one in reports:
        counts = [str(one.outcomes[outcome]) for outcome in Outcome]
        judgement = "exact" if one.is_exact else "NOT EXACT" if one.verdicts else "not judged"
        table.add_row(
            one.name, one.feed, f"{one.trades:,}", str(len(one.verdicts)), *counts,
            f"{one.lost_by_producer}", judgement,
        )  # fmt: skip
        done.update(one.faults)
    sums = Table("done", "times")
    for fault, count in sorted((+done).items()):
        sums.add_row(fault, str(count))
    note = "holes: trades lost before Kafka, each marked in the table as an incomplete candle"
    kills = sum(count for fault, count in done.items() if fault.startswith(KILLS))
    total = f"{done.total()} faults, {kills} of them kills"
    return f"{drawn(table)}\n{note}\n{total}\n{drawn(sums)}"


def drawn(table: Table) -> str:
    """The table as text."""
    text = StringIO()
    Console(file=text, width=_WIDTH).print(table)
    return text.getvalue()


def _told(ids: Sequence[int]) -> str:
    return f"{len(ids)} trades, ids {ids[0]} to {ids[-1]}" if ids else "the candle"


def _show(candle: OracleCandle, name: str) -> str:
    value = getattr(candle, name)
    return f"{float(value):.16g}" if isinstance(value, Fraction) else str(value)
