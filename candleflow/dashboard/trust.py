"""How far what is shown can be trusted: from facts to the items of the strip. Pure: time is an argument.

What isn't known is said to be unknown. A heartbeat that is old, or that was never there, tells nothing: not
that all was well when it was written.
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
"""Each process tells of itself once a second. Two busy cores have made one late by some seconds, so one that
has missed five is silent."""
AHEAD_SECONDS: Final = 2.0
"""A heartbeat may be younger than the moment the page began to read by a second. One further ahead bears the
time of a clock that was set since, and its age can't be told."""
FRESH_SECONDS: Final = 10.0
"""A busy symbol trades some times a second: two of the finest candles without a trade are worth a look."""
OLD_SECONDS: Final = 60.0
"""So long without a trade is a fault, unless the producer says that the exchange has sent none either."""
QUICK_P50_MS: Final = 1_000.0
QUICK_P99_MS: Final = 2_000.0
"""At 2,000 trades a second on two busy cores p50 is 0.3 s and p99 0.5 s: several times that is slow."""
SLOW_P50_MS: Final = 5_000.0
"""As long as the finest candle: it is over before half of its trades are in it."""
IN_FLIGHT_RECORDS: Final = 10
"""So many may be on their way at the moment of asking, however few come."""
SHORT_LAG_SECONDS: Final = 5.0
LONG_LAG_SECONDS: Final = 60.0
"""What waits, by the pace of the last minute: five seconds are a batch or two that took long, and a minute is
a backlog."""
QUIET_SECONDS: Final = 180.0
"""The producer asks once a minute for symbols that are silent: an answer that was missed twice is none."""
COMPARED_SECONDS: Final = 180.0
"""The auditor compares once a minute: a comparison that was missed twice is none."""

UNKNOWN: Final = "unknown"
_DIFFERING: Final = ("different", "missing", "extra")


class State(StrEnum):
    """What an item's sign shows, the gravest first."""

    BAD = "bad"
    WARN = "warn"
    UNKNOWN = UNKNOWN
    GOOD = "good"


Row = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Item:
    """One item of the strip, and what it opens to."""

    name: str
    label: str
    value: str
    state: State
    why: str
    """Why it is in that state, in a sentence."""
    meaning: str
    """What the item tells, in a sentence."""
    rows: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known. Times in microseconds since the epoch."""

    symbol: str
    now: int
    is_followed: bool = True
    """Whether the settings name the symbol."""
    is_store_away: bool = False
    last_trade_time: int | None = None
    candles: Sequence[StoredCandle] = ()
    """Those shown."""
    gaps: OpenGaps | None = None
    """The holes among them; None where there are none, or where they could not be read."""
    heartbeats: Mapping[str, Heartbeat | None] = field(default_factory=dict)
    """By the name of each process that should run."""
    scores: Scores | None = None
    """Of the symbol's forecasts; None where there are none."""
    is_simulated: bool = False


def items(facts: Facts) -> list[Item]:
    """The strip's items, always in the same order; the last only where there are forecasts."""
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
    """The items as JSON has them, by name."""
    return {
        item.name: asdict(item) | {"state": str(item.state), "rows": [list(row) for row in item.rows]}
        for item in found
    }


# What a process says ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Status:
    """A process as it can be status now: ``counts`` are None where it can't, and ``why`` says why."""

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
        why = f"There is no heartbeat of the {name} here: it does not run, or has another data folder."
        return _Status(name, None, State.UNKNOWN, UNKNOWN, why)
    age = facts.now / SECOND_US - beat.beaten_at
    if age < -AHEAD_SECONDS:
        ahead = words.span(int(-age))
        why = f"The {name}'s heartbeat is dated {ahead} ahead of this machine's clock: its age can't be told."
        return _Status(name, None, State.UNKNOWN, UNKNOWN, why, beat)
    if age > SILENT_SECONDS:
        why = f"The {name} has not been status for {words.span(int(age))}: it stands still, or was killed."
        return _Status(name, None, State.BAD, "silent", why, beat)
    state = State.GOOD if beat.state == "running" else State.WARN
    why = f"The {name} is {beat.state}" + (f": {beat.message}" if beat.message else "") + "."
    return _Status(name, beat.counts, state, beat.state, why, beat)


def _producers(facts: Facts) -> Mapping[Shard, str]:
    """By its shard, the name of each producer that should run."""
    named = ((Shard.named(name, PRODUCER), name) for name in facts.heartbeats)
    return {shard: name for shard, name in named if shard is not None}


def _producer_of(facts: Facts) -> str:
    """The name of the producer that the symbol falls to."""
    return next((name for shard, name in _producers(facts).items() if shard.owns(facts.symbol)), PRODUCER)


# The items --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Kind:
    """What an item is, whatever its state."""

    name: str
    label: str
    meaning: str

    def item(self, state: State, value: str, why: str, rows: Sequence[Row] = ()) -> Item:
        return Item(self.name, self.label, value, state, why, self.meaning, rows)

    def unknown(self, why: str, rows: Sequence[Row] = ()) -> Item:
        return self.item(State.UNKNOWN, UNKNOWN, why, rows)


_STORE_AWAY: Final = "PostgreSQL does not answer, so what is stored can't be told."

_LAST_TRADE: Final = _Kind(
    "age",
    "Last trade",
    "How old the symbol's newest stored trade is: the exchange's time of it against this machine's clock.",
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
        why = f"It is dated {words.age(last, facts.now)}: one of the clocks is wrong, and its age unknown."
        return _LAST_TRADE.item(State.UNKNOWN, "in the future", why, rows)
    state, why = _freshness(facts, last, seconds)
    return _LAST_TRADE.item(state, words.age(last, facts.now), why, rows)


def _freshness(facts: Facts, last: int, seconds: float) -> tuple[State, str]:
    if seconds <= FRESH_SECONDS:
        return State.GOOD, "Trades are coming in."
    if not facts.is_followed:
        return State.UNKNOWN, f"{facts.symbol} is not followed: no new trade is to be expected."
    producer = _status_of(facts, _producer_of(facts))
    newest = _newest_at_producer(facts.symbol, producer)
    if newest is not None and newest - last > FRESH_SECONDS * SECOND_US:
        return State.BAD, f"The producer had a trade at {words.utc(newest)}, and it is in no candle yet."
    if (answer := _answer(facts, producer)) is not None:
        return answer
    if newest is not None and producer.counts is not None and producer.counts.get("connected"):
        return State.WARN, "The producer is connected, and has had none since: the market is quiet."
    state = State.WARN if seconds <= OLD_SECONDS else State.BAD
    if producer.counts is None:
        return state, producer.why
    return state, f"The producer has had no trade of {facts.symbol} since its start, or is not connected."


def _answer(facts: Facts, producer: _Status) -> tuple[State, str] | None:
    """What the exchange said when it was asked for newer trades, if that is still good for something."""
    if producer.counts is None or producer.beat is None:
        return None
    if behind := producer.of("behind", facts.symbol):
        newer = _counted(behind, "newer trade")
        return State.BAD, f"The exchange had {newer} that the stream did not bring: they are fetched."
    asked = producer.of("quiet_s", facts.symbol)
    age = None if asked is None else asked + facts.now / SECOND_US - producer.beat.beaten_at
    if age is None or age > QUIET_SECONDS:
        return None
    ago = words.span(max(0, int(age)))
    return State.GOOD, f"The market is quiet: the exchange has no newer trade, asked {ago} ago."


def _newest_at_producer(symbol: str, producer: _Status) -> int | None:
    """When the last trade was that the producer has had, if it has."""
    age = producer.of("age_s", symbol)
    if age is None or producer.beat is None:
        return None
    return round((producer.beat.beaten_at - age) * SECOND_US)


_LATENCY: Final = _Kind(
    "latency",
    "Trade to row",
    "From the exchange's time of a trade to its being in a stored candle: half of the last minute's trades "
    "were as quick as the first figure (p50), 99 of 100 as the second (p99).",
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
        ("A batch takes (p50)", _milliseconds(processor.counts.get("batch_ms_p50"))),
    )
    state, why = _quickness(p50, p99)
    return _LATENCY.item(state, _both(p50, p99), why, rows)


def _quickness(p50: float, p99: float) -> tuple[State, str]:
    if p50 < 0:
        return (
            State.UNKNOWN,
            "This machine's clock is behind the exchange's: how long it takes can't be told.",
        )
    if p50 > SLOW_P50_MS:
        return (
            State.BAD,
            "A candle is over before half of its trades are in it: a backlog, or too little power.",
        )
    if p50 > QUICK_P50_MS or p99 > QUICK_P99_MS:
        return State.WARN, "Slower than usual: at 2,000 trades a second p99 is half a second."
    return State.GOOD, "As quick as it should be."


def _milliseconds(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    if abs(value) < 1_000:
        return f"{value:.0f} ms".replace("-", words.MINUS)
    sign = words.MINUS if value < 0 else ""
    seconds = abs(value) / 1_000
    return f"{sign}{seconds:.1f} s" if seconds < 60 else f"{sign}{words.span(int(seconds))}"


def _both(p50: float, p99: float) -> str:
    """Two latencies, in one unit if they share it."""
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
    "Records that are in Kafka and not yet in candles, of all symbols.",
)


def _lag(facts: Facts) -> Item:
    processor = _status_of(facts, "processor")
    if processor.counts is None:
        return _LAG.unknown(processor.why)
    lag = processor.counts.get("lag")
    if lag is None:
        return _LAG.unknown("Kafka has not told the processor where the topic ends.")
    pace = processor.counts.get("merged_per_s")
    rows = (
        ("Waiting", _counted(lag, "record")),
        ("Pace of the last minute", UNKNOWN if pace is None else f"{pace:,.1f} trades a second"),
        ("Restarts of the query", f"{processor.counts.get('restarts', 0):,.0f}"),
    )
    state, why = _backlog(lag, pace or 0.0)
    return _LAG.item(state, _counted(lag, "record"), why, rows)


def _backlog(lag: float, pace: float) -> tuple[State, str]:
    if lag <= max(IN_FLIGHT_RECORDS, pace * SHORT_LAG_SECONDS):
        return State.GOOD, "What is in Kafka is in candles, but for what is on its way."
    if not pace:
        return State.BAD, "Records wait, and none was merged within the last minute."
    why = f"At the last minute's pace this takes {words.span(int(lag / pace))} to read."
    return (State.WARN if lag <= pace * LONG_LAG_SECONDS else State.BAD), why


_COMPLETENESS: Final = _Kind(
    "complete",
    "Complete",
    "Trade ids are consecutive: a candle is complete when none is missing in it, or between it and the one "
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
        why = "Trades are missing, and the candles that lack them are hatched."
        value = "1 trade missing" if missing == 1 else f"{missing:,} trades missing"
        return _COMPLETENESS.item(State.BAD, value, why, rows)
    if incomplete:
        why = "No trade is missing among the candles shown; what came before the first of them is not known."
        return _COMPLETENESS.item(State.WARN, value, why, rows)
    first, last = facts.candles[0].first_trade_id, facts.candles[-1].last_trade_id
    why = f"Every trade from id {first} to {last} is in its candle."
    return _COMPLETENESS.item(State.GOOD, value, why, rows)


_COMMANDS: Final = (
    ("Why they are missing", "python -m candleflow gaps"),
    ("What the exchange has", "python -m candleflow verify"),
    ("To have them fetched", "python -m candleflow repair"),
)


def _gap_rows(facts: Facts, missing: int) -> list[Row]:
    wanted = _missing_on_record(facts)
    on_record = ("On the producer's record", UNKNOWN if wanted is None else _counted(wanted, "trade"))
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
    """Of all shards together; None where one of them can't be status."""
    told = [_status_of(facts, name).counts for name in _producers(facts).values()]
    missing = [None if counts is None else counts.get("missing") for counts in told]
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
    "The auditor holds the last ten minutes' candles against the klines that the exchange itself publishes, "
    "in nine fields.",
)


def _agreement(facts: Facts) -> Item:
    audit = _status_of(facts, "audit")
    if audit.counts is None:
        return _AGREEMENT.unknown(audit.why)
    age = audit.of("compared_age_s", facts.symbol)
    if age is None:
        return _AGREEMENT.unknown(f"{facts.symbol} has not been compared, or the exchange did not answer.")
    ages = ("Compared", f"{words.span(int(age))} ago")
    if age > COMPARED_SECONDS:
        return _AGREEMENT.unknown("The last comparison is too old to tell anything.", (ages,))
    found = {name: round(audit.of(name, facts.symbol) or 0) for name in _VERDICTS}
    rows = tuple((told, f"{found[name]:,}") for name, told in _VERDICTS.items() if found[name])
    rows = (*rows, ages, ("Put right so far, all symbols", f"{audit.counts.get('repaired', 0):,.0f}"))
    differing = sum(found[name] for name in _DIFFERING)
    if differing:
        why = "Ours is not what the exchange publishes: python -m candleflow verify names the fields."
        value = f"{differing:,} differ" if differing > 1 else "1 differs"
        return _AGREEMENT.item(State.BAD, value, why, rows)
    if found["incomplete"]:
        why = "Where ours are incomplete they have less than the exchange's, as our own trade ids say."
        return _AGREEMENT.item(State.WARN, f"{found['incomplete']:,} incomplete", why, rows)
    if not found["equal"]:
        return _AGREEMENT.unknown("None of the last ten minutes' candles could be compared.", rows)
    return _AGREEMENT.item(State.GOOD, f"{found['equal']:,} equal", "All are equal.", rows)


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
    "Each process tells of itself once a second, by a file in the data folder. PostgreSQL is asked by the "
    "page.",
)


def _processes(facts: Facts) -> Item:
    status = [_status_of(facts, name) for name in facts.heartbeats]
    rows = [(one.name, _process_row(one)) for one in status]
    rows.append(("PostgreSQL", "does not answer" if facts.is_store_away else "answers"))
    if facts.is_store_away:
        status.append(_Status("PostgreSQL", None, State.BAD, "away", "PostgreSQL does not answer."))
    elif all(one.beat is None for one in status):
        return _PROCESSES.unknown("No process has told of itself in this page's data folder.", rows)
    gravest = list(State).index
    others = sorted(
        (one for one in status if one.state is not State.GOOD), key=lambda one: gravest(one.state)
    )
    if not others:
        return _PROCESSES.item(State.GOOD, "all running", "Each runs, and was status just now.", rows)
    worst = others[0]
    alike = sum(one.word == worst.word for one in others)
    value = f"{worst.name if alike == 1 else alike} {worst.word}"
    return _PROCESSES.item(worst.state, value, worst.why, rows)


def _process_row(status: _Status) -> str:
    beat = status.beat
    if beat is None or status.counts is None:
        return "no heartbeat" if beat is None else f"{status.word}, last heard at {_moment(beat.beaten_at)}"
    since = f", since {_moment(beat.started_at)}" if beat.started_at else ""
    return f"{beat.state}{since}" + (f": {beat.message}" if beat.message else "")


def _moment(seconds: float) -> str:
    return words.utc(round(seconds * SECOND_US))


def _counted(count: float, noun: str) -> str:
    return f"{count:,.0f} {noun}" + ("" if count == 1 else "s")


_FORECAST: Final = _Kind(
    "forecast",
    "Forecast",
    "What the forecasts of this symbol's next closes were worth, each made before its candle began and held "
    "against the plainest: that the price stays where it was.",
)


def _forecast(scores: Scores, *, is_simulated: bool) -> Item:
    """Grey until there is skill: none is known. A forecast without skill is no fault, and no good sign."""
    state = State.GOOD if scores.has_skill else State.UNKNOWN
    if scores.has_skill and not scores.is_covered:
        state = State.WARN
    why = ". ".join(forecast_words.sentences(scores)) + "."
    rows = tuple(
        (name, f"{value} against {beside}" if beside else value)
        for name, value, beside in forecast_words.table(scores)
    )
    return _FORECAST.item(state, scores.verdict, f"Of a made-up market. {why}" if is_simulated else why, rows)
