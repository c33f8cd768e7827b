"""The items of the trust strip: freshness, latency, lag, completeness and health. Pure: time is an argument.

A value without fresh evidence is shown as unknown. A stale or absent heartbeat never counts as good, whatever
it said when it was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

from candleflow.dashboard import words
from candleflow.forecast import words as forecast_words
from candleflow.forecast.scores import Scores
from candleflow.market.shard import PRODUCER, Shard
from candleflow.market.stored import OpenGap, OpenGaps, StoredCandle
from candleflow.market.window import SECOND_US
from candleflow.telemetry import Heartbeat

SILENT_SECONDS: Final = 5.0
"""A heartbeat older than this means that the process is silent. Processes write one each second; on two busy
cores some came several seconds late."""
AHEAD_SECONDS: Final = 2.0
"""Tolerance for a heartbeat dated in the future. A heartbeat written while the page reads may be 1 s ahead;
beyond 2 s the clock was changed, and the heartbeat's age is unknown."""
FRESH_SECONDS: Final = 10.0
"""Up to this age the last trade is good: two of the shortest candles. A busy symbol trades several times a
second."""
OLD_SECONDS: Final = 60.0
"""Beyond this age the last trade is bad, unless the producer knows that the exchange has no newer one."""
QUICK_P50_MS: Final = 1_000.0
QUICK_P99_MS: Final = 2_000.0
"""Latency above either limit is a warning. At 2,000 trades/s on two busy cores p50 is 0.3 s and p99 0.5 s."""
SLOW_P50_MS: Final = 5_000.0
"""A p50 above this is bad: the shortest candle (5 s) closes before half of its trades are stored."""
IN_FLIGHT_RECORDS: Final = 10
"""A lag up to this is always good: some records are in flight at any moment, even in a quiet market."""
SHORT_LAG_SECONDS: Final = 5.0
LONG_LAG_SECONDS: Final = 60.0
"""Lag limits, as seconds of work at the last minute's rate. 5 s is one or two slow batches; more than 60 s is
bad."""
QUIET_SECONDS: Final = 180.0
"""How long the exchange's answer "no newer trade" stays valid. The producer asks once a minute for each quiet
symbol; after two missed answers the page ignores the last one."""
COMPARED_SECONDS: Final = 180.0
"""How long a comparison with the exchange's klines stays valid: the auditor compares once a minute."""

UNKNOWN: Final = "unknown"
_DIFFERING: Final = ("different", "missing", "extra")


class State(StrEnum):
    """The state that an item's icon shows, the most severe first."""

    BAD = "bad"
    WARN = "warn"
    UNKNOWN = UNKNOWN
    GOOD = "good"


Row = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Item:
    """One item of the strip, and the details that a click on it opens."""

    name: str
    label: str
    value: str
    state: State
    why: str
    """The reason for the state, in a sentence."""
    meaning: str
    """What the item measures, in a sentence."""
    rows: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """The inputs of the strip. Times in microseconds since the epoch."""

    symbol: str
    now: int
    is_followed: bool = True
    """Whether the settings name the symbol."""
    is_store_away: bool = False
    last_trade_time: int | None = None
    candles: Sequence[StoredCandle] = ()
    """The candles shown."""
    gaps: OpenGaps | None = None
    """The gaps among them; None if there are none, or if they could not be read."""
    heartbeats: Mapping[str, Heartbeat | None] = field(default_factory=dict)
    """The last heartbeat of each process that should run, by its name; None if there is none."""
    scores: Scores | None = None
    """Of the symbol's forecasts; None if nothing was scored."""
    is_simulated: bool = False


def items(facts: Facts) -> list[Item]:
    """Return the strip's items, always in the same order. The forecast comes last, if any was scored."""
    return [
        _last_trade(facts),
        _latency(facts),
        _lag(facts),
        _completeness(facts),
        _agreement(facts),
        _processes(facts),
        *([] if facts.scores is None else [_forecast(facts.scores, is_simulated=facts.is_simulated)]),
    ]


def as_json(found: Sequence[Item]) -> dict[str, Any]:
    """Return the items by name, as plain JSON."""
    return {
        item.name: asdict(item) | {"state": str(item.state), "rows": [list(row) for row in item.rows]}
        for item in found
    }


# The status of a process ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Status:
    """A process's status by its last heartbeat. ``counts`` is None if that is absent, stale or misdated."""

    name: str
    counts: Mapping[str, int | float] | None
    state: State
    word: str
    why: str
    beat: Heartbeat | None = None

    def of(self, count: str, symbol: str) -> float | None:
        return None if self.counts is None or self.beat is None else self.beat.of(count, symbol)


def _status_of(facts: Facts, name: str) -> _Status:
    beat = facts.heartbeats.get(name)
    if beat is None:
        why = f"There is no heartbeat of the {name} here: it is not running, or uses another data folder."
        return _Status(name, None, State.UNKNOWN, UNKNOWN, why)
    age = facts.now / SECOND_US - beat.beaten_at
    if age < -AHEAD_SECONDS:
        ahead = words.span(int(-age))
        why = f"The {name}'s heartbeat is dated {ahead} ahead of this machine's clock: its age is unknown."
        return _Status(name, None, State.UNKNOWN, UNKNOWN, why, beat)
    if age > SILENT_SECONDS:
        why = f"The {name} has written no heartbeat for {words.span(int(age))}: it hangs, or was killed."
        return _Status(name, None, State.BAD, "silent", why, beat)
    state = State.GOOD if beat.state == "running" else State.WARN
    why = f"The {name} is {beat.state}" + (f": {beat.message}" if beat.message else "") + "."
    return _Status(name, beat.counts, state, beat.state, why, beat)


def _producers(facts: Facts) -> Mapping[Shard, str]:
    """Return the name of each producer that should run, by its shard."""
    named = ((Shard.named(name, PRODUCER), name) for name in facts.heartbeats)
    return {shard: name for shard, name in named if shard is not None}


def _producer_of(facts: Facts) -> str:
    """Return the name of the producer whose shard has the symbol."""
    return next((name for shard, name in _producers(facts).items() if shard.owns(facts.symbol)), PRODUCER)


def progress(facts: Facts) -> str:
    """Return what a page without a trade waits for, by the heartbeats of producers and processor."""
    found = [_status_of(facts, name) for name in (*_producers(facts).values(), "processor")]
    published = sum(one.counts.get("published", 0) for one in found if one.counts is not None)
    waiting = [f"{_counted(published, 'trade')} in Kafka so far."] if published else []
    reasons = [one.why for one in found if one.state is not State.GOOD]
    return " ".join([*waiting, *reasons, "Candles will appear here with the first stored trade."])


# The items --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Kind:
    """The fixed part of an item: its name, label and meaning."""

    name: str
    label: str
    meaning: str

    def item(self, state: State, value: str, why: str, rows: Sequence[Row] = ()) -> Item:
        return Item(self.name, self.label, value, state, why, self.meaning, rows)

    def unknown(self, why: str, rows: Sequence[Row] = ()) -> Item:
        return self.item(State.UNKNOWN, UNKNOWN, why, rows)


_STORE_AWAY: Final = "PostgreSQL does not answer, so the stored trades can't be read."

_LAST_TRADE: Final = _Kind(
    "age",
    "Last trade",
    "Age of the symbol's newest stored trade: the exchange's trade time against this machine's clock.",
)


def _last_trade(facts: Facts) -> Item:
    if facts.is_store_away:
        return _LAST_TRADE.unknown(_STORE_AWAY)
    last = facts.last_trade_time
    if last is None:
        return _LAST_TRADE.unknown(f"No trade of {facts.symbol} is stored.")
    rows: tuple[Row, ...] = (("Time of the trade", words.utc(last)),)
    seconds = (facts.now - last) / SECOND_US
    if seconds < -AHEAD_SECONDS:
        why = f"It is dated {words.age(last, facts.now)}: one of the clocks is wrong, so its age is unknown."
        return _LAST_TRADE.item(State.UNKNOWN, "in the future", why, rows)
    state, why = _freshness(facts, last, seconds)
    return _LAST_TRADE.item(state, words.age(last, facts.now), why, rows)


def _freshness(facts: Facts, last: int, seconds: float) -> tuple[State, str]:
    if seconds <= FRESH_SECONDS:
        return State.GOOD, "Trades are coming in."
    if not facts.is_followed:
        return State.UNKNOWN, f"{facts.symbol} is not followed, so no new trades are collected."
    producer = _status_of(facts, _producer_of(facts))
    newest = _newest_at_producer(facts.symbol, producer)
    if newest is not None and newest - last > FRESH_SECONDS * SECOND_US:
        return State.BAD, f"The producer received a trade of {words.utc(newest)}, which is in no candle yet."
    if (answer := _answer(facts, producer)) is not None:
        return answer
    if newest is not None and producer.counts is not None and producer.counts.get("connected"):
        return State.WARN, "The producer is connected and has received no newer trade: the market is quiet."
    state = State.WARN if seconds <= OLD_SECONDS else State.BAD
    if producer.counts is None:
        return state, producer.why
    return (
        state,
        f"The producer is not connected, or has received no trade of {facts.symbol} since it started.",
    )


def _answer(facts: Facts, producer: _Status) -> tuple[State, str] | None:
    """Return the state by the exchange's last answer about newer trades; None if that is too old."""
    if producer.counts is None or producer.beat is None:
        return None
    if behind := producer.of("behind", facts.symbol):
        newer = _counted(behind, "newer trade")
        return (
            State.BAD,
            f"The exchange has {newer} that the stream did not deliver. The producer is fetching them.",
        )
    asked = producer.of("quiet_s", facts.symbol)
    age = None if asked is None else asked + facts.now / SECOND_US - producer.beat.beaten_at
    if age is None or age > QUIET_SECONDS:
        return None
    ago = words.span(max(0, int(age)))
    return State.GOOD, f"The market is quiet: {ago} ago the exchange had no newer trade either."


def _newest_at_producer(symbol: str, producer: _Status) -> int | None:
    """Return the time of the last trade that the producer received, in microseconds; None if unknown."""
    age = producer.of("age_s", symbol)
    if age is None or producer.beat is None:
        return None
    return round((producer.beat.beaten_at - age) * SECOND_US)


_LATENCY: Final = _Kind(
    "latency",
    "Trade to row",
    "Time from a trade at the exchange until it is in a stored candle: median (p50) and 99th percentile "
    "(p99) of the last minute's trades.",
)


def _latency(facts: Facts) -> Item:
    processor = _status_of(facts, "processor")
    if processor.counts is None:
        return _LATENCY.unknown(processor.why)
    p50, p99 = (processor.counts.get(f"latency_ms_{name}") for name in ("p50", "p99"))
    if p50 is None or p99 is None:
        return _LATENCY.unknown("The processor has merged no live trade within the last minute.")
    rows = (
        ("p50", _milliseconds(p50)),
        ("p99", _milliseconds(p99)),
        ("Trades in the last minute", f"{processor.counts.get('latency_trades', 0):,.0f}"),
        ("Batch time (p50)", _milliseconds(processor.counts.get("batch_ms_p50"))),
    )
    state, why = _quickness(p50, p99)
    return _LATENCY.item(state, _both(p50, p99), why, rows)


def _quickness(p50: float, p99: float) -> tuple[State, str]:
    if p50 < 0:
        return (
            State.UNKNOWN,
            "This machine's clock is behind the exchange's, so the latency can't be measured.",
        )
    if p50 > SLOW_P50_MS:
        return (
            State.BAD,
            "Half of the trades take over 5 s to reach a candle: a backlog, or the machine is too slow.",
        )
    if p50 > QUICK_P50_MS or p99 > QUICK_P99_MS:
        return State.WARN, "Slower than usual: at 2,000 trades/s p99 was 0.5 s on a machine with two cores."
    return State.GOOD, "Within the limits: p50 up to 1 s, p99 up to 2 s."


def _milliseconds(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    if abs(value) < 1_000:
        return f"{value:.0f} ms".replace("-", words.MINUS)
    sign = words.MINUS if value < 0 else ""
    seconds = abs(value) / 1_000
    return f"{sign}{seconds:.1f} s" if seconds < 60 else f"{sign}{words.span(int(seconds))}"


def _both(p50: float, p99: float) -> str:
    """Return two latencies as text, with one unit if they share it."""
    first, second = _milliseconds(p50), _milliseconds(p99)
    number, _, unit = first.rpartition(" ")
    return (
        f"{number} / {second}"
        if second.endswith(f" {unit}") and unit in ("ms", "s")
        else f"{first} / {second}"
    )


_LAG: Final = _Kind(
    "lag",
    "Lag",
    "Records in Kafka that are not in candles yet, over all symbols.",
)


def _lag(facts: Facts) -> Item:
    processor = _status_of(facts, "processor")
    if processor.counts is None:
        return _LAG.unknown(processor.why)
    lag = processor.counts.get("lag")
    if lag is None:
        return _LAG.unknown("The processor does not know the topic's end offsets: Kafka has not answered.")
    pace = processor.counts.get("merged_per_s")
    rows = (
        ("Waiting", _counted(lag, "record")),
        ("Rate of the last minute", UNKNOWN if pace is None else f"{pace:,.1f} trades/s"),
        ("Restarts of the query", f"{processor.counts.get('restarts', 0):,.0f}"),
    )
    state, why = _backlog(lag, pace or 0.0)
    return _LAG.item(state, _counted(lag, "record"), why, rows)


def _backlog(lag: float, pace: float) -> tuple[State, str]:
    if lag <= max(IN_FLIGHT_RECORDS, pace * SHORT_LAG_SECONDS):
        return State.GOOD, "The processor keeps up with Kafka: only the newest records are in flight."
    if not pace:
        return State.BAD, "Records are waiting, and the processor has merged none in the last minute."
    why = f"At the last minute's rate, catching up takes {words.span(int(lag / pace))}."
    return (State.WARN if lag <= pace * LONG_LAG_SECONDS else State.BAD), why


_COMPLETENESS: Final = _Kind(
    "complete",
    "Complete",
    "Trade ids are consecutive. A candle is complete if no id is missing in it, or between it and the candle "
    "before.",
)


def _completeness(facts: Facts) -> Item:
    if facts.is_store_away:
        return _COMPLETENESS.unknown(_STORE_AWAY)
    total = len(facts.candles)
    if not total:
        return _COMPLETENESS.unknown("No candle is shown.")
    incomplete = sum(not one.is_complete for one in facts.candles)
    missing = words.missing_trades(facts.candles)
    rows: list[Row] = [("Complete", f"{total - incomplete:,}"), ("Incomplete", f"{incomplete:,}")]
    rows += _gap_rows(facts, missing)
    value = f"{total - incomplete:,} of {total:,}"
    if missing:
        why = "Trades are missing. The incomplete candles are hatched in the chart."
        value = "1 trade missing" if missing == 1 else f"{missing:,} trades missing"
        return _COMPLETENESS.item(State.BAD, value, why, rows)
    if incomplete:
        why = "No trade is missing between the first and last candle shown; trades before them are unknown."
        return _COMPLETENESS.item(State.WARN, value, why, rows)
    first, last = facts.candles[0].first_trade_id, facts.candles[-1].last_trade_id
    why = f"Every trade from id {first} to {last} is counted in its candle."
    return _COMPLETENESS.item(State.GOOD, value, why, rows)


_COMMANDS: Final = (
    ("List the gaps and their reasons", "python -m candleflow gaps"),
    ("Compare with the exchange", "python -m candleflow verify"),
    ("Fetch the missing trades", "python -m candleflow repair"),
)


def _gap_rows(facts: Facts, missing: int) -> list[Row]:
    wanted = _missing_on_record(facts)
    on_record = ("In the producer's open gaps", UNKNOWN if wanted is None else _counted(wanted, "trade"))
    if not missing:
        return [("Open gaps", "0"), on_record]
    gaps = facts.gaps
    return [
        ("Open gaps", UNKNOWN if gaps is None else f"{gaps.count:,}"),
        ("Trades missing", f"{missing:,}"),
        on_record,
        *(() if gaps is None else map(_gap_row, gaps.newest)),
        *_COMMANDS,
    ]


def _missing_on_record(facts: Facts) -> float | None:
    """Return how many trades are in all producers' open gaps; None if a heartbeat is missing or stale."""
    counts_by_producer = [_status_of(facts, name).counts for name in _producers(facts).values()]
    missing = [None if counts is None else counts.get("missing") for counts in counts_by_producer]
    known = [count for count in missing if count is not None]
    return sum(known) if known and len(known) == len(missing) else None


def _gap_row(gap: OpenGap) -> Row:
    first, last = gap.first_trade_id, gap.last_trade_id
    ids = f"id {first}" if first == last else f"ids {first} to {last}"
    begin, end = words.utc(gap.after), words.utc(gap.before)
    if begin[:10] == end[:10]:
        end = end[11:]
    return f"{begin.removesuffix(' UTC')} to {end}", f"{ids}, {_counted(last - first + 1, 'trade')}"


_AGREEMENT: Final = _Kind(
    "klines",
    "Exchange's klines",
    "The auditor compares the candles of the last ten minutes with the exchange's klines, in nine fields.",
)


def _agreement(facts: Facts) -> Item:
    audit = _status_of(facts, "audit")
    if audit.counts is None:
        return _AGREEMENT.unknown(audit.why)
    age = audit.of("compared_age_s", facts.symbol)
    if age is None:
        return _AGREEMENT.unknown(
            f"{facts.symbol} has not been compared yet, or the exchange did not answer."
        )
    ages = ("Compared", f"{words.span(int(age))} ago")
    if age > COMPARED_SECONDS:
        return _AGREEMENT.unknown("The last comparison is too old: over 3 minutes.", (ages,))
    found = {name: round(audit.of(name, facts.symbol) or 0) for name in _VERDICTS}
    rows = tuple((label, f"{found[name]:,}") for name, label in _VERDICTS.items() if found[name])
    rows = (*rows, ages, ("Rebuilt so far, all symbols", f"{audit.counts.get('repaired', 0):,.0f}"))
    differing = sum(found[name] for name in _DIFFERING)
    if differing:
        why = "Candles differ from the exchange's klines. List the fields: python -m candleflow verify"
        value = f"{differing:,} differ" if differing > 1 else "1 differs"
        return _AGREEMENT.item(State.BAD, value, why, rows)
    if found["incomplete"]:
        why = "Some candles lack trades that the exchange's klines count; their missing trade ids show it."
        return _AGREEMENT.item(State.WARN, f"{found['incomplete']:,} incomplete", why, rows)
    if not found["equal"]:
        return _AGREEMENT.unknown("No candle of the last ten minutes could be compared.", rows)
    return _AGREEMENT.item(State.GOOD, f"{found['equal']:,} equal", "All compared candles are equal.", rows)


_VERDICTS: Final = {
    "equal": "Equal",
    "different": "Different",
    "missing": "Missing here",
    "extra": "Not at the exchange",
    "incomplete": "Incomplete here",
    "not comparable": "Not comparable",
}

_PROCESSES: Final = _Kind(
    "processes",
    "Processes",
    "Each process writes a heartbeat file into the data folder every second. The page itself queries "
    "PostgreSQL.",
)


def _processes(facts: Facts) -> Item:
    status = [_status_of(facts, name) for name in facts.heartbeats]
    rows = [(one.name, _process_row(one)) for one in status]
    rows.append(("PostgreSQL", "does not answer" if facts.is_store_away else "answers"))
    if facts.is_store_away:
        status.append(_Status("PostgreSQL", None, State.BAD, "away", "PostgreSQL does not answer."))
    elif all(one.beat is None for one in status):
        return _PROCESSES.unknown("There is no heartbeat in this page's data folder.", rows)
    gravest = list(State).index
    others = sorted(
        (one for one in status if one.state is not State.GOOD), key=lambda one: gravest(one.state)
    )
    if not others:
        return _PROCESSES.item(State.GOOD, "all running", "Every process reports that it is running.", rows)
    worst = others[0]
    alike = sum(one.word == worst.word for one in others)
    value = f"{worst.name if alike == 1 else alike} {worst.word}"
    return _PROCESSES.item(worst.state, value, worst.why, rows)


def _process_row(status: _Status) -> str:
    beat = status.beat
    if beat is None:
        return "no heartbeat"
    if status.counts is None:
        return f"{status.word}, last heartbeat at {_moment(beat.beaten_at)}"
    since = f", since {_moment(beat.started_at)}" if beat.started_at else ""
    return f"{beat.state}{since}" + (f": {beat.message}" if beat.message else "")


def _moment(seconds: float) -> str:
    return words.utc(round(seconds * SECOND_US))


def _counted(count: float, noun: str) -> str:
    return f"{count:,.0f} {noun}" + ("" if count == 1 else "s")


_FORECAST: Final = _Kind(
    "forecast",
    "Forecast",
    "Skill of the forecasts of this symbol's next close. Each was made before its candle opened, and is "
    "scored against the naive forecast: the price does not change.",
)


def _forecast(scores: Scores, *, is_simulated: bool) -> Item:
    """Return the forecast's item. Without skill its state is unknown: that is no fault, and no success."""
    state = State.GOOD if scores.has_skill else State.UNKNOWN
    if scores.has_skill and not scores.is_covered:
        state = State.WARN
    why = ". ".join(forecast_words.sentences(scores)) + "."
    rows = tuple(
        (name, f"{value} against {beside}" if beside else value)
        for name, value, beside in forecast_words.table(scores)
    )
    return _FORECAST.item(
        state, scores.verdict, f"Of a simulated market. {why}" if is_simulated else why, rows
    )
