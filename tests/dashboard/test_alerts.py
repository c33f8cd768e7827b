"""The alerts menu: rules are added and removed, failed deliveries are shown; in a browser, an alert fires."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from selenium import webdriver
from streamlit.testing.v1 import AppTest

from candleflow.dashboard.source import watched
from candleflow.errors import UnknownOutcomeError
from candleflow.market.window import SECOND_US
from candleflow.settings import load
from candleflow.stack.postgres import PostgresServer
from candleflow.store.alerts import Alert, AlertReader, AlertStore, Decision
from tests.dashboard.alerting import NOTE, SYMBOL, alerting, take
from tests.dashboard.browser import Page
from tests.store.trades import BEGINS_AT
from tests.store_fixtures import Database


def _page(settings: object) -> None:
    import streamlit as st

    from candleflow.dashboard import alerts_menu
    from candleflow.dashboard.alert_rules import AlertRules

    st.session_state["alerts"] = True
    alerts_menu.menu(AlertRules(settings), ["BTCUSDT", "ETHUSDT"])  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _nothing_cached() -> Iterator[None]:
    """Clear Streamlit's caches: AppTest runs the page in this process, so they would outlive a test."""
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


CHANNELS = "phone=tgram://123456789:canary/1,team=discord://1/canary"


def page(database: Database, alert_channels: str = CHANNELS) -> AppTest:
    settings = database.settings_with(alert_channels=alert_channels)
    shown = AppTest.from_function(_page, args=(settings,), default_timeout=30).run()
    assert not shown.exception
    return shown


def rules(database: Database) -> list[Any]:
    with closing(AlertReader.from_settings(database.settings)) as reader:
        return [one.rule for one in reader.rules()]


def test_a_rule_is_added_and_removed_on_the_page(database: Database) -> None:
    shown = page(database)
    shown.selectbox(key="alert-symbol").select("BTCUSDT")
    shown.text_input(key="alert-threshold").input("100000")
    shown.multiselect(key="alert-channels").unselect("team")
    shown.button[-1].click().run()
    assert not shown.exception
    (rule,) = rules(database)
    assert (rule["kind"], rule["symbol"], rule["threshold"]) == ("crosses-up", "BTCUSDT", "100000")
    assert rule["channels"] == ["phone"]
    assert "canary" not in str(rule)
    shown = page(database)
    assert any("BTCUSDT crosses up 100000" in one.value for one in shown.text)
    shown.button(key="alert-remove-1").click().run()
    assert rules(database) == []


def test_how_often_and_how_long_a_rule_fires_is_chosen_on_the_page(database: Database) -> None:
    shown = page(database)
    shown.text_input(key="alert-threshold").input("100")
    shown.text_input(key="alert-hysteresis").input("2.5")
    shown.number_input(key="alert-cool-down").set_value(300)
    shown.text_input(key="alert-until").input("2030-01-02 03:04")
    shown.toggle(key="alert-once").set_value(True)
    shown.button[-1].click().run()
    assert not shown.exception
    (rule,) = rules(database)
    assert (rule["hysteresis"], rule["cool_down_seconds"], rule["is_once"]) == ("2.5", 300, True)
    assert rule["expires_at"] == 1_893_553_440 * SECOND_US
    said = " ".join(one.value for one in page(database).text)
    assert "hysteresis 2.5, cool-down 300 s, once, until 2030-01-02 03:04:00 UTC" in said


def test_without_a_channel_a_rule_is_added_and_one_line_with_a_link_says_how_to_have_alerts_sent(
    database: Database,
) -> None:
    shown = page(database, alert_channels="")
    shown.text_input(key="alert-threshold").input("100")
    shown.button[-1].click().run()
    assert not shown.exception
    assert [one["channels"] for one in rules(database)] == [[]]
    (line,) = [one.value for one in shown.caption if "CANDLEFLOW_ALERT_CHANNELS" in one.value]
    assert ".env" in line
    assert "](https://" in line


def test_a_rule_that_may_have_been_added_says_so(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(*_: object) -> None:
        raise UnknownOutcomeError("cut off; it may have done what was asked: check before you repeat it")

    shown = page(database)
    shown.text_input(key="alert-threshold").input("100")
    monkeypatch.setattr("candleflow.store.alerts.AlertEditor.add", cut_off)
    shown.button[-1].click().run()
    assert "check before you repeat it" in shown.warning[0].value


@pytest.mark.parametrize(
    ("key", "given", "named"),
    [("alert-until", "tomorrow", "until"), ("alert-hysteresis", "200", "hysteresis")],
)
def test_an_invalid_field_of_a_rule_is_named(database: Database, key: str, given: str, named: str) -> None:
    shown = page(database)
    shown.text_input(key="alert-threshold").input("100")
    shown.text_input(key=key).input(given)
    shown.button[-1].click().run()
    assert named in shown.error[0].value
    assert rules(database) == []


def test_the_trust_strip_has_the_alerts_process_only_with_a_channel() -> None:
    assert "alerts" not in watched(load())
    assert watched(load(alert_channels="phone=tgram://1:a/1"))[-1] == "alerts"


@pytest.mark.parametrize("threshold", ["NaN", "", "-1", "a lot"])
def test_an_invalid_rule_is_rejected_with_a_message(database: Database, threshold: str) -> None:
    shown = page(database)
    shown.text_input(key="alert-threshold").input(threshold)
    shown.button[-1].click().run()
    assert not shown.exception
    assert "threshold" in shown.error[0].value
    assert rules(database) == []


@pytest.mark.slow
def test_an_alert_that_fires_is_on_the_page_with_its_state(
    driver: webdriver.Chrome, postgres: PostgresServer, tmp_path: Path, pictures: Path
) -> None:
    with alerting(postgres, tmp_path) as scene:
        page = Page(driver, scene.page.url)
        page.problems()
        alert = take(scene, page, pictures)
        assert alert.text.startswith(f"SIMULATED {SYMBOL} crosses up ")
        assert NOTE in alert.text
        assert [text.replace("\r", "") for text in scene.there.messages] == [alert.text]
        page.open()
        page.wait_for_candles()
        page.press_trust("processes")
        said = "return document.querySelector('.cf-panel:not([hidden])')?.innerText ?? ''"
        page.wait(lambda: "alerts\nrunning" in str(page.script(said)), "the alerts among the processes")
        assert page.problems() == []


def test_a_failed_delivery_is_shown_at_the_top_until_a_later_one_succeeds(database: Database) -> None:
    shown = page(database)
    shown.text_input(key="alert-threshold").input("1")
    shown.button[-1].click().run()
    with closing(AlertStore.from_settings(database.settings)) as book:
        book.claim("a test")
        alert = Alert(BEGINS_AT, BEGINS_AT, "BTCUSDT crosses up 1", "brief", ["phone"])
        book.decide([Decision(1, "BTCUSDT", 0, {}, alert)])
        book.note("phone", book.take("phone", 1), "refused", "401 Unauthorized")
        shown = page(database)
        assert "401 Unauthorized" in shown.warning[0].value
        assert any("BTCUSDT crosses up 1" in one.value for one in shown.text)
        assert "canary" not in str(shown)
        later = replace(alert, window=BEGINS_AT + 5 * SECOND_US)
        book.decide([Decision(1, "BTCUSDT", 1, {}, later)])
        assert page(database).warning
        book.note("phone", book.take("phone", 1), "sent")
    shown = page(database)
    assert not shown.warning
    assert any("phone, refused: BTCUSDT crosses up 1" in one.value for one in shown.text)
