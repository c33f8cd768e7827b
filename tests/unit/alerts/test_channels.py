"""Channels against local servers that respond like Telegram and Discord."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from candleflow.alerts.answers import Answer, Exchange, Outcome, interpret
from candleflow.alerts.channels import Channel, channels
from candleflow.errors import SettingError
from candleflow.settings import channels_of, load
from candleflow.stack.process import free_port
from tests import messengers as doubles
from tests.messengers import DISCORD, GROUP, SECRETS, TELEGRAM, TOKEN, Messengers, Reply, messengers


def _png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "#1a85d6").save(out, "PNG")
    return out.getvalue()


PNG = _png()


@pytest.fixture
def there() -> Iterator[Messengers]:
    with messengers() as serving:
        yield serving


def channel(there: Messengers, address: str = TELEGRAM, tmp: Path = Path("unused")) -> Channel:
    return channels(load(alert_channels=f"phone={address}", data_dir=tmp, **there.settings))["phone"]


@pytest.mark.parametrize("address", [TELEGRAM, DISCORD])
def test_a_message_arrives_as_it_was_written(there: Messengers, address: str) -> None:
    text = (
        "BTCUSDT crosses up 100: 100.5\n1 < 2 & 3 > 2 *not bold* _nor this_\nhttp://localhost:8501/?symbol=X"
    )
    assert channel(there, address).send(text) == Answer(Outcome.SENT)
    assert [one.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").replace("\r", "")
            for one in there.messages] == [text]  # fmt: skip


@pytest.mark.parametrize(
    ("address", "reply", "outcome", "wait", "is_channels_own"),
    [
        (TELEGRAM, doubles.TELEGRAM_FLOOD, Outcome.LATER, 1.0, False),
        (TELEGRAM, doubles.TELEGRAM_BROKEN, Outcome.LATER, None, False),
        (TELEGRAM, doubles.TELEGRAM_BAD_TOKEN, Outcome.REFUSED, None, True),
        (TELEGRAM, doubles.TELEGRAM_BLOCKED, Outcome.REFUSED, None, True),
        (TELEGRAM, Reply(400, {"description": "Bad Request"}), Outcome.REFUSED, None, False),
        (TELEGRAM, Reply(502, {}), Outcome.UNKNOWN, None, False),
        (TELEGRAM, Reply(504, {}), Outcome.UNKNOWN, None, False),
        (DISCORD, doubles.DISCORD_FLOOD, Outcome.LATER, 1.5, False),
        (DISCORD, doubles.DISCORD_GONE, Outcome.REFUSED, None, True),
        (DISCORD, Reply(500, {"message": "500: Internal Server Error"}), Outcome.LATER, None, False),
        (DISCORD, Reply(503, {}, {"Retry-After": "7"}), Outcome.LATER, 7.0, False),
    ],
)
def test_a_response_determines_the_outcome(
    there: Messengers,
    address: str,
    reply: Reply,
    outcome: Outcome,
    wait: float | None,
    is_channels_own: bool,
) -> None:
    there.answer_next(reply)
    answer = channel(there, address).send("text")
    assert (answer.outcome, answer.wait_seconds, answer.is_channels_own) == (outcome, wait, is_channels_own)
    assert str(reply.status) in answer.detail
    assert len(there.requests) == 1, "apprise's own retry is blocked"
    assert there.messages == []


def test_discords_rate_limit_headers_set_the_wait(there: Messengers) -> None:
    there.answer_next(Reply(headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset-After": "1.25"}))
    assert channel(there, DISCORD).send("text") == Answer(Outcome.SENT, wait_seconds=1.25)


def test_without_a_response_the_outcome_is_unknown(there: Messengers) -> None:
    there.answer_next(doubles.HANG)
    answer = channel(there, f"{TELEGRAM}?rto=0.3").send("text")
    assert answer.outcome is Outcome.UNKNOWN
    assert there.messages == ["text"]


def test_a_refused_connection_is_retried_later() -> None:
    away = f"http://127.0.0.1:{free_port()}"
    found = channels(load(alert_channels=f"phone={TELEGRAM}", alert_telegram_url=away))
    assert found["phone"].send("text") == Answer(Outcome.LATER, "no connection (NewConnectionError)")


@pytest.mark.parametrize("address", [TELEGRAM, DISCORD])
def test_a_picture_arrives_unchanged_and_without_text(there: Messengers, address: str) -> None:
    one = channel(there, address)
    assert one.takes_pictures
    assert one.send("words") == one.send_picture(PNG) == one.send_picture(PNG) == Answer(Outcome.SENT)
    assert (there.messages, there.pictures) == (["words"], [PNG, PNG])


def test_a_channel_that_takes_no_files_says_so() -> None:
    assert not channels(load(alert_channels="team=ifttt://a@b"))["team"].takes_pictures


@pytest.mark.parametrize(
    ("address", "reply", "outcome", "wait"),
    [
        (TELEGRAM, doubles.TELEGRAM_FLOOD, Outcome.LATER, 1.0),
        (TELEGRAM, doubles.TELEGRAM_NO_IMAGE, Outcome.REFUSED, None),
        (DISCORD, doubles.DISCORD_FLOOD, Outcome.LATER, 1.5),
        (DISCORD, Reply(413, {"message": "Request entity too large"}), Outcome.REFUSED, None),
    ],
)
def test_a_response_determines_the_outcome_of_a_picture(
    there: Messengers, address: str, reply: Reply, outcome: Outcome, wait: float | None
) -> None:
    there.answer_next_picture(reply)
    answer = channel(there, address).send_picture(PNG)
    assert (answer.outcome, answer.wait_seconds) == (outcome, wait)
    assert len(there.picture_requests) == 1, "apprise's own retry is blocked"


def test_telegram_refuses_a_file_that_is_not_a_picture(there: Messengers) -> None:
    answer = channel(there).send_picture(b"\x89PNG, and no more")
    assert answer.outcome is Outcome.REFUSED
    assert "IMAGE_PROCESS_FAILED" in answer.detail


def test_a_telegram_group_gets_at_most_20_messages_a_minute(there: Messengers) -> None:
    assert channel(there).pause_seconds == 1
    assert channel(there, f"tgram://{TOKEN}/{GROUP}").pause_seconds == 3


def test_no_log_and_no_repr_shows_a_secret(
    there: Messengers, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    for address, secret in ((TELEGRAM, TOKEN), (DISCORD, doubles.WEBHOOK)):
        there.answer_next(doubles.telegram_refusal(400, f"no {secret}"), doubles.TELEGRAM_BROKEN)
        one = channel(there, address)
        said = [repr(one), repr(one.send("text")), repr(one.send("text")), *capfd.readouterr(), caplog.text]
        assert not [secret for secret in SECRETS for text in said if secret in text]


def test_an_invalid_address_is_reported_by_the_channels_name() -> None:
    with pytest.raises(SettingError, match="CANDLEFLOW_ALERT_CHANNELS: phone: apprise") as caught:
        channels(load(alert_channels="phone=canary://nothing"))
    assert "canary" not in str(caught.value)


def test_a_comma_ends_an_address_only_where_another_channel_follows() -> None:
    text = "mail=mailto://me:pw@example.com?to=a@b.c,d@e.f, team=discord://1/2"
    assert channels_of(text) == {
        "mail": "mailto://me:pw@example.com?to=a@b.c,d@e.f",
        "team": "discord://1/2",
    }
    assert channels_of("") == {}


@pytest.mark.parametrize("text", ["tgram://1/2", "Phone=tgram://1/2", "a=b", "a=x://1,a=x://2", "=x://1"])
def test_an_invalid_channel_list_is_a_setting_error_that_hides_the_value(text: str) -> None:
    with pytest.raises(SettingError, match="CANDLEFLOW_ALERT_CHANNELS: must") as caught:
        load(alert_channels=text)
    assert text not in str(caught.value)


@pytest.mark.parametrize("url", ["http://example.com", "ftp://x", "https://x/path", "https://u@x", ""])
def test_a_token_is_never_sent_unencrypted(url: str) -> None:
    with pytest.raises(SettingError, match="CANDLEFLOW_ALERT_TELEGRAM_URL"):
        load(alert_telegram_url=url)


def test_a_partly_accepted_message_counts_as_sent() -> None:
    """A retry would send the accepted part twice."""
    answer = interpret([Exchange(200), Exchange(500)], went_well=False)
    assert answer.outcome is Outcome.SENT
    assert "500" in answer.detail
