"""The alerts process on real PostgreSQL, with local servers that respond like Telegram and Discord."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image, ImageColor
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class by psycopg2's naming

from candleflow import cli
from candleflow import settings as settings_module
from candleflow.alerts.channels import channels
from candleflow.alerts.picture import LINE, RISING
from candleflow.alerts.rules import fields, rule_of
from candleflow.alerts.sender import PICTURE_SECONDS, ChannelSender
from candleflow.errors import StoreError
from candleflow.market.trade import Trade
from candleflow.market.window import SECOND_US, floor_time
from candleflow.stack import status
from candleflow.store.alerts import Alert, AlertEditor, AlertReader, AlertStore, Decision, DeliveredAlert
from tests.dashboard.feed import now_us
from tests.messengers import (
    DISCORD,
    DISCORD_GONE,
    HANG,
    SECRETS,
    TELEGRAM,
    TELEGRAM_BROKEN,
    TELEGRAM_FLOOD,
    TELEGRAM_NO_IMAGE,
    Messengers,
    Reply,
    messengers,
)
from tests.processes import ROOT, Running, environment, started
from tests.store.processor import Processor
from tests.store.trades import FIVE_SECONDS
from tests.store_fixtures import Database

CHANNELS = f"phone={TELEGRAM}?rto=1,team={DISCORD}"
WAIT = 60


class Scene:
    """A database with candles, the two messaging servers, and the alerts process."""

    def __init__(self, database: Database, there: Messengers, folder: Path) -> None:
        self.database = database
        self.there = there
        self.folder = folder
        self.settings = database.settings_with(alert_channels=CHANNELS, **there.settings)
        self.processor = Processor(database.writer(), FIVE_SECONDS)
        self.owner: Connection = database.owner()
        self.keeper = self.owner
        self.next_id = 1
        self.began_at = floor_time(now_us(), 5 * SECOND_US) - 60 * SECOND_US

    def trade(self, price: object, after_seconds: int = 1, symbol: str = "BTCUSDT") -> None:
        """Merge one more trade, ``after_seconds`` after the last one."""
        self.began_at += after_seconds * SECOND_US
        one = Trade(symbol, self.next_id, Decimal(str(price)), Decimal(1), self.began_at, False)
        self.next_id += 1
        self.processor.merge([one])

    def begin(self) -> None:
        """Merge two trades at 99 in two candles; the second candle is complete."""
        self.trade(99)
        self.trade(99, 5)

    def rule(self, kind: str, threshold: str, **more: Any) -> int:
        given = {"kind": kind, "threshold": threshold, "channels": ["phone"], "cool_down_seconds": 0} | more
        with closing(AlertEditor.from_settings(self.settings)) as editor:
            return editor.add(fields(rule_of(given)))

    @contextmanager
    def running(self, name: str = "alerts", **more: object) -> Iterator[Running]:
        settings = self.settings
        assert settings.postgres.password is not None
        variables = environment(
            postgres_url=settings.postgres.url.get_secret_value(),
            postgres_password=settings.postgres.password.get_secret_value(),
            data_dir=settings.stack.data_dir,
            exchange=settings.exchange.name,
            log_level="DEBUG",
            **self.there.settings,
            **{"alert_channels": CHANNELS} | more,
        )
        log = self.folder / f"{name}.log"
        with started([sys.executable, str(ROOT / "alerts.py")], variables, log) as process:
            yield Running("alerts", process, settings.stack.run_dir, log)

    def pictures(self, running: Running, expected: int) -> None:
        """Wait until the process has counted ``expected`` pictures, and check that the servers got them."""
        running.wait_for(lambda: running.running_counts().get("pictures") == expected, WAIT)
        assert len(self.there.pictures) == expected

    def look(self, running: Running, rules: int = 1, states: int | None = None) -> None:
        """Wait until the rules were evaluated once; ``states``: how many of them had anything to evaluate."""
        running.wait_for(lambda: running.running_counts().get("rules") == rules, WAIT)
        running.wait_for(lambda: self.state_count() >= (rules if states is None else states), WAIT)

    def state_count(self) -> int:
        with self.owner.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM alert_states")
            return int((cursor.fetchone() or (0,))[0])

    def message(self, running: Running) -> str:
        """Return the message of the last heartbeat."""
        beat = running.heartbeat()
        return "" if beat is None else beat.message

    def is_armed(self) -> bool:
        """Whether the crosses-up rule has seen the price below its level."""
        with self.owner.cursor() as cursor:
            cursor.execute("SELECT bool_and((state ->> 'is_armed_up')::boolean) FROM alert_states")
            return bool((cursor.fetchone() or (False,))[0])

    def hold(self, state: str) -> None:
        """Block each delivery that would enter this state, so that the process can be killed there."""
        self.keeper = self.database.owner()
        with self.keeper.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(4242)")
            cursor.execute(
                "CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN PERFORM pg_advisory_xact_lock(4242); RETURN NEW; END'"
            )
            cursor.execute(
                "CREATE TRIGGER hold BEFORE UPDATE ON alert_deliveries FOR EACH ROW"
                f" WHEN (NEW.state = '{state}') EXECUTE FUNCTION wait_here()"
            )

    def release(self) -> None:
        """End the blocked transaction of the killed process, and remove the block."""
        with self.database.superuser().cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s",
                (f"{self.database.name}_alerter",),
            )
        with self.keeper.cursor() as cursor:
            cursor.execute("DROP TRIGGER hold ON alert_deliveries")

    def deliveries(self) -> list[DeliveredAlert]:
        with closing(AlertReader.from_settings(self.settings)) as reader:
            return reader.latest(1_000)

    def states(self) -> Counter[tuple[str, str]]:
        return Counter((one.channel, one.state) for one in self.deliveries())

    def ends(self, running: Running, *expected: str) -> None:
        """Wait until the deliveries are in these states, in any order."""
        running.wait_for(lambda: sorted(one.state for one in self.deliveries()) == sorted(expected), WAIT)


@pytest.fixture
def scene(database: Database, tmp_path: Path) -> Iterator[Scene]:
    with messengers() as there:
        yield Scene(database, there, tmp_path)


def test_a_crossing_is_sent_once_by_each_channel(scene: Scene) -> None:
    scene.begin()
    scene.rule("crosses-up", "100", channels=["phone", "team"], note="sell?")
    with scene.running() as running:
        scene.look(running)
        scene.trade(101)
        scene.ends(running, "sent", "sent")
        scene.trade(102)
        scene.rule("above", "101.5")
        running.wait_for(lambda: len(scene.there.messages) == 3, WAIT)
    texts = sorted(scene.there.messages)
    assert all(text.startswith("BTCUSDT crosses up 100: 101 at ") and "sell?" in text for text in texts[:2])
    assert "?symbol=BTCUSDT" in texts[0]
    assert texts[2].startswith("BTCUSDT is above 101.5: 102 at ")


def test_an_incomplete_candle_fires_nothing_unless_the_rule_allows_it(scene: Scene) -> None:
    scene.begin()
    scene.rule("above", "100")
    scene.rule("above", "100", may_be_incomplete=True, note="even so")
    with scene.running() as running:
        scene.look(running, 2)
        scene.next_id += 3  # three trades are missing
        scene.trade(101)
        scene.ends(running, "sent")
    assert [("incomplete" in text, "even so" in text) for text in scene.there.messages] == [(True, True)]


def test_rules_on_closed_candles_and_moves_fire(scene: Scene) -> None:
    scene.begin()
    scene.rule("above", "100", is_on_closed=True)
    scene.rule("move", "3", minutes=5, may_be_incomplete=True)  # the very first candle is incomplete
    with scene.running() as running:
        scene.look(running, 2, states=1)  # the only closed candle is incomplete
        scene.trade(101)
        scene.trade(99)
        scene.trade(101, 5)
        scene.trade(103, 5)
        scene.ends(running, "sent", "sent")
    said = "\n".join(scene.there.messages)
    assert said.count("BTCUSDT is above 100: 101 at ") == 1
    assert said.count("BTCUSDT moves 3 % within 5 min: 4.04 %, to 103 at ") == 1


def test_pipeline_rules_fire(scene: Scene) -> None:
    scene.begin()
    scene.next_id += 3
    scene.trade(99)
    scene.processor.close_quiet(0)
    (scene.settings.stack.run_dir / "audit.json").write_text(
        json.dumps(
            {"name": "audit", "pid": 1, "state": "running", "beaten_at": now_us() / SECOND_US + 60,
             "by_label": {"different": {"BTCUSDT": 2}, "compared_age_s": {"BTCUSDT": 1}}}
        )
    )  # fmt: skip
    for kind, threshold in (("silence", "30"), ("gap", "0"), ("differs", "0"), ("lag", "1")):
        scene.rule(kind, threshold)
    with scene.running() as running:
        running.wait_for(lambda: scene.states()["phone", "sent"] == 4, WAIT)
    said = "\n".join(scene.there.messages)
    for words in ("no trade for 30 s", "trades are missing: 3 trades", "klines: 2 candles", "lag over 1 s"):
        assert words in said


def test_a_rate_limit_and_a_server_error_are_retried(scene: Scene) -> None:
    scene.begin()
    scene.there.answer_next(TELEGRAM_FLOOD, TELEGRAM_BROKEN)
    scene.rule("below", "100")
    with scene.running() as running:
        scene.ends(running, "sent")
    assert len(scene.there.requests) == 3
    assert len(scene.there.messages) == 1


def test_a_refused_channel_is_shown_and_not_retried(scene: Scene) -> None:
    scene.begin()
    scene.there.answer_next(DISCORD_GONE)
    scene.rule("below", "100", channels=["team"])
    with scene.running() as running:
        scene.ends(running, "refused")
        assert "404" in scene.deliveries()[0].detail
        scene.rule("below", "99.5", channels=["team", "absent"])
        scene.ends(running, "refused", "refused", "refused")
        running.wait_for(lambda: "404" in scene.message(running), WAIT)
    assert len(scene.there.requests) == 1
    details = {one.channel: one.detail for one in scene.deliveries()}
    assert "no such channel" in details["absent"]
    assert "Unknown Webhook" in details["team"]


def _png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    return out.getvalue()


PNG = _png()


def colours(png: bytes) -> set[tuple[int, ...]]:
    with Image.open(io.BytesIO(png)) as image:
        image.verify()
    with Image.open(io.BytesIO(png)) as image:
        return {one for _, one in image.convert("RGB").getcolors(10_000) or () if isinstance(one, tuple)}


def test_a_picture_follows_the_text_on_each_channel(scene: Scene) -> None:
    scene.begin()
    scene.rule("crosses-up", "100", channels=["phone", "team"])
    with scene.running() as running:
        scene.look(running)
        scene.trade(101)
        scene.ends(running, "sent", "sent")
        scene.pictures(running, 2)
    assert len(scene.there.messages) == 2
    assert scene.there.pictures[0] == scene.there.pictures[1], "both channels get the same picture"
    rising, line = (ImageColor.getrgb(one) for one in (RISING, LINE))
    assert {rising, line} <= colours(scene.there.pictures[0])


@pytest.mark.slow
@pytest.mark.parametrize("reply", [TELEGRAM_NO_IMAGE, TELEGRAM_BROKEN, HANG], ids=["400", "500", "silence"])
def test_a_failing_picture_does_not_delay_texts(scene: Scene, reply: Reply) -> None:
    scene.begin()
    scene.there.answer_next_picture(reply)
    scene.rule("below", "100")
    with scene.running() as running:
        scene.ends(running, "sent")
        running.wait_for(lambda: "a picture was not sent" in running.said(), WAIT)
        scene.rule("below", "99.5")
        scene.ends(running, "sent", "sent")
        if reply is TELEGRAM_BROKEN:
            scene.pictures(running, 1)
    assert len(scene.there.messages) == 2
    assert len(scene.there.picture_requests) == (2 if reply is TELEGRAM_BROKEN else 1), (
        "only after a 500 may another picture be tried"
    )


def test_an_alert_without_candles_has_no_picture(scene: Scene) -> None:
    scene.begin()
    scene.processor.close_quiet(0)
    scene.rule("lag", "1")
    with scene.running() as running:
        scene.ends(running, "sent")
        scene.rule("below", "100", channels=["team"])
        scene.ends(running, "sent", "sent")
        scene.pictures(running, 1)
    assert len(scene.there.messages) == 2
    assert [path for path in scene.there.picture_requests if path.startswith("/bot")] == []


class Clocked:
    """A sender for the channel ``phone`` with a simulated clock. Records the pictures that it asks for."""

    def __init__(self, scene: Scene, store: AlertStore) -> None:
        self.asked: list[int] = []
        self.problem: Exception | None = None
        self.seconds = 0.0
        self._store = store
        self._rule_id = scene.rule("above", "100")
        self._made = 0
        way = channels(scene.settings)["phone"]
        self.sender = ChannelSender(
            way, store, threading.Event(), self._picture_of, steady=lambda: self.seconds
        )

    def alert(self) -> None:
        """Store one more alert."""
        self._made += 1
        alert = Alert(self._made * SECOND_US, now_us(), f"alert {self._made}", "brief", ["phone"])
        self._store.decide([Decision(self._rule_id, "BTCUSDT", self._made - 1, {}, alert)])

    def step(self, seconds: float = 1.0) -> int:
        self.seconds += seconds
        return self.sender.step()

    def _picture_of(self, alert_id: int) -> bytes:
        self.asked.append(alert_id)
        if self.problem is not None:
            raise self.problem
        return PNG


@pytest.fixture
def clocked(scene: Scene) -> Iterator[Clocked]:
    with closing(AlertStore.from_settings(scene.settings)) as store:
        store.claim("a test")
        yield Clocked(scene, store)


def test_texts_go_before_pictures_and_both_keep_the_rate_limit(scene: Scene, clocked: Clocked) -> None:
    clocked.alert()
    assert clocked.step() == 1
    clocked.alert()
    assert clocked.step(0.5) == 0
    assert clocked.step(0.5) == 1, "the second text goes before the first picture"
    assert (clocked.step(0.5), clocked.asked) == (0, [])
    assert (clocked.step(0.5), clocked.asked) == (0, [2])
    clocked.alert()
    assert clocked.step(0.5) == 0, "a picture counts for the rate limit too"
    assert clocked.step(0.5) == 1
    assert (scene.there.messages, scene.there.pictures) == (["alert 1", "alert 2", "alert 3"], [PNG])


@pytest.mark.parametrize("problem", [ValueError("there is no candle to draw"), StoreError("away")])
def test_a_picture_that_cannot_be_drawn_is_skipped(
    scene: Scene, clocked: Clocked, problem: Exception
) -> None:
    clocked.problem = problem
    clocked.alert()
    assert [clocked.step(), clocked.step(), clocked.step()] == [1, 0, 0]
    clocked.alert()
    assert clocked.step() == 1
    assert (len(scene.there.messages), scene.there.picture_requests, clocked.asked) == (2, [], [1])


def test_an_old_picture_is_dropped(scene: Scene, clocked: Clocked) -> None:
    clocked.alert()
    assert [clocked.step(), clocked.step(PICTURE_SECONDS + 1), clocked.asked] == [1, 0, []]


def test_pictures_can_be_turned_off(scene: Scene) -> None:
    scene.begin()
    scene.rule("below", "100", channels=["phone", "team"])
    with scene.running(alert_pictures="false") as running:
        scene.ends(running, "sent", "sent")
        scene.rule("below", "99.5", channels=["phone", "team"])
        scene.ends(running, *["sent"] * 4)
    assert scene.there.picture_requests == []


def test_a_timeout_after_the_request_is_unknown_and_not_retried(scene: Scene) -> None:
    scene.begin()
    scene.there.answer_next(HANG)
    scene.rule("below", "100")
    with scene.running() as running:
        scene.ends(running, "unknown")
        scene.rule("below", "99.5")
        scene.ends(running, "unknown", "sent")
    assert len(scene.there.messages) == 2


def test_many_alerts_at_once_share_few_messages(scene: Scene) -> None:
    scene.begin()
    for one in range(1, 41):
        scene.rule("below", f"100.{one:02}")
    with scene.running() as running:
        running.wait_for(lambda: scene.states()["phone", "sent"] == 40, WAIT)
    assert len(scene.there.messages) <= 4
    said = "\n".join(scene.there.messages)
    assert all(f"below 100.{one:02}".rstrip("0") in said for one in range(1, 41))


@pytest.mark.parametrize("held", ["sending", "sent", ""], ids=["decided", "answered", "on its way"])
def test_a_kill_between_decision_and_sending_sends_nothing_twice(scene: Scene, held: str) -> None:
    scene.begin()
    scene.rule("crosses-up", "100")
    if held:
        scene.hold(held)
    else:
        scene.there.answer_next(HANG)
    with scene.running("first") as first:
        scene.look(first)
        scene.trade(101)
        first.wait_for(lambda: len(scene.deliveries()) == 1, WAIT)
        if held != "sending":
            first.wait_for(lambda: len(scene.there.messages) == 1, WAIT)
        first.process.kill()
        first.process.wait()
    if held:
        scene.release()
    assert len(scene.there.messages) == (held != "sending")
    with scene.running("second") as second:
        scene.ends(second, "sent" if held == "sending" else "unknown")
        scene.trade(99)
        second.wait_for(scene.is_armed, WAIT)
        scene.trade(101, 5)
        second.wait_for(lambda: len(scene.there.messages) == 2, WAIT)
    assert len({text.splitlines()[0] for text in scene.there.messages}) == 2, "no message came twice"


def test_two_processes_decide_and_send_as_one_and_the_other_takes_over(scene: Scene) -> None:
    scene.begin()
    scene.rule("crosses", "100")
    with scene.running("first") as first, ExitStack() as later:
        scene.look(first)
        second = later.enter_context(scene.running("second"))
        second.wait_for(lambda: "waits" in scene.message(second), WAIT)
        for price in (101, 99, 101):
            scene.trade(price, 5)
            expected = len(scene.there.messages) + 1
            first.wait_for(lambda: len(scene.there.messages) == expected, WAIT)  # noqa: B023 - at once
        first.wait_for(lambda: scene.states()["phone", "sent"] == 3, WAIT)  # stored as sent before the kill
        first.process.kill()
        first.process.wait()
        second.wait_for(lambda: "alerts are decided here" in second.said(), WAIT)
        scene.trade(99, 5)
        second.wait_for(lambda: scene.states()["phone", "sent"] == 4, WAIT)
    assert len(scene.there.messages) == 4


def test_no_secret_reaches_logs_tables_heartbeat_or_process_list(scene: Scene) -> None:
    scene.begin()
    scene.there.answer_next(TELEGRAM_BROKEN)
    scene.rule("below", "100", channels=["phone", "team"])
    with scene.running() as running:
        scene.ends(running, "sent", "sent")
        said = [" ".join(psutil.Process(running.process.pid).cmdline()), str(running.heartbeat())]
    said += [running.log.read_text(), str(scene.deliveries())]
    assert not [secret for secret in SECRETS for text in said if secret in text]


def test_a_rule_is_added_listed_and_removed_by_the_command_line(
    scene: Scene, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_module, "load", lambda **_: scene.settings)
    monkeypatch.setattr(status, "running_settings", lambda settings: settings)
    assert (
        cli.main(["alerts", "add", "crosses-up", "100000", "--symbol", "币安人生usdt", "--to", "phone"]) == 0
    )
    assert "rule 1: 币安人生USDT crosses up 100000, to phone" in capsys.readouterr().out
    assert cli.main(["alerts", "add", "above", "NaN"]) == 2
    assert "threshold: must be a number" in capsys.readouterr().err
    assert cli.main(["alerts", "add", "above", "1", "--to", "pager"]) == 2
    assert "no channel 'pager'; CANDLEFLOW_ALERT_CHANNELS has phone, team" in capsys.readouterr().err
    assert cli.main(["alerts", "list"]) == 0
    assert "rule 1: 币安人生USDT crosses up 100000" in capsys.readouterr().out
    assert cli.main(["alerts", "remove", "1"]) == 0
    assert cli.main(["alerts", "remove", "1"]) == 1
    capsys.readouterr()
    assert cli.main(["alerts", "test"]) == 0
    assert capsys.readouterr().out == "phone: sent\nteam: sent\n"
    assert len(scene.there.messages) == 2
    scene.there.answer_next(DISCORD_GONE)
    assert cli.main(["alerts", "test", "team"]) == 1
    assert "refused: 404 Not Found: Unknown Webhook" in capsys.readouterr().out


def test_without_a_channel_alerts_are_stored_and_the_command_line_says_how_to_have_them_sent(
    scene: Scene, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = scene.database.settings_with(alert_channels="", exchange="binance")
    monkeypatch.setattr(settings_module, "load", lambda **_: bare)
    monkeypatch.setattr(status, "running_settings", lambda settings: settings)
    scene.begin()
    assert cli.main(["alerts", "add", "above", "1"]) == 0
    said = capsys.readouterr().out
    assert "rule 1: every symbol is above 1, to every channel" in said
    assert "only stored and shown on the page: no channel is set up: add CANDLEFLOW_ALERT_CHANNELS=" in said
    for command in (["alerts", "add", "above", "1", "--to", "phone"], ["alerts", "test"]):
        assert cli.main(command) == 2
        assert "no channel is set up: add CANDLEFLOW_ALERT_CHANNELS=" in capsys.readouterr().err
    with scene.running(alert_channels="") as running:
        running.wait_for(lambda: len(scene.deliveries()) == 1, WAIT)
    assert cli.main(["alerts", "list"]) == 0
    assert "no channel: only stored: BTCUSDT is above 1: 99" in capsys.readouterr().out
    assert scene.there.requests == []
    scene.rule("below", "100", channels=[])
    with scene.running() as running:
        scene.ends(running, "only stored", "sent", "sent")
