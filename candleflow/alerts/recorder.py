"""The requests of an attempt to send a message: whether each carries the message, and its answer.

Apprise says of an attempt only whether it went well. So witnesses stand between its plugins and the
network: the adapter of ``requests`` that they post by, and the classes of ``smtplib`` that they mail by. They
note each answer or failure for the attempt under way. Once a request of the attempt has failed, they let no
other out: apprise's plugin for Discord would retry.

A request may have left from its first byte on. The connection tells when that is, as no exception does: a TLS
error or a timeout comes before that byte or after it.
"""

from __future__ import annotations

import http.client
import json
import re
import smtplib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.exceptions import MaxRetryError

from candleflow.alerts.answers import Exchange

_KEPT_BYTES: Final = 65_536
_MARKS: Final = 3
"""Words of the message by which a request is known to carry it, or a part of it; a log-in has fewer."""
_WORD: Final = re.compile(rb"[A-Za-z0-9]{4,}")
"""What looks the same in JSON, in a form, in XML and in an e-mail."""


@dataclass
class Attempt:
    """What one attempt has met so far."""

    marks: Sequence[bytes] = ()
    """Parts of the message, by which a request that carries it is known."""
    exchanges: list[Exchange] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)
    """Telegram's groups that have another number by now, by their old one."""
    has_begun: bool = False
    """Whether a byte of the request under way may have left."""

    @property
    def has_failed(self) -> bool:
        return any(not one.is_accepted for one in self.exchanges)

    def has_marks(self, content: bytes) -> bool:
        return sum(mark in content for mark in self.marks) >= min(_MARKS, len(self.marks))


_attempt: ContextVar[Attempt | None] = ContextVar("attempt", default=None)


@contextmanager
def recorded_attempt(message: str | bytes) -> Iterator[Attempt]:
    """Note what becomes of sending a message: words, or a file's bytes."""
    attempt = Attempt(
        [message] if isinstance(message, bytes) else sorted(set(_WORD.findall(message.encode())))
    )
    token = _attempt.set(attempt)
    try:
        yield attempt
    finally:
        _attempt.reset(token)


def install() -> None:
    """In the process that sends: every session of ``requests`` and of ``smtplib`` gets a witness.

    urllib3's connections, which ``requests`` sends by, tell the attempt when a request begins to leave.
    """
    requests.sessions.HTTPAdapter = _RecordingAdapter  # type: ignore[attr-defined]
    HTTPConnection.endheaders = _endheaders  # type: ignore[assignment]
    smtplib.SMTP = _RecordingSmtp  # type: ignore[misc]
    smtplib.SMTP_SSL = _RecordingSmtpOverTls  # type: ignore[misc]


# HTTP --------------------------------------------------------------------------------------------------


class _RecordingAdapter(HTTPAdapter):
    """Sends as ``requests`` does, and notes what came of it for the attempt under way, if any."""

    def send(self, request: requests.PreparedRequest, *args: Any, **more: Any) -> requests.Response:
        attempt = _attempt.get()
        if attempt is None:
            return super().send(request, *args, **more)
        if attempt.has_failed:
            raise requests.ConnectionError("an earlier request of this attempt has failed")
        response = self._noted(attempt, request, *args, **more)
        again = _readdressed(request, attempt)
        if again is None:
            return response
        attempt.exchanges.pop()
        return self._noted(attempt, again, *args, **more)

    def _noted(
        self, attempt: Attempt, request: requests.PreparedRequest, *args: Any, **more: Any
    ) -> requests.Response:
        carries = attempt.has_marks(_content(request))
        attempt.has_begun = False
        try:
            response = super().send(request, *args, **more)
        except Exception as error:
            attempt.exchanges.append(
                Exchange(None, was_written=attempt.has_begun, carries=carries, why=_why(error))
            )
            raise
        attempt.exchanges.append(
            Exchange(
                response.status_code,
                dict(response.headers),
                _beginning(response),
                was_written=True,
                carries=carries,
            )
        )
        return response


def _endheaders(self: HTTPConnection, *args: Any, **more: Any) -> None:
    """Connect first: what fails there, the proxy and TLS included, has let nothing out."""
    if self.sock is None:
        self.connect()
    attempt = _attempt.get()
    if attempt is not None:
        attempt.has_begun = True
    http.client.HTTPConnection.endheaders(self, *args, **more)


def _content(request: requests.PreparedRequest) -> bytes:
    return unquote_to_bytes(request.url or "") + b"\n" + _body(request)


def _body(request: requests.PreparedRequest) -> bytes:
    """Empty where it is a stream, which no plugin's is."""
    body = request.body
    return body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else b""


def _beginning(response: requests.Response) -> bytes:
    try:
        return response.content[:_KEPT_BYTES]
    except requests.RequestException:
        return b""  # the status stands, whatever became of the rest


def _why(error: Exception) -> str:
    """The innermost cause by its name; not its text, which may hold the address."""
    cause: Any = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else None
    if isinstance(error, requests.exceptions.InvalidSchema) and "SOCKS" in str(error):
        return "a SOCKS proxy needs the package PySocks"
    return type(reason or error).__name__


def _readdressed(request: requests.PreparedRequest, attempt: Attempt) -> requests.PreparedRequest | None:
    """The request again to the chat that the answer names: Telegram's group has become a supergroup."""
    moved_to = attempt.exchanges[-1].moved_to
    try:
        payload = json.loads(_body(request))
        old = str(payload["chat_id"])
    except (ValueError, KeyError, TypeError):
        return None
    if moved_to is None or old in attempt.moved:
        return None
    attempt.moved[old] = moved_to
    again = request.copy()
    again.prepare_body(json.dumps({**payload, "chat_id": moved_to}), None)
    return again


# E-mail ------------------------------------------------------------------------------------------------


class _RecordingMail:
    """Sends as ``smtplib`` does, and notes what came of it for the attempt under way, if any."""

    _has_begun = False

    def connect(self, *args: Any, **more: Any) -> Any:
        with self._noted(carries=False):
            return super().connect(*args, **more)  # type: ignore[misc]

    def starttls(self, *args: Any, **more: Any) -> Any:
        with self._noted(carries=False):
            return super().starttls(*args, **more)  # type: ignore[misc]

    def login(self, *args: Any, **more: Any) -> Any:
        with self._noted(carries=False):
            return super().login(*args, **more)  # type: ignore[misc]

    def sendmail(self, *args: Any, **more: Any) -> Any:
        self._has_begun = False
        with self._noted(carries=True):
            refused = super().sendmail(*args, **more)  # type: ignore[misc]
        _note(Exchange(250, is_mail=True))
        for code, words in refused.values():
            _note(Exchange(code, body=words, is_mail=True))
        return refused

    def getreply(self) -> Any:
        """After 354 the message itself leaves."""
        code, words = super().getreply()  # type: ignore[misc]
        self._has_begun = self._has_begun or code == 354
        return code, words

    @contextmanager
    def _noted(self, *, carries: bool) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # smtplib's own are of this kind too
            code, words = _refusal(error)
            _note(
                Exchange(
                    code,
                    body=words,
                    was_written=self._has_begun,
                    carries=carries,
                    why=type(error).__name__,
                    is_mail=True,
                )
            )
            raise


def _note(exchange: Exchange) -> None:
    attempt = _attempt.get()
    if attempt is not None:
        attempt.exchanges.append(exchange)


def _refusal(error: OSError) -> tuple[int | None, bytes]:
    """The server's code and words; of several recipients' the code that another attempt could change."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return min(error.recipients.values())
    if isinstance(error, smtplib.SMTPResponseException) and error.smtp_code >= 400:
        words = error.smtp_error
        return error.smtp_code, words if isinstance(words, bytes) else str(words).encode()
    return None, b""


class _RecordingSmtp(_RecordingMail, smtplib.SMTP):
    pass


class _RecordingSmtpOverTls(_RecordingMail, smtplib.SMTP_SSL):
    pass
