"""The outcome of a message for each response or failure of the service, the network or the mail server."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from candleflow.alerts import commands as alert_commands
from candleflow.alerts.answers import Answer, Outcome
from candleflow.alerts.channels import Channel, channels
from candleflow.settings import load
from candleflow.stack.process import free_port
from tests.messengers import CHAT, DISCORD, GROUP, TELEGRAM, TOKEN, WEBHOOK, Messengers, Reply, messengers
from tests.security.certificates import Authority
from tests.unit.alerts.mail_server import GREETING, HANGS_UP, TEXT, mail_server

BODY = "BTCUSDT crosses up 100: 100.5 at 10:00:05 UTC\nhttp://localhost:8501/?symbol=BTCUSDT"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def there() -> Iterator[Messengers]:
    with messengers() as serving:
        yield serving


def channel(address: str, **more: str) -> Channel:
    return channels(load(alert_channels=f"phone={address}", **more))["phone"]


# Responses of the services ----------------------------------------------------------------------------------

NO_CHAT = Reply(200, {"ok": False, "error_code": 400, "description": "Bad Request: chat not found"})
FLOOD = Reply(
    200, {"ok": False, "error_code": 429, "description": "Too Many", "parameters": {"retry_after": 7}}
)


@pytest.mark.parametrize(
    ("address", "reply", "outcome", "words"),
    [
        (TELEGRAM, NO_CHAT, Outcome.REFUSED, "chat not found"),
        (TELEGRAM, FLOOD, Outcome.LATER, "Too Many"),
        (TELEGRAM, Reply(200, {"ok": False}), Outcome.REFUSED, "200 OK"),
        (TELEGRAM, Reply(200, {"ok": True}), Outcome.SENT, ""),
        (TELEGRAM, Reply(407, {}), Outcome.LATER, "407"),
        (DISCORD, Reply(204, {}), Outcome.SENT, ""),
    ],
)
def test_the_responses_body_can_override_its_status(
    there: Messengers, address: str, reply: Reply, outcome: Outcome, words: str
) -> None:
    there.answer_next(reply)
    answer = channel(address, **there.settings).send(BODY)
    assert answer.outcome is outcome
    assert words in answer.detail


def test_a_telegram_address_without_a_chat_sends_nothing(there: Messengers) -> None:
    """Apprise asks the bot who wrote to it. That request succeeds, but carries no message."""
    there.answer_next(Reply(200, {"ok": True, "result": []}))
    answer = channel(f"tgram://{TOKEN}/", **there.settings).send(BODY)
    assert answer.outcome is Outcome.REFUSED
    assert "does the address name a recipient?" in answer.detail
    assert there.requests == [f"/bot{TOKEN}/getUpdates"]


def test_someone_who_wrote_to_the_bot_gets_the_message(there: Messengers) -> None:
    update = {"message": {"from": {"id": int(CHAT), "first_name": "one"}}}
    there.answer_next(Reply(200, {"ok": True, "result": [update]}))
    assert channel(f"tgram://{TOKEN}/", **there.settings).send(BODY).outcome is Outcome.SENT


class Service:
    """Stands in for a plugin that logs in and then sends to rooms, as the one for Matrix does."""

    def __init__(self, url: str, rooms: int = 1, says: bool | None = None) -> None:
        self._url, self._rooms, self._says = url, rooms, says
        self.attachment_support = False

    def notify(self, *, body: str, **_: Any) -> bool:
        went_well = True
        for name, payload in [("login", {"user": "me"}), *[("send", {"body": body})] * self._rooms]:
            try:
                answer = requests.post(f"{self._url}/{name}", data=json.dumps(payload), timeout=5)
                went_well = went_well and answer.ok
            except requests.RequestException:
                went_well = False
        return went_well if self._says is None else self._says


@pytest.mark.parametrize(
    ("statuses", "rooms", "says", "outcome"),
    [
        ((200, 200), 1, None, Outcome.SENT),
        ((200, 403), 1, None, Outcome.REFUSED),
        ((200, 429), 1, None, Outcome.LATER),
        ((200, 503), 1, None, Outcome.LATER),
        ((200, 502), 1, None, Outcome.UNKNOWN),
        ((401,), 1, None, Outcome.REFUSED),
        ((503,), 1, None, Outcome.LATER),
        ((200, 200), 1, False, Outcome.REFUSED),
        ((200, 403), 1, True, Outcome.REFUSED),
        ((200, 200, 429), 2, None, Outcome.SENT),
        ((200, 429), 2, None, Outcome.LATER),
        ((200, 200, 200), 2, False, Outcome.UNKNOWN),
    ],
)
def test_only_the_request_that_carries_the_message_counts(
    statuses: tuple[int, ...], rooms: int, says: bool | None, outcome: Outcome
) -> None:
    channel(TELEGRAM)  # installs the recorder
    with answering([f"HTTP/1.1 {one} Words\r\nContent-Length: 2\r\n\r\n{{}}" for one in statuses]) as port:
        one = Channel("room", Service(f"http://127.0.0.1:{port}", rooms, says), "matrix://me:pw@host", 1.0)
        assert one.send(BODY).outcome is outcome


LOGGED_IN = '{"status": "success", "data": {"authToken": "made-up", "userId": "me"}}'
TAKEN = '{"success": true}'
NOT_ALLOWED = '{"success": false, "error": "not-allowed"}'


@pytest.mark.parametrize(
    ("replies", "outcome"),
    [
        (((200, LOGGED_IN), (200, TAKEN), (200, TAKEN)), Outcome.SENT),
        (((200, LOGGED_IN), (200, TAKEN), (500, TAKEN)), Outcome.SENT),
        (((200, LOGGED_IN), (400, NOT_ALLOWED)), Outcome.REFUSED),
        (((200, LOGGED_IN), (429, NOT_ALLOWED)), Outcome.LATER),
        (((401, NOT_ALLOWED),), Outcome.REFUSED),
    ],
)
def test_a_successful_log_in_is_not_a_sent_message(
    replies: tuple[tuple[int, str], ...], outcome: Outcome
) -> None:
    """With apprise's plugin for Rocket.Chat, which logs in, sends, and logs out."""
    with answering(
        [f"HTTP/1.1 {one} Words\r\nContent-Length: {len(body)}\r\n\r\n{body}" for one, body in replies]
    ) as port:
        answer = channel(f"rocket://me:secret@127.0.0.1:{port}/#room").send(BODY)
    assert answer.outcome is outcome, answer.detail


def test_alerts_test_exits_1_if_nothing_was_sent(
    there: Messengers, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load(alert_channels=f"phone={TELEGRAM},team={DISCORD}", **there.settings)
    there.answer_next(NO_CHAT)
    assert alert_commands.run(settings, Namespace(action="test", channel=None)) == 1
    said = capsys.readouterr().out
    assert said == "phone: refused: 200 OK: Bad Request: chat not found\nteam: sent\n"
    assert alert_commands.run(settings, Namespace(action="test", channel=None)) == 0


# Failures of the network ------------------------------------------------------------------------------------


@contextmanager
def answering(replies: list[str], tls: ssl.SSLContext | None = None, *, reads: bool = True) -> Iterator[int]:
    """Run a server; yield its port. Each connection gets the next reply and is then closed."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for reply in replies:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection if tls is None else tls.wrap_socket(connection, server_side=True) as one:
                    if reads:
                        _read_request(one)
                    os.write(
                        one.fileno(), reply.encode()
                    )  # on the raw socket, so under TLS this is an invalid record

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def _read_request(connection: socket.socket) -> None:
    read = b""
    while b"\r\n\r\n" not in read:
        read += _some(connection)
    head, _, body = read.partition(b"\r\n\r\n")
    length = next(
        (int(one[15:]) for one in head.split(b"\r\n") if one.lower().startswith(b"content-length:")), 0
    )
    while len(body) < length:
        body += _some(connection)


def _some(connection: socket.socket) -> bytes:
    found = connection.recv(65_536)
    if not found:
        raise OSError("it was closed")
    return found


Link = AbstractContextManager[int]


def no_server() -> Link:
    return answering([])


LATER, UNKNOWN = Outcome.LATER, Outcome.UNKNOWN
PROXIED = "https://messenger.invalid"
NETWORKS: Mapping[str, tuple[str, str, Callable[[], Link], Outcome]] = {
    "no such host": ("https://messenger.invalid", "", no_server, LATER),
    "connection refused": ("https://127.0.0.1:{free}", "", no_server, LATER),
    "no TLS there": (
        "https://127.0.0.1:{port}", "", lambda: answering(["HTTP/1.1 400 No\r\n\r\n"], reads=False), LATER
    ),
    "TLS cut off": ("https://127.0.0.1:{port}", "", lambda: answering([""], reads=False), LATER),
    "proxy isn't there": (PROXIED, "http://127.0.0.1:{free}", no_server, LATER),
    "proxy's name is unknown": (PROXIED, "http://proxy.invalid:1", no_server, LATER),
    "proxy refuses": (
        PROXIED, "http://127.0.0.1:{port}", lambda: answering(["HTTP/1.1 403 No\r\n\r\n"]), LATER
    ),
    "proxy wants a password": (
        PROXIED, "http://127.0.0.1:{port}", lambda: answering(["HTTP/1.1 407 No\r\n\r\n"]), LATER
    ),
    "proxy hangs up": (PROXIED, "http://127.0.0.1:{port}", lambda: answering([""]), LATER),
    "proxy accepts, then hangs up": (
        PROXIED, "http://127.0.0.1:{port}", lambda: answering(["HTTP/1.1 200 Yes\r\n\r\n"]), LATER
    ),
    "no SOCKS proxy there": (PROXIED, "socks5h://127.0.0.1:{free}", no_server, LATER),
    "SOCKS proxy refuses": (
        PROXIED, "socks5h://127.0.0.1:{port}", lambda: answering(["no"], reads=False), LATER
    ),
    "cut off after the request": ("http://127.0.0.1:{port}", "", lambda: answering([""]), UNKNOWN),
    "no HTTP after the request": ("http://127.0.0.1:{port}", "", lambda: answering(["what?"]), UNKNOWN),
    "by a proxy, cut off after the request": (
        "http://127.0.0.1:{free}", "http://127.0.0.1:{port}", lambda: answering([""]), UNKNOWN
    ),
}  # fmt: skip
"""By name: the service's address, the proxy's, the server at {port}, and the expected outcome.

Nothing listens at {free}.
"""


def sent_over(network: str, monkeypatch: pytest.MonkeyPatch) -> Answer:
    url, proxy, link, _ = NETWORKS[network]
    with link() as port:
        places = {"port": port, "free": free_port()}
        if proxy:
            monkeypatch.setenv(f"{url.partition(':')[0]}_proxy", proxy.format(**places))
        return channel(f"{TELEGRAM}?rto=2&cto=2", alert_telegram_url=url.format(**places)).send(BODY)


@pytest.mark.parametrize("network", NETWORKS)
def test_an_unsent_message_is_retried_and_a_possibly_sent_one_is_unknown(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = sent_over(network, monkeypatch)
    assert answer.outcome is NETWORKS[network][3], answer.detail
    assert TOKEN not in answer.detail


def test_a_socks_proxy_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.")  # as requests does

    monkeypatch.setattr("requests.adapters.SOCKSProxyManager", missing)
    answer = sent_over("no SOCKS proxy there", monkeypatch)
    assert (answer.outcome, "PySocks" in answer.detail) == (LATER, True)


def test_a_tls_error_after_the_request_was_written_is_unknown(tmp_path: Path) -> None:
    """It has the same exception class as a rejected certificate, which comes before the request."""
    signed = Authority(tmp_path).certificate("server", "IP:127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed.certificate, signed.key)
    for verify, outcome in (("no", UNKNOWN), ("yes", LATER)):
        with answering(["no record of TLS"], context) as port:
            one = channel(f"{TELEGRAM}?verify={verify}", alert_telegram_url=f"https://127.0.0.1:{port}")
            assert one.send(BODY).outcome is outcome


MAILS: Mapping[str, tuple[Mapping[str, str], Outcome, int]] = {
    "taken": ({}, Outcome.SENT, 1),
    "not now": ({GREETING: "421 not now"}, LATER, 0),
    "no greeting": ({GREETING: HANGS_UP}, LATER, 0),
    "wrong password": ({"AUTH": "535 no"}, Outcome.REFUSED, 0),
    "no log-in now": ({"AUTH": "454 not now"}, LATER, 0),
    "sender refused": ({"MAIL": "550 no"}, Outcome.REFUSED, 0),
    "recipient refused": ({"RCPT": "550 no such user"}, Outcome.REFUSED, 0),
    "greylisted": ({"RCPT": "451 later"}, LATER, 0),
    "no text wanted": ({"DATA": "554 no"}, Outcome.REFUSED, 0),
    "cut off before the text": ({"DATA": HANGS_UP}, LATER, 0),
    "text refused": ({TEXT: "554 spam"}, Outcome.REFUSED, 1),
    "no room": ({TEXT: "452 no room"}, LATER, 1),
    "cut off after the text": ({TEXT: HANGS_UP}, UNKNOWN, 1),
    "cut off at the end": ({"QUIT": HANGS_UP}, Outcome.SENT, 1),
}
"""By name: the mail server's replies, the expected outcome, and how many texts reached it."""


@pytest.mark.parametrize("mail", MAILS)
def test_a_mail_servers_replies_determine_the_outcome(mail: str) -> None:
    replies, outcome, texts = MAILS[mail]
    with mail_server(replies) as server:
        answer = channel(_mail(server.port)).send(BODY)
    assert answer.outcome is outcome, answer.detail
    assert len(server.texts) == texts


def test_without_a_mail_server_the_message_is_retried() -> None:
    assert channel(_mail(free_port())).send(BODY).outcome is LATER
    assert channel("mailto://me:canary@mail.invalid?mode=insecure").send(BODY).outcome is LATER


def _mail(port: int) -> str:
    return f"mailto://me:secret@127.0.0.1:{port}?from=me@example.com&to=you@example.com&mode=insecure"


# Addresses --------------------------------------------------------------------------------------------------

SUPERGROUP = "-1001234567890"
MOVED = Reply(
    400,
    {
        "ok": False,
        "error_code": 400,
        "description": "Bad Request: group chat was upgraded to a supergroup chat",
        "parameters": {"migrate_to_chat_id": int(SUPERGROUP)},
    },
)


def test_a_moved_group_gets_the_message_in_its_new_chat(there: Messengers) -> None:
    one = channel(f"tgram://{TOKEN}/{GROUP}", **there.settings)
    there.answer_next(MOVED)
    answer = one.send(BODY)
    assert answer.outcome is Outcome.SENT
    assert f"replace {GROUP} by {SUPERGROUP} in CANDLEFLOW_ALERT_CHANNELS" in answer.detail
    assert one.send("another text") == Answer(Outcome.SENT)
    assert there.chats == [GROUP, SUPERGROUP, SUPERGROUP]
    assert len(there.messages) == 2


def test_a_group_that_moved_twice_is_refused(there: Messengers) -> None:
    there.answer_next(MOVED, MOVED)
    answer = channel(f"tgram://{TOKEN}/{GROUP}", **there.settings).send(BODY)
    assert answer.outcome is Outcome.REFUSED
    assert there.chats == [GROUP, SUPERGROUP]


def test_of_two_chats_only_the_moved_one_gets_the_message_again(there: Messengers) -> None:
    there.answer_next(Reply(), MOVED)
    assert channel(f"tgram://{TOKEN}/{CHAT}/{GROUP}", **there.settings).send(BODY).outcome is Outcome.SENT
    assert (set(there.chats[:2]), there.chats[2:]) == ({CHAT, GROUP}, [SUPERGROUP])
    assert len(there.messages) == 2


@pytest.mark.parametrize("host", ["discord.com", "ptb.discord.com", "canary.discord.com", "discordapp.com"])
@pytest.mark.parametrize("version", ["", "v10/"])
def test_a_webhook_address_is_accepted_as_discords_apps_show_it(
    there: Messengers, host: str, version: str
) -> None:
    one = channel(f"https://{host}/api/{version}webhooks/{WEBHOOK}", **there.settings)
    assert one.send(BODY) == Answer(Outcome.SENT)
    assert len(there.messages) == 1
