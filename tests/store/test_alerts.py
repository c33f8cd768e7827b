"""AlertStore: each alert is decided once and sent at most once, also with kills and a second process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from decimal import Decimal
from typing import Any

import pytest

from candleflow.errors import HeldError, StoreError
from candleflow.market.window import SECOND_US
from candleflow.store.alerts import Alert, AlertEditor, AlertReader, AlertStore, Decision
from candleflow.store.clearing import Clearing
from tests.processes import awaited
from tests.store.processor import Processor
from tests.store.trades import BEGINS_AT, FIVE_SECONDS, run_of
from tests.store_fixtures import Database

OLD_MILLISECONDS = 100
RULE: dict[str, Any] = {"kind": "above", "threshold": "100", "channels": ["phone"]}


@pytest.fixture
def store(database: Database) -> Iterator[AlertStore]:
    with closing(AlertStore.from_settings(database.settings)) as opened:
        opened.claim("a test")
        yield opened


def added(database: Database, **more: Any) -> int:
    with closing(AlertEditor.from_settings(database.settings)) as editor:
        return editor.add(RULE | more)


def decision(rule_id: int, version: int = 0, window: int = BEGINS_AT, *channels: str) -> Decision:
    alert = Alert(window, window, "in full", "brief", channels or ("phone",))
    return Decision(rule_id, "BTCUSDT", version, {"is_active": True}, alert)


def states(database: Database) -> list[tuple[str, str]]:
    with closing(AlertReader.from_settings(database.settings)) as reader:
        return [(one.channel, one.state) for one in reader.latest(100)]


def test_an_added_rule_is_in_force_until_it_is_removed(database: Database, store: AlertStore) -> None:
    rule_id = added(database, note="für später")
    assert [(one.rule_id, one.rule) for one in store.rules()] == [(rule_id, RULE | {"note": "für später"})]
    with closing(AlertEditor.from_settings(database.settings)) as editor:
        assert editor.remove(rule_id)
        assert not editor.remove(rule_id)
        assert not editor.remove(10**9)
    assert store.rules() == []
    assert store.decide([decision(rule_id)]) == 0, "a removed rule decides nothing"


@pytest.mark.parametrize("rule", [[], {}, {"kind": 1, "channels": []}, {**RULE, "note": "x" * 3_000}])
def test_an_invalid_rule_is_refused(database: Database, rule: Any) -> None:
    with closing(AlertEditor.from_settings(database.settings)) as editor, pytest.raises(StoreError):
        editor.add(rule)


def test_state_alert_and_deliveries_are_kept_together(database: Database, store: AlertStore) -> None:
    rule_id = added(database)
    assert store.decide([decision(rule_id, 0, BEGINS_AT, "phone", "team")]) == 1
    stored = store.states()[rule_id, "BTCUSDT"]
    assert (stored.version, stored.state) == (1, {"is_active": True})
    assert states(database) == [("phone", "pending"), ("team", "pending")]


def test_several_decisions_are_stored_all_or_none(database: Database, store: AlertStore) -> None:
    rule_id = added(database)
    wrong = decision(rule_id, 1, BEGINS_AT + 5, "no such name!")
    with pytest.raises(StoreError):
        store.decide([decision(rule_id), wrong])
    assert store.states() == {}
    assert states(database) == []


def test_a_rule_has_one_alert_for_each_window_and_symbol(database: Database, store: AlertStore) -> None:
    rule_id = added(database)
    assert store.decide([decision(rule_id)]) == 1
    assert store.decide([decision(rule_id, 1)]) == 0
    assert store.decide([decision(rule_id, 2, BEGINS_AT + 5_000_000)]) == 1
    assert len(states(database)) == 2


def test_of_two_decisions_on_the_same_state_one_is_refused(database: Database, store: AlertStore) -> None:
    rule_id = added(database)
    store.decide([decision(rule_id)])
    with pytest.raises(HeldError, match="since"):
        store.decide([decision(rule_id, 0, BEGINS_AT + 5_000_000)])
    with ThreadPoolExecutor(8) as pool:
        futures = [
            pool.submit(store.decide, [decision(rule_id, 1, BEGINS_AT + one * 5_000_000)]) for one in range(8)
        ]
    refused = [one.exception() for one in futures if one.exception() is not None]
    assert len(refused) == 7
    assert all(isinstance(one, HeldError) for one in refused)


def test_a_second_process_is_refused_with_the_name_of_the_first(
    database: Database, store: AlertStore
) -> None:
    with closing(AlertStore.from_settings(database.settings)) as second:
        with pytest.raises(HeldError, match="a test, since"):
            second.claim("the second")
        assert not second.is_held()
        with pytest.raises(HeldError):
            second.decide([])
        store.close()

        def claims() -> bool:
            with suppress(HeldError):
                second.claim("the second")
            return second.is_held()

        awaited(claims, 10, lambda: "PostgreSQL hasn't noticed that the first one's connection is closed")
        with pytest.raises(HeldError, match="the second"):
            store.take("phone", 1)


def test_a_process_whose_session_ended_must_claim_again(database: Database, store: AlertStore) -> None:
    assert store.is_held()
    database.superuser().cursor().execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s",
        (f"{database.name}_alerter",),
    )
    assert not store.is_held()
    store.claim("the same, again")
    assert store.decide([decision(added(database))]) == 1


def test_a_delivery_is_taken_once_and_its_outcome_is_final(database: Database, store: AlertStore) -> None:
    store.decide([decision(added(database), 0, BEGINS_AT, "phone", "team")])
    taken = store.take("phone", 10)
    assert [(one.text, one.brief, one.attempt) for one in taken] == [("in full", "brief", 1)]
    assert states(database) == [("phone", "sending"), ("team", "pending")]
    store.note("phone", taken, "sent")
    assert store.take("phone", 10) == []
    assert states(database) == [("phone", "sent"), ("team", "pending")]
    store.note("phone", taken, "pending")
    assert store.take("phone", 10) == [], "a sent alert must not become pending again"


def test_a_delivery_that_is_due_later_is_not_taken_before(database: Database, store: AlertStore) -> None:
    store.decide([decision(added(database))])
    store.note("phone", store.take("phone", 10), "pending", "429", due_in=60)
    assert store.take("phone", 10) == []
    store.note("phone", store.take("phone", 10), "pending")
    database.owner().cursor().execute("UPDATE alert_deliveries SET due_at = now()")
    assert [one.attempt for one in store.take("phone", 10)] == [2]


def test_an_alert_being_sent_when_the_process_died_is_not_sent_again(
    database: Database, store: AlertStore
) -> None:
    store.decide([decision(added(database))])
    taken = store.take("phone", 10)
    store.close()
    with closing(AlertStore.from_settings(database.settings)) as second:
        second.claim("the second")
        assert states(database) == [("phone", "unknown")]
        assert second.take("phone", 10) == []
        second.note("phone", taken, "sent")  # reconnects, as a process that noticed the loss of its lease
    assert states(database) == [("phone", "sent")]


def test_live_and_closed_candles_are_read(database: Database, store: AlertStore) -> None:
    processor = Processor(database.writer(), FIVE_SECONDS)
    processor.merge(run_of(1, 7))
    processor.merge(run_of(9, 12))
    (snapshot,) = store.live_symbols()
    assert (snapshot.symbol, snapshot.last_trade_id, int(snapshot.price)) == ("BTCUSDT", 12, 112)
    assert (snapshot.window, snapshot.traded_at) == (BEGINS_AT + 10_000_000, BEGINS_AT + 12_000_000)
    closed = store.closed("BTCUSDT", 0, 10)
    assert [(one.open_time - BEGINS_AT, int(one.close), one.is_complete) for one in closed] == [
        (0, 104, False), (5_000_000, 109, False),
    ]  # fmt: skip
    assert [one.close for one in store.closed("BTCUSDT", BEGINS_AT, 10)] == [109]
    assert [one.close for one in store.closed("BTCUSDT", 0, 1)] == [109]
    assert store.missing(BEGINS_AT) == {"BTCUSDT": 1}
    assert store.caught_up_at("trades") is None
    processor.close_quiet(BEGINS_AT)
    assert store.caught_up_at("trades") is not None


def test_an_alert_is_found_with_its_rule_and_the_candles_up_to_its_own(
    database: Database, store: AlertStore
) -> None:
    rule_id = added(database, note="then")
    store.decide([decision(rule_id, window=BEGINS_AT + 10 * SECOND_US)])
    found = store.alert(1)
    assert found is not None
    assert (found.symbol, found.window, found.rule["note"]) == ("BTCUSDT", BEGINS_AT + 10 * SECOND_US, "then")
    assert store.alert(2) is None
    Processor(database.writer(), FIVE_SECONDS).merge(run_of(1, 19))
    two = store.drawn("BTCUSDT", found.window, 2)
    assert [one.open_time - BEGINS_AT for one in two] == [5 * SECOND_US, 10 * SECOND_US]
    last = store.drawn("BTCUSDT", found.window, 60)[-1]
    figures = [last.open, last.high, last.low, last.close, last.volume]
    assert figures == [Decimal(one) for one in (110, 114, 110, 114, 5)]
    assert store.drawn("ETHUSDT", found.window, 60) == []


def grown_old(database: Database, rule_id: int, alerts: int) -> None:
    """Store that many alerts from a hundred days ago, each sent on one channel."""
    database.owner().cursor().execute(
        "WITH old AS (INSERT INTO alerts (rule_id, symbol, window_at, sampled_at, text, brief, decided_at)"
        " SELECT %s, 'BTCUSDT', at, at, 'in full', 'brief', at FROM generate_series(1, %s) n,"
        " LATERAL (SELECT now() - interval '100 days' - make_interval(secs => n) AS at) times"
        " RETURNING alert_id, decided_at)"
        " INSERT INTO alert_deliveries (alert_id, channel, state, due_at, updated_at)"
        " SELECT alert_id, 'phone', 'sent', decided_at, decided_at FROM old",
        (rule_id, alerts),
    )


def test_old_alerts_delay_no_claim_and_are_deleted_in_batches(database: Database) -> None:
    grown_old(database, added(database), 20_000)
    database.owner().cursor().execute(
        f'ALTER ROLE "{database.name}_alerter" SET statement_timeout = {OLD_MILLISECONDS}'
    )
    clearing = Clearing("old alerts", 20_000)
    with closing(AlertStore.from_settings(database.settings)) as store:
        store.claim("a test")
        store.decide([decision(added(database))])
        assert not clearing.step(store.drop_old), "a single call must not delete all of them"
        assert len(states(database)) == 100

        def are_gone() -> bool:
            while clearing.step(store.drop_old):
                pass
            return len(states(database)) == 1

        awaited(are_gone, 60, lambda: "old alerts are left")
    assert states(database) == [("phone", "pending")]
