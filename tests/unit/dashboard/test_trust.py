"""The trust strip's items, and that none is good without fresh evidence."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from candleflow.dashboard import trust
from candleflow.dashboard.trust import Facts, Item, State, as_json, items
from candleflow.forecast.race import COVERAGE
from candleflow.forecast.scores import Scores, Share
from candleflow.market.stored import OpenGap, OpenGaps
from candleflow.market.window import SECOND_US
from candleflow.telemetry import Heartbeat
from tests.unit.dashboard.examples import NOON, candle, candles

NAMES = ("producer", "processor", "audit")
PRODUCER = {"missing": 0, "connected": 1, "age_s": {"BTCUSDT": 0.2}}
PROCESSOR = {
    "lag": 20, "merged_per_s": 400.0, "latency_ms_p50": 212.4, "latency_ms_p99": 481.0,
    "latency_trades": 24_000, "batch_ms_p50": 180.0, "restarts": 0,
}  # fmt: skip
AUDIT = {"equal": {"BTCUSDT": 128}, "compared_age_s": {"BTCUSDT": 31.0}, "repaired": 0}


def beat(
    name: str, counts: dict[str, Any], *, age: float = 0.5, state: str = "running", message: str = ""
) -> Heartbeat:
    now = NOON / SECOND_US
    one = {count: value for count, value in counts.items() if not isinstance(value, dict)}
    by_symbol = {count: value for count, value in counts.items() if isinstance(value, dict)}
    return Heartbeat(name, 1, state, message, now - 60, now - age, one, by_symbol)


WELL = Facts(
    "BTCUSDT",
    NOON,
    last_trade_time=NOON - SECOND_US // 2,
    candles=candles(360),
    heartbeats={
        "producer": beat("producer", PRODUCER),
        "processor": beat("processor", PROCESSOR, message="trades"),
        "audit": beat("audit", AUDIT),
    },
)


def hearing(**beats: Heartbeat | None) -> Facts:
    return replace(WELL, heartbeats={**WELL.heartbeats, **beats})


def of(facts: Facts, name: str) -> Item:
    (found,) = [item for item in items(facts) if item.name == name]
    return found


def states(facts: Facts) -> dict[str, str]:
    return {item.name: str(item.state) for item in items(facts)}


def test_with_fresh_data_and_no_fault_every_item_is_good() -> None:
    found = {item.name: (item.value, str(item.state)) for item in items(WELL)}
    assert found == {
        "age": ("now", "good"),
        "latency": ("212 / 481 ms", "good"),
        "lag": ("20 records", "good"),
        "complete": ("360 of 360", "good"),
        "klines": ("128 equal", "good"),
        "processes": ("all running", "good"),
    }


def test_without_data_no_item_is_good() -> None:
    nothing = Facts("BTCUSDT", NOON, heartbeats=dict.fromkeys(NAMES))
    assert set(states(nothing).values()) == {"unknown"}
    assert {item.value for item in items(nothing)} == {"unknown"}
    assert all(item.why and item.meaning for item in items(nothing))


def test_while_the_store_is_away_only_items_of_heartbeats_are_known() -> None:
    away = replace(WELL, is_store_away=True)
    assert states(away) == {
        "age": "unknown", "complete": "unknown", "processes": "bad",
        "latency": "good", "lag": "good", "klines": "good",
    }  # fmt: skip
    assert of(away, "processes").value == "PostgreSQL away"


@pytest.mark.parametrize(
    ("name", "greyed"), [("producer", set()), ("processor", {"latency", "lag"}), ("audit", {"klines"})]
)
@pytest.mark.parametrize("age", [trust.SILENT_SECONDS + 0.1, 40 * 86_400.0])
def test_the_items_of_a_silent_process_are_unknown(name: str, greyed: set[str], age: float) -> None:
    last_beat = WELL.heartbeats[name]
    assert last_beat is not None
    facts = hearing(**{name: replace(last_beat, beaten_at=NOON / SECOND_US - age)})
    found = states(facts)
    assert found.pop("processes") == "bad"
    assert {item for item, state in found.items() if state == "unknown"} == greyed
    assert set(found.values()) <= {"good", "unknown"}
    assert of(facts, "processes").value == f"{name} silent"
    assert "has written no heartbeat for" in of(facts, "processes").why


@pytest.mark.parametrize("name", NAMES)
def test_a_heartbeat_from_the_future_is_ignored(name: str) -> None:
    last_beat = WELL.heartbeats[name]
    assert last_beat is not None
    facts = hearing(**{name: replace(last_beat, beaten_at=NOON / SECOND_US + 3_600)})
    assert of(facts, "processes").state is State.UNKNOWN
    assert "1 hour ahead of this machine's clock" in of(facts, "processes").why
    assert states(hearing(**{name: replace(last_beat, beaten_at=NOON / SECOND_US + 1)})) == states(WELL)


def test_a_process_without_a_heartbeat_is_unknown_and_waiting_ones_are_named() -> None:
    assert of(hearing(audit=None), "processes").value == "audit unknown"
    waiting = beat("processor", PROCESSOR, state="waiting", message="for PostgreSQL")
    found = of(hearing(processor=waiting), "processes")
    assert (found.value, found.state) == ("processor waiting", State.WARN)
    assert dict(found.rows)["processor"].endswith(": for PostgreSQL")
    both = of(hearing(processor=waiting, audit=beat("audit", AUDIT, state="waiting")), "processes")
    assert both.value == "2 waiting"


# The last trade ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "producers_age", "connected", "expected"),
    [
        (9, 9.0, 1, ("9 seconds ago", State.GOOD)),
        (30, 30.0, 1, ("30 seconds ago", State.WARN)),
        (3_600, 3_600.0, 1, ("1 hour ago", State.WARN)),  # a quiet market
        (3_600, 3_600.0, 0, ("1 hour ago", State.BAD)),  # a lost connection
        (3_600, None, 1, ("1 hour ago", State.BAD)),
        (30, 0.3, 1, ("30 seconds ago", State.BAD)),  # trades arrive but reach no candle
        (-1, 0.3, 1, ("now", State.GOOD)),
        (-30, 0.3, 1, ("in the future", State.UNKNOWN)),  # one of the clocks is wrong
    ],
)
def test_an_old_trade_is_judged_by_the_last_trade_that_the_producer_received(
    seconds: int, producers_age: float | None, connected: int, expected: tuple[str, State]
) -> None:
    ages = {} if producers_age is None else {"BTCUSDT": producers_age}
    counts = PRODUCER | {"age_s": ages, "connected": connected}
    facts = replace(
        hearing(producer=beat("producer", counts, age=0.0)), last_trade_time=NOON - seconds * SECOND_US
    )
    found = of(facts, "age")
    assert (found.value, found.state) == expected


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ({"quiet_s": {"BTCUSDT": 12.0}}, (State.GOOD, "12 seconds ago the exchange had no newer trade")),
        ({"quiet_s": {"BTCUSDT": trust.QUIET_SECONDS + 1}}, (State.WARN, "")),
        ({"quiet_s": {"ETHUSDT": 12.0}}, (State.WARN, "")),
        ({"behind": {"BTCUSDT": 5}}, (State.BAD, "5 newer trades that the stream did not deliver")),
        ({"quiet_s": {"BTCUSDT": 12.0}, "age_s": {"BTCUSDT": 0.3}}, (State.BAD, "in no candle yet")),
    ],
)
def test_an_old_trade_is_judged_by_the_exchanges_answer(
    reported: dict[str, dict[str, float]], expected: tuple[State, str]
) -> None:
    counts = PRODUCER | {"age_s": {"BTCUSDT": 600.0}} | reported
    facts = replace(
        hearing(producer=beat("producer", counts, age=0.0)), last_trade_time=NOON - 600 * SECOND_US
    )
    found = of(facts, "age")
    assert found.state is expected[0]
    assert expected[1] in found.why


def test_without_the_producer_an_old_trade_is_never_good() -> None:
    for seconds, state in ((30, State.WARN), (61, State.BAD)):
        facts = replace(hearing(producer=None), last_trade_time=NOON - seconds * SECOND_US)
        assert of(facts, "age").state is state


def test_an_old_trade_of_a_symbol_that_is_not_followed_is_unknown() -> None:
    facts = replace(WELL, last_trade_time=NOON - 3_600 * SECOND_US, is_followed=False)
    assert of(facts, "age").state is State.UNKNOWN
    assert "not followed" in of(facts, "age").why


def sharded(**beats: Heartbeat | None) -> Facts:
    """Return facts with two producers: the first has BTCUSDT, the second ETHUSDT."""
    others = {name: beat for name, beat in WELL.heartbeats.items() if name != "producer"}
    names = {name.replace("_", "-"): beat for name, beat in beats.items()}
    return replace(WELL, heartbeats={**names, **others})


def test_of_two_producers_the_symbols_own_one_counts() -> None:
    first = beat("producer-1-of-2", {"missing": 2, "connected": 1, "age_s": {"BTCUSDT": 30.0}}, age=0.0)
    second = beat("producer-2-of-2", {"missing": 3, "connected": 0, "age_s": {"ETHUSDT": 0.2}}, age=0.0)
    facts = sharded(producer_1_of_2=first, producer_2_of_2=second)
    quiet = replace(facts, last_trade_time=NOON - 30 * SECOND_US)
    assert of(quiet, "age").state is State.WARN
    assert "the market is quiet" in of(quiet, "age").why
    stuck = replace(quiet, symbol="ETHUSDT")
    assert of(stuck, "age").state is State.BAD
    assert "in no candle yet" in of(stuck, "age").why
    assert dict(of(facts, "complete").rows)["In the producer's open gaps"] == "5 trades"
    assert of(facts, "processes").value == "all running"


def test_a_silent_shard_is_named_and_its_open_gaps_are_unknown() -> None:
    first = beat("producer-1-of-2", PRODUCER)
    facts = sharded(producer_1_of_2=first, producer_2_of_2=None)
    assert of(facts, "processes").value == "producer-2-of-2 unknown"
    assert dict(of(facts, "complete").rows)["In the producer's open gaps"] == "unknown"
    old = replace(facts, last_trade_time=NOON - 30 * SECOND_US)
    assert "the market is quiet" not in of(replace(old, symbol="ETHUSDT"), "age").why
    assert of(replace(old, symbol="ETHUSDT"), "age").state is State.WARN


# Latency and lag --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p50", "p99", "expected"),
    [
        (212.4, 481.0, ("212 / 481 ms", State.GOOD)),
        (300.0, 2_500.0, ("300 ms / 2.5 s", State.WARN)),
        (1_200.0, 1_900.0, ("1.2 / 1.9 s", State.WARN)),
        (61_000.0, 7_200_000.0, ("1 minute / 2 hours", State.BAD)),
        (-40.0, 90.0, ("\N{MINUS SIGN}40 / 90 ms", State.UNKNOWN)),  # this machine's clock is behind
    ],
)
def test_latency_has_a_state_and_a_text(p50: float, p99: float, expected: tuple[str, State]) -> None:
    counts = PROCESSOR | {"latency_ms_p50": p50, "latency_ms_p99": p99}
    found = of(hearing(processor=beat("processor", counts)), "latency")
    assert (found.value, found.state) == expected


def test_without_a_trade_in_the_last_minute_the_latency_is_unknown() -> None:
    counts = {name: value for name, value in PROCESSOR.items() if not name.startswith("latency")}
    assert of(hearing(processor=beat("processor", counts)), "latency").state is State.UNKNOWN


@pytest.mark.parametrize(
    ("lag", "pace", "state"),
    [
        (0, 0.0, State.GOOD),
        (10, 0.1, State.GOOD),
        (11, 0.1, State.BAD),
        (2_000, 400.0, State.GOOD),
        (2_001, 400.0, State.WARN),
        (24_001, 400.0, State.BAD),
        (5_000, 0.0, State.BAD),  # nothing is merged
    ],
)
def test_a_lag_is_judged_by_the_time_it_takes_to_catch_up(lag: int, pace: float, state: State) -> None:
    counts = PROCESSOR | {"lag": lag, "merged_per_s": pace}
    assert of(hearing(processor=beat("processor", counts)), "lag").state is state


def test_without_kafkas_end_offsets_the_lag_is_unknown() -> None:
    counts = {name: value for name, value in PROCESSOR.items() if name != "lag"}
    found = of(hearing(processor=beat("processor", counts)), "lag")
    assert (found.value, found.state) == ("unknown", State.UNKNOWN)


# Completeness and agreement ---------------------------------------------------------------------------


def test_missing_trades_are_counted_with_their_gaps() -> None:
    shown = [candle(0), candle(3, is_complete=False)]
    gaps = OpenGaps(1, 20, (OpenGap(10, 29, NOON, NOON + 10 * SECOND_US),))
    found = of(replace(WELL, candles=shown, gaps=gaps), "complete")
    assert (found.value, found.state) == ("20 trades missing", State.BAD)
    rows = dict(found.rows)
    assert (rows["Complete"], rows["Incomplete"], rows["Open gaps"]) == ("1", "1", "1")
    assert rows["2024-08-08 12:00:00 to 12:00:10 UTC"] == "ids 10 to 29, 20 trades"
    assert "python -m candleflow repair" in rows.values()
    unread = of(replace(WELL, candles=shown), "complete")
    assert dict(unread.rows)["Open gaps"] == "unknown"


def test_the_very_first_candle_is_incomplete() -> None:
    found = of(replace(WELL, candles=[candle(0, is_complete=False), candle(1)]), "complete")
    assert (found.value, found.state) == ("1 of 2", State.WARN)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ({"equal": 118, "different": 2}, ("2 differ", State.BAD)),
        ({"equal": 118, "missing": 1}, ("1 differs", State.BAD)),
        ({"equal": 118, "incomplete": 2, "not comparable": 3}, ("2 incomplete", State.WARN)),
        ({"equal": 118, "not comparable": 3}, ("118 equal", State.GOOD)),
        ({"not comparable": 120}, ("unknown", State.UNKNOWN)),
        ({}, ("unknown", State.UNKNOWN)),
    ],
)
def test_agreement_is_that_of_the_symbol_shown(verdicts: dict[str, int], expected: tuple[str, State]) -> None:
    of_all, others = {"different": 7, "equal": 300}, {"equal": 9, "different": 7}
    by_symbol: dict[str, dict[str, float]] = {
        verdict: {"BTCUSDT": verdicts.get(verdict, 0), "ETHUSDT": others.get(verdict, 0)}
        for verdict in (*verdicts, *others)
    }
    by_symbol["compared_age_s"] = {"BTCUSDT": 3.0, "ETHUSDT": 3.0}
    audit = replace(beat("audit", of_all), by_label=by_symbol)
    found = of(hearing(audit=audit), "klines")
    assert (found.value, found.state) == expected


def test_without_a_recent_comparison_agreement_is_unknown() -> None:
    for counts in (
        {"equal": {"ETHUSDT": 9}},
        AUDIT | {"compared_age_s": {"BTCUSDT": trust.COMPARED_SECONDS + 1}},
    ):
        assert of(hearing(audit=beat("audit", counts)), "klines").state is State.UNKNOWN


def test_the_items_are_plain_json() -> None:
    found = as_json(items(WELL))
    assert json.loads(json.dumps(found)) == found
    assert list(found) == ["age", "latency", "lag", "complete", "klines", "processes"]


@pytest.mark.parametrize(
    ("has_skill", "is_covered", "state"),
    [(False, True, "unknown"), (False, False, "unknown"), (True, True, "good"), (True, False, "warn")],
)
def test_a_forecast_is_good_only_with_significant_skill(
    has_skill: bool, is_covered: bool, state: str
) -> None:
    skill_lower = 0.01 if has_skill else -0.01
    coverage = Share(COVERAGE, COVERAGE - 0.02, COVERAGE + (0.02 if is_covered else -0.01), 500)
    found = Scores(500, 1.0, 1.1, 1.0, 1.1, 0.02, skill_lower, 0.05, coverage, hits=None)
    item = of(replace(WELL, scores=found), "forecast")
    assert (item.value, str(item.state)) == (found.verdict, state)
    assert dict(item.rows)["mean absolute error"] == "1 against 1.1"
    assert json.dumps(as_json([item]))
    simulated = of(replace(WELL, scores=found, is_simulated=True), "forecast")
    assert simulated.why == f"Of a simulated market. {item.why}"
