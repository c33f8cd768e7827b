"""When rules fire, the texts of alerts, and the validation of rules."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from candleflow.alerts.firing import Firing, Observation, State, evaluate
from candleflow.alerts.message import LONGEST_MESSAGE, MOST_AT_ONCE, AlertText, alert_text, combined_message
from candleflow.alerts.rules import Kind, Rule, RuleError, fields, rule_of
from candleflow.market.stored import Bar
from candleflow.market.window import SECOND_US

AT = 1_700_006_400 * SECOND_US


def observation(value: object = 101, **more: Any) -> Observation:
    return replace(Observation("BTCUSDT", AT, AT, Decimal(str(value))), **more)


def above(**more: Any) -> Rule:
    return replace(Rule(Kind.ABOVE, Decimal(100), channels=("phone",)), **more)


def fires(rule: Rule, one: Observation, now: int = AT) -> bool:
    return evaluate(rule, State(), one, now)[1] is not None


def test_a_rule_watches_its_symbol_or_all() -> None:
    assert fires(above(), observation())
    assert fires(above(symbol="BTCUSDT"), observation())
    assert not fires(above(symbol="ETHUSDT"), observation())


def test_no_alert_for_an_incomplete_candle_unless_the_rule_allows_it() -> None:
    assert not fires(above(), observation(is_complete=False))
    assert fires(above(may_be_incomplete=True), observation(is_complete=False))


def test_an_ignored_observation_changes_nothing() -> None:
    crossing = above(kind=Kind.CROSSES_UP)
    state, _ = evaluate(crossing, State(), observation(99), AT)
    same, _ = evaluate(crossing, state, observation(101, is_complete=False), AT)
    assert same == state
    assert evaluate(crossing, same, observation(102), AT)[1] is not None


def test_a_rule_on_closed_candles_does_not_see_the_live_one() -> None:
    assert not fires(above(is_on_closed=True), observation())
    assert fires(above(is_on_closed=True), observation(is_closed=True))


def test_a_pipeline_rule_ignores_whether_candles_are_closed_or_complete() -> None:
    silence = Rule(Kind.SILENCE, Decimal(30), is_on_closed=True)
    assert fires(silence, observation(31, is_complete=False))
    assert not fires(silence, observation(30))
    assert fires(Rule(Kind.GAP), observation(1))
    assert not fires(Rule(Kind.GAP), observation(0))


def test_a_rule_ends_when_it_expires() -> None:
    assert fires(above(expires_at=AT + 1), observation())
    assert not fires(above(expires_at=AT), observation())


def bars(count: int, **more: Any) -> list[Bar]:
    """Return ``count`` candles of 5 s, the last one just before AT."""
    begins = AT - count * 5 * SECOND_US
    low, high = Decimal(99), Decimal(101)
    return [
        Bar(begins + one * 5 * SECOND_US, low, high, low, high, Decimal(one % 2), True)._replace(**more)
        for one in range(count)
    ]


def test_a_volume_rule_needs_all_the_candles_that_it_compares_with() -> None:
    volume = Rule(Kind.VOLUME, Decimal(3), candles=10)
    assert not fires(volume, observation(volume=Decimal(9), history=bars(9)))
    assert fires(volume, observation(volume=Decimal(9), history=bars(10)))
    assert not fires(volume, observation(volume=Decimal(2), history=bars(10)))
    assert not fires(volume, observation(volume=Decimal(9), history=bars(10, volume=Decimal(1))))


def test_a_move_over_an_incomplete_candle_fires_nothing() -> None:
    move = Rule(Kind.MOVE, Decimal(1), minutes=1)
    holed = [*bars(5), *bars(1, is_complete=False)]
    assert fires(move, observation(102, history=bars(5)))
    assert not fires(move, observation(102, history=holed))
    assert fires(move, observation(102, history=[*bars(1, open_time=0, is_complete=False), *bars(5)]))


GOOD: dict[str, Any] = {"kind": "above", "threshold": "100", "channels": ["phone"]}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"kind": "sideways"}, "kind"),
        ({"kind": None}, "kind"),
        ({"threshold": "NaN"}, "threshold"),
        ({"threshold": "Infinity"}, "threshold"),
        ({"threshold": "-1"}, "threshold"),
        ({"threshold": "0"}, "threshold"),
        ({"threshold": "1e13"}, "threshold"),
        ({"threshold": "1e-17"}, "threshold"),
        ({"threshold": "a lot"}, "threshold"),
        ({"threshold": True}, "threshold"),
        ({"hysteresis": "100"}, "hysteresis"),
        ({"hysteresis": "NaN"}, "hysteresis"),
        ({"symbol": "BTC'; DROP TABLE"}, "symbol"),
        ({"symbol": ""}, "symbol"),
        ({"minutes": 5}, "minutes"),
        ({"kind": "move"}, "minutes"),
        ({"kind": "move", "minutes": 61}, "minutes"),
        ({"candles": 20}, "candles"),
        ({"kind": "volume", "candles": 9}, "candles"),
        ({"kind": "volume", "candles": 20.0}, "candles"),
        ({"cool_down_seconds": -1}, "cool_down_seconds"),
        ({"is_once": "yes"}, "is_once"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"note": "a\nb"}, "note"),
        ({"note": "x" * 101}, "note"),
        ({"channels": None}, "channels"),
        ({"channels": "phone"}, "channels"),
        ({"channels": ["tgram://1:a/2"]}, "channels"),
        ({"channels": ["phone", "phone"]}, "channels"),
        ({"kind": "gap"}, "threshold"),
        ({"kind": "lag", "symbol": "BTCUSDT"}, "symbol"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_an_invalid_rule_is_rejected_with_the_fields_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(RuleError, match=named):
        rule_of(GOOD | wrong)


def test_a_rule_stored_by_an_earlier_version_is_still_a_rule() -> None:
    assert rule_of(GOOD | {"may_be_simulated": False}) == rule_of(GOOD)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"kind": "move", "threshold": "0.5", "minutes": 5, "hysteresis": "0.1"},
        {"kind": "volume", "threshold": "3", "candles": 60, "is_on_closed": True},
        {"kind": "gap", "threshold": "0"},
        {"symbol": "BTCUSDT", "expires_at": AT, "note": "für später", "is_once": True},
    ],
)
def test_a_rule_survives_being_stored(more: dict[str, Any]) -> None:
    rule = rule_of(GOOD | more, 7)
    assert rule_of(json.loads(json.dumps(fields(rule))), 7) == rule


def test_an_alert_has_symbol_rule_price_time_note_and_link() -> None:
    firing = Firing(above(note="sell?"), observation("100012.30"), Decimal("100012.30"))
    assert alert_text(firing, "http://localhost:8501").text.splitlines() == [
        "BTCUSDT is above 100: 100012.3 at 2023-11-15 00:00:00 UTC",
        "sell?",
        "http://localhost:8501/?symbol=BTCUSDT",
    ]


def test_an_alert_on_simulated_or_incomplete_data_says_so() -> None:
    words = alert_text(
        Firing(above(), observation(is_simulated=True, is_complete=False), Decimal(101)), "http://x"
    )
    assert words.text.startswith("SIMULATED BTCUSDT")
    assert words.brief.startswith("SIMULATED BTCUSDT")
    assert "incomplete" in words.text


def test_a_crosses_alert_names_the_direction() -> None:
    crossing = above(kind=Kind.CROSSES)
    assert (
        "crosses down 100"
        in alert_text(Firing(crossing, observation(99), Decimal(99), False), "http://x").text
    )


def test_many_alerts_share_one_message_with_the_first_in_full() -> None:
    alerts = [AlertText(f"alert {one} " + "x" * 300, f"brief {one}") for one in range(MOST_AT_ONCE)]
    message = combined_message(alerts)
    assert len(message) <= LONGEST_MESSAGE
    assert message.startswith("alert 0 ")
    assert all(f"alert {one} " in message or f"brief {one}" in message for one in range(MOST_AT_ONCE))
    assert combined_message(alerts[:1]) == alerts[0].text
