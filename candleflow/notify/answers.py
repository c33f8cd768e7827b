"""What a server's answer means for a message: sent, to be sent later, refused, or nobody knows. Pure.

A message is sent again only where it is sure that it was not taken:

- no connection was made (refused, no such host, no TLS);
- 429: too many, and the server says when it may come again;
- 408, 425, 500 and 503: the server's own word that it did not do what was asked.

Any other failure after the request was written, a silence above all, leaves open whether the message arrived:
such a one is *unknown*, and is not sent again. 502 and 504 are a gateway's, which doesn't know either.
Every other answer of 3xx and 4xx is a refusal, which another attempt would only repeat; 401, 403 and 404 are
refusals of the channel itself: its token, its chat or its webhook is not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

LONGEST_WAIT_SECONDS: Final = 3_600.0
_LONGEST_WORDS: Final = 100
_NOT_TAKEN: Final = frozenset({408, 425, 429, 500, 503})
_CHANNELS_OWN: Final = frozenset({401, 403, 404})


class Outcome(StrEnum):
    """What became of an attempt; all but LATER as the table of deliveries names them."""

    SENT = "sent"
    LATER = "pending"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer; ``status`` None where there was none."""

    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    was_written: bool = False
    """Whether the request may have reached the server."""

    @property
    def is_accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an attempt, in words too; times in seconds."""

    outcome: Outcome
    detail: str = ""
    wait_seconds: float | None = None
    """So long the server wants no message of this channel."""
    is_channels_own: bool = False
    """Refused is the channel, not this message."""

    def with_detail(self, detail: str) -> Answer:
        return replace(self, detail=detail)


def judged(exchanges: Sequence[Exchange], *, went_well: bool, otherwise: str = "") -> Answer:
    """What an attempt came to, of one request or several; ``otherwise``: what else is known of a failure.

    Where a server took one of them the message is sent: another attempt would send that part twice.
    """
    if not exchanges:  # no HTTP: an e-mail, say
        words = otherwise or "the channel's plugin could not send it"
        return Answer(Outcome.SENT) if went_well else Answer(Outcome.UNKNOWN, words)
    failed = next((one for one in exchanges if not one.is_accepted), None)
    if any(one.is_accepted for one in exchanges):
        detail = f"a part was not taken: {_words(failed)}" if failed is not None else ""
        return Answer(Outcome.SENT, detail, _pause(exchanges[-1]))
    return _failure(exchanges[0])


def _failure(exchange: Exchange) -> Answer:
    status = exchange.status
    if status is None:
        if exchange.was_written:
            return Answer(Outcome.UNKNOWN, "no answer: it may have arrived, so it isn't sent again")
        return Answer(Outcome.LATER, "no connection")
    if status in _NOT_TAKEN:
        return Answer(Outcome.LATER, _words(exchange), _retry_after(exchange))
    if status >= 500:
        return Answer(Outcome.UNKNOWN, f"{_words(exchange)}: it may have arrived, so it isn't sent again")
    return Answer(Outcome.REFUSED, _words(exchange), is_channels_own=status in _CHANNELS_OWN)


def _words(exchange: Exchange) -> str:
    """The status, and the server's own word for it: Telegram's description, Discord's message."""
    if exchange.status is None:
        return "no answer"
    try:
        name = f"{exchange.status} {HTTPStatus(exchange.status).phrase}"
    except ValueError:
        name = str(exchange.status)
    told = _json(exchange)
    said = told.get("description") or told.get("message")
    if not isinstance(said, str):
        return name
    return f"{name}: {''.join(one if one.isprintable() else ' ' for one in said)[:_LONGEST_WORDS]}"


def _retry_after(exchange: Exchange) -> float | None:
    """Telegram has it in ``parameters``, Discord at the top, others in a header."""
    told = _json(exchange)
    parameters = told.get("parameters")
    inside = parameters.get("retry_after") if isinstance(parameters, dict) else None
    return _seconds(inside, told.get("retry_after"), _header(exchange, "Retry-After"))


def _pause(exchange: Exchange) -> float | None:
    """Discord: how long until its bucket has room, where this message took the last place."""
    if _header(exchange, "X-RateLimit-Remaining") != "0":
        return None
    return _seconds(_header(exchange, "X-RateLimit-Reset-After"))


def _seconds(*found: Any) -> float | None:
    """The first that is a time, up to an hour."""
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
        told = json.loads(exchange.body)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
