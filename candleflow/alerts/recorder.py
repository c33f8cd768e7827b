"""Record the requests of an attempt to send a message: whether each contains the message, and its response.

Apprise reports only whether an attempt succeeded. So this module replaces the adapter of ``requests`` and the
classes of ``smtplib`` that apprise's plugins use. The replacements record each response or failure in the
current attempt. After a failed request they block all further ones: apprise's Discord plugin would retry.

A message may have arrived once the first byte of its request was sent. Only the connection knows when that
happens. The exception doesn't tell: a TLS error or a timeout can come before or after that byte.
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
"""A request with at least this many words of the message contains it or a part of it; a log-in has fewer."""
_WORD: Final = re.compile(rb"[A-Za-z0-9]{4,}")
"""Words that are encoded the same way in JSON, in a form, in XML and in an e-mail."""


@dataclass
class Attempt:
    """One attempt to send a message, with the requests made so far."""

    marks: Sequence[bytes] = ()
    """Parts of the message; a request that contains enough of them carries the message."""
    exchanges: list[Exchange] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)
    """New chat ids of Telegram groups that became supergroups, by old id."""
    has_begun: bool = False
    """Whether a byte of the current request may have been sent."""

    @property
    def has_failed(self) -> bool:
        return any(not one.is_accepted for one in self.exchanges)

    def has_marks(self, content: bytes) -> bool:
        return sum(mark in content for mark in self.marks) >= min(_MARKS, len(self.marks))


_attempt: ContextVar[Attempt | None] = ContextVar("attempt", default=None)


@contextmanager
def recorded_attempt(message: str | bytes) -> Iterator[Attempt]:
    """Record the requests made while sending a message (a text, or a file's bytes)."""
    attempt = Attempt(
        [message] if isinstance(message, bytes) else sorted(set(_WORD.findall(message.encode())))
    )
    token = _attempt.set(attempt)
    try:
        yield attempt
    finally:
        _attempt.reset(token)


def install() -> None:
    """Replace the classes of ``requests`` and ``smtplib`` by recording ones, in the whole process.

    urllib3's connections, which ``requests`` uses, then mark the attempt when a request begins to be sent.
    """
    requests.sessions.HTTPAdapter = _RecordingAdapter  # type: ignore[attr-defined]
    HTTPConnection.endheaders = _endheaders  # type: ignore[assignment]
    smtplib.SMTP = _RecordingSmtp  # type: ignore[misc]
    smtplib.SMTP_SSL = _RecordingSmtpOverTls  # type: ignore[misc]


# HTTP --------------------------------------------------------------------------------------------------


class _RecordingAdapter(HTTPAdapter):
    """Sends as ``requests`` does, and records the result in the current attempt, if there is one."""

    def send(self, request: requests.PreparedRequest, *args: Any, **more: Any) -> requests.Response:
        attempt = _attempt.get()
        if attempt is None:
            return super().send(request, *args, **more)
        if attempt.has_failed:
            raise requests.ConnectionError("blocked: an earlier request of this attempt has failed")
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
    """Connect before marking the request as begun: if connecting, proxy or TLS fails, nothing was sent."""
    if self.sock is None:
        self.connect()
    attempt = _attempt.get()
    if attempt is not None:
        attempt.has_begun = True
    http.client.HTTPConnection.endheaders(self, *args, **more)


def _content(request: requests.PreparedRequest) -> bytes:
    return unquote_to_bytes(request.url or "") + b"\n" + _body(request)


def _body(request: requests.PreparedRequest) -> bytes:
    """Return the body as bytes; empty if it is a stream, which no plugin uses."""
    body = request.body
    return body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else b""


def _beginning(response: requests.Response) -> bytes:
    try:
        return response.content[:_KEPT_BYTES]
    except requests.RequestException:
        return b""  # reading the body failed; the status still counts


def _why(error: Exception) -> str:
    """Return the class name of the innermost cause. Its text may contain the address."""
    cause: Any = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else None
    if isinstance(error, requests.exceptions.InvalidSchema) and "SOCKS" in str(error):
        return "a SOCKS proxy needs the package PySocks"
    return type(reason or error).__name__


def _readdressed(request: requests.PreparedRequest, attempt: Attempt) -> requests.PreparedRequest | None:
    """Return the request for the new chat id, if Telegram says that the group became a supergroup."""
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
    """Sends as ``smtplib`` does, and records the result in the current attempt, if there is one."""

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
        """Read a reply. After 354 the client sends the message's text."""
        code, words = super().getreply()  # type: ignore[misc]
        self._has_begun = self._has_begun or code == 354
        return code, words

    @contextmanager
    def _noted(self, *, carries: bool) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # smtplib's errors are OSErrors too
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
    """Return the server's code and text. Of several recipients, the lowest code: 4yz can be retried."""
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
