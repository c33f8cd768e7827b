"""After a lost or late reply of PostgreSQL, only idempotent calls are retried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from candleflow.errors import StoreError, UnknownOutcomeError
from candleflow.settings import Settings, load
from candleflow.store import credentials
from candleflow.store.alerts import AlertEditor, AlertReader, AlertStore, Delivery
from candleflow.store.credentials import Role
from candleflow.store.forecasts import Close, ForecastStore, NewForecast
from candleflow.store.history import HistoryStore, Source
from candleflow.store.pool import Pool
from candleflow.store.reader import CandleReader
from candleflow.store.rebuilds import CandleRebuilds
from candleflow.store.roles import RIGHTS
from tests.faults.proxy import Direction, Proxy
from tests.processes import awaited
from tests.store.test_alerts import RULE, added, decision, states
from tests.store_fixtures import Database

INSERT = "INSERT INTO written VALUES (1) RETURNING 1"


@pytest.fixture
def link(database: Database) -> Iterator[Proxy]:
    with Proxy(int(database.settings.database.port)) as proxy:
        yield proxy


def through(database: Database, link: Proxy) -> Settings:
    """Return settings that connect to the database through the link."""
    address = database.settings.postgres.url.get_secret_value()
    port = database.settings.database.port
    return database.settings_with(postgres_url=address.replace(f":{port}/", f":{link.port}/"))


@pytest.fixture
def pool(database: Database, link: Proxy) -> Iterator[Pool]:
    """A pool with one open connection, and a table to write to."""
    database.owner().cursor().execute("CREATE TABLE written (number integer)")
    one = Pool(credentials.dsn(through(database, link), Role.OWNER), 1)
    one.rows("SELECT 1", {})
    yield one
    one.drop_idle()


def written(database: Database) -> int:
    cursor = database.owner().cursor()
    cursor.execute("SELECT count(*) FROM written")
    return int((cursor.fetchone() or (0,))[0])


def test_a_call_whose_reply_is_cut_off_is_not_repeated(database: Database, link: Proxy, pool: Pool) -> None:
    link.cut_after(1, Direction.TO_CLIENT)
    with pytest.raises(UnknownOutcomeError, match="check before you repeat it"):
        pool.rows(INSERT, {})
    assert written(database) == 1


def test_a_call_that_may_be_repeated_is_repeated(database: Database, link: Proxy, pool: Pool) -> None:
    link.cut_after(1, Direction.TO_CLIENT)
    assert pool.rows(INSERT, {}, may_repeat=True) == [(1,)]
    assert written(database) == 2, "a repeated INSERT adds a second row, so callers must opt in"


def test_a_call_whose_reply_is_late_is_not_repeated(database: Database, link: Proxy, pool: Pool) -> None:
    link.cut_after(1, Direction.TO_CLIENT, only_stalls=True)
    with pytest.raises(UnknownOutcomeError, match=r"no answer in 0\.3 s"):
        pool.rows(INSERT, {}, within_seconds=0.3)
    link.heal()
    awaited(lambda: written(database) == 1, 10, lambda: "it was not done")


def test_a_call_that_postgresql_refuses_is_known_not_to_be_done(pool: Pool) -> None:
    with pytest.raises(StoreError) as caught:
        pool.rows("SELECT 1/0", {})
    assert not isinstance(caught.value, UnknownOutcomeError)


def test_a_pooled_connection_that_was_ended_is_not_used(database: Database, pool: Pool) -> None:
    database.superuser().cursor().execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s AND state = 'idle'"
        " AND query = 'SELECT 1'",
        (database.name,),
    )
    assert pool.rows(INSERT, {}) == [(1,)]
    assert written(database) == 1


def test_a_rule_whose_reply_was_cut_off_is_added_once(database: Database, link: Proxy) -> None:
    with closing(AlertEditor.from_settings(through(database, link))) as editor:
        editor.remove(0)  # this opens the connection that the pool keeps
        link.cut_after(1, Direction.TO_CLIENT)
        with pytest.raises(UnknownOutcomeError):
            editor.add(RULE)
    with closing(AlertReader.from_settings(database.settings)) as reader:
        assert [one.rule for one in reader.rules()] == [RULE]


@pytest.mark.parametrize("only_stalls", [False, True], ids=["cut off", "late"])
def test_alerts_become_unknown_if_the_reply_to_take_was_lost(
    database: Database, link: Proxy, *, only_stalls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("candleflow.store.pool.QUERY_SECONDS", 0.5)
    with closing(AlertStore.from_settings(through(database, link))) as store:
        store.claim("a test")
        store.decide([decision(added(database))])
        link.cut_after(1, Direction.TO_CLIENT, only_stalls=only_stalls)
        with pytest.raises(UnknownOutcomeError):
            store.take("phone", 10)
        awaited(lambda: states(database) == [("phone", "sending")], 10, lambda: str(states(database)))
        link.heal()
        assert store.take("phone", 10) == []
        assert states(database) == [("phone", "unknown")]


def test_the_outcome_of_an_alert_is_stored_though_the_reply_was_cut_off(
    database: Database, link: Proxy
) -> None:
    with closing(AlertStore.from_settings(through(database, link))) as store:
        store.claim("a test")
        store.decide([decision(added(database))])
        taken = store.take("phone", 10)
        link.cut_after(1, Direction.TO_CLIENT)
        store.note("phone", taken, "sent")
    assert states(database) == [("phone", "sent")]


def _alerts(settings: Settings) -> AlertStore:
    return AlertStore.from_settings(settings)


def _forecasts(settings: Settings) -> ForecastStore:
    return ForecastStore.from_settings(settings, Role.FORECASTER)


CHANGES: Mapping[str, tuple[Callable[[Settings], object], bool]] = {
    "decide_alerts": (lambda s: _alerts(s).decide([]), False),
    "take_deliveries": (lambda s: _alerts(s).take("phone", 1), False),
    "drop_alerts": (lambda s: _alerts(s).drop_old(1), False),
    "note_deliveries": (lambda s: _alerts(s).note("phone", [Delivery(1, 1, 0, "", "")], "sent"), True),
    "add_alert_rule": (lambda s: AlertEditor.from_settings(s).add({}), False),
    "remove_alert_rule": (lambda s: AlertEditor.from_settings(s).remove(1), False),
    "keep_forecasts": (lambda s: _forecasts(s).keep([NewForecast("X", 1, "m", 1, 1, 1, 1, 1)]), True),
    "score_forecasts": (lambda s: _forecasts(s).score([Close("X", 1, 1)]), True),  # type: ignore[arg-type]
    "drop_forecasts": (lambda s: _forecasts(s).drop_before(0, 1), True),
    "replace_candles": (lambda s: CandleRebuilds.from_settings(s).replace("X", 0, 0, {}, []), False),
    "load_history": (lambda s: HistoryStore.from_settings(s).load([], Source.KLINE, 0), False),
    "FROM symbols": (lambda s: CandleReader.from_settings(s).symbols(), True),
}
"""Every function with side effects, and one read, by a part of its query; whether it may be repeated."""


@pytest.mark.parametrize("part", CHANGES)
def test_each_call_is_repeated_only_where_it_is_idempotent(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []

    def rows(_: Pool, query: str, __: object, *, may_repeat: bool = False, **___: Any) -> None:
        asked.append((query, may_repeat))
        raise StoreError("enough")

    monkeypatch.setattr(Pool, "rows", rows)
    call, may_repeat = CHANGES[part]
    with pytest.raises(StoreError, match="enough"):
        call(load(data_dir=tmp_path))
    ((query, is_repeated),) = asked
    assert part in query
    assert is_repeated == may_repeat


def test_the_list_has_every_function_that_a_pool_calls() -> None:
    roles = (Role.ALERTER, Role.EDITOR, Role.FORECASTER, Role.AUDITOR)
    called = {function for role in roles for function in RIGHTS[role].functions}
    reading = {"held_ids", "finest_books", "merged_offsets", "stray_roll_ups"}
    on_its_own_connection = {"claim_alerts"}
    assert called - reading - on_its_own_connection == CHANGES.keys() - {"FROM symbols"}
