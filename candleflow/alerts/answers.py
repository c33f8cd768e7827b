"""Map a server's response to the outcome of a message: sent, pending (retry), refused, or unknown. No I/O.

Only the request that carries the message counts; a successful log-in sends nothing. A 2xx status means that
the message was accepted, unless the body (``"ok": false``) or apprise's plugin says otherwise.

The sender retries a message only if it is certain that the server did not accept it:

- no byte of it was sent (unknown host, connection refused by host or proxy, TLS failed, no mail server);
- 429: rate limit; the server says how long to wait;
- 407, 408, 425, 500 and 503: the server or a proxy says that it did not process the request;
- a mail server's 4yz, a temporary failure.

After any other failure once the request was written, above all a timeout, the message may have arrived. Its
outcome is *unknown*, and it is not retried, so that it is sent at most once. 502 and 504 come from a gateway
and are unknown too. All other 3xx and 4xx, and a mail server's 5yz, are permanent refusals. 401, 403, 404 and
a refused log-in concern the channel itself: the token, the chat or the webhook is wrong or gone.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

LONGEST_WAIT_SECONDS: Final = 3_600.0
_LONGEST_WORDS: Final = 100
_NOT_TAKEN: Final = frozenset({407, 408, 425, 429, 500, 503})
_CHANNELS_OWN: Final = frozenset({401, 403, 404})
_MAILS_OWN: Final = frozenset({530, 534, 535, 538})
"""SMTP: log-in required or rejected (RFC 4954)."""
_SAID: Final = ("description", "message", "error")
_IT_MAY: Final = "it may have arrived, so it is not sent again"


class Outcome(StrEnum):
    """The outcome of an attempt, named as in the table of deliveries. LATER means: retry."""

    SENT = "sent"
    LATER = "pending"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its response; ``status`` is None if there was no response."""

    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    was_written: bool = False
    """Whether a byte of the request, or of the e-mail's text, may have been sent."""
    carries: bool = True
    """Whether the request contained the message or a part of it."""
    why: str = ""
    """The error's name, if there was no response."""
    is_mail: bool = False
    """Whether ``status`` is an SMTP code."""

    @property
    def is_accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300 and _json(self).get("ok") is not False

    @property
    def moved_to(self) -> str | None:
        """The new chat id, if Telegram says that the group has become a supergroup."""
        moved = _parameters(self).get("migrate_to_chat_id")
        return None if self.is_accepted or not isinstance(moved, int) else str(moved)


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of an attempt, with a description."""

    outcome: Outcome
    detail: str = ""
    wait_seconds: float | None = None
    """How long the server asks this channel to wait before the next message."""
    is_channels_own: bool = False
    """Whether the server refused the channel itself rather than this message."""


def interpret(
    exchanges: Sequence[Exchange], *, went_well: bool, otherwise: str = "", is_recorded: bool = False
) -> Answer:
    """Determine the outcome of an attempt from its requests.

    ``went_well``: what apprise reported. ``otherwise``: the failure's description if there was no request.
    ``is_recorded``: whether ``exchanges`` has every request that was sent. If a server accepted a part of the
    message, but another request failed, the outcome is SENT: a retry would send a part twice.
    """
    if not exchanges:
        return _unseen(went_well=went_well, otherwise=otherwise, is_recorded=is_recorded)
    carrying = [one for one in exchanges if one.carries] or [
        exchanges[-1]
    ]  # the plugin encodes the text, or never sent it
    taken = [one for one in carrying if one.is_accepted]
    failed = next((one for one in (*carrying, *exchanges) if not one.is_accepted), None)
    if not taken and failed is not None:
        return _failure(failed)
    if went_well or failed is not None:
        detail = f"the server did not accept a part of it: {_words(failed)}" if failed is not None else ""
        return Answer(Outcome.SENT, detail, _pause(exchanges[-1]))
    return _denied(carrying)


def _unseen(*, went_well: bool, otherwise: str, is_recorded: bool) -> Answer:
    if went_well:
        return Answer(Outcome.SENT)
    if is_recorded:
        return Answer(Outcome.LATER, otherwise or "nothing was sent: does the address name a recipient?")
    return Answer(Outcome.UNKNOWN, otherwise or "apprise's plugin could not send it")


def _denied(carrying: Sequence[Exchange]) -> Answer:
    """Return REFUSED for one request, UNKNOWN for more: all got 2xx, but apprise reports a failure."""
    if len(carrying) > 1:
        return Answer(Outcome.UNKNOWN, f"apprise's plugin reports that a part was not accepted: {_IT_MAY}")
    (one,) = carrying
    words = _words(one) if one.carries else "no request had the message: does the address name a recipient?"
    return Answer(Outcome.REFUSED, f"not sent, apprise's plugin reports: {words}")


def _failure(exchange: Exchange) -> Answer:
    status = _status(exchange)
    if status is None:
        if exchange.was_written:
            return Answer(Outcome.UNKNOWN, f"no response: {_IT_MAY}")
        return Answer(Outcome.LATER, f"no connection ({exchange.why})" if exchange.why else "no connection")
    if exchange.is_mail:
        if status < 500:
            return Answer(Outcome.LATER, _words(exchange))
        return Answer(Outcome.REFUSED, _words(exchange), is_channels_own=status in _MAILS_OWN)
    if status in _NOT_TAKEN:
        return Answer(Outcome.LATER, _words(exchange), _retry_after(exchange))
    if status >= 500:
        return Answer(Outcome.UNKNOWN, f"{_words(exchange)}: {_IT_MAY}")
    return Answer(Outcome.REFUSED, _words(exchange), is_channels_own=status in _CHANNELS_OWN)


def _status(exchange: Exchange) -> int | None:
    """Return the status, or Telegram's ``error_code`` if the body says ``"ok": false``."""
    answer = _json(exchange)
    code = answer.get("error_code")
    return code if answer.get("ok") is False and isinstance(code, int) else exchange.status


def _words(exchange: Exchange) -> str:
    """Return the status and the server's own description (Telegram: description, Discord: message)."""
    if exchange.status is None:
        return "no response"
    answer = _json(exchange)
    said = next((answer[one] for one in _SAID if isinstance(answer.get(one), str)), "")
    if exchange.is_mail:
        said = exchange.body.decode(errors="replace")
    phrase = "" if exchange.is_mail else http.client.responses.get(exchange.status, "")
    name = f"{exchange.status} {phrase}".strip()
    return (
        f"{name}: {''.join(one if one.isprintable() else ' ' for one in said)[:_LONGEST_WORDS]}"
        if said
        else name
    )


def _retry_after(exchange: Exchange) -> float | None:
    """Return the seconds to wait: from the body (Telegram, Discord), or else from ``Retry-After``."""
    inside = _parameters(exchange).get("retry_after")
    return _seconds(inside, _json(exchange).get("retry_after"), _header(exchange, "Retry-After"))


def _parameters(exchange: Exchange) -> Mapping[str, Any]:
    parameters = _json(exchange).get("parameters")
    return parameters if isinstance(parameters, dict) else {}


def _pause(exchange: Exchange) -> float | None:
    """Return Discord's wait until its rate limit resets, if this message used the last request."""
    if _header(exchange, "X-RateLimit-Remaining") != "0":
        return None
    return _seconds(_header(exchange, "X-RateLimit-Reset-After"))


def _seconds(*found: Any) -> float | None:
    """Return the first value that is a number of seconds, capped at an hour."""
    for one in found:
        try:
            seconds = float(one)
        except (TypeError, ValueError):
            continue
        if seconds >= 0:  # neither negative nor NaN
            return min(seconds, LONGEST_WAIT_SECONDS)
    return None


def _header(exchange: Exchange, name: str) -> str | None:
    return next((value for key, value in exchange.headers.items() if key.lower() == name.lower()), None)


def _json(exchange: Exchange) -> Mapping[str, Any]:
    try:
        answer = json.loads(exchange.body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
