"""What a server's answer means for a message: sent, to be sent later, refused, or nobody knows. Pure.

Only the request that carries the message counts; a log-in that is taken sends nothing. A status of 2xx means
that it was taken, unless the body (``"ok": false``) or apprise's plugin says that it wasn't.

A message is sent again only where it is sure that it was not taken:

- no byte of it left (no such host, refused by host or proxy, no TLS, no mail server);
- 429: too many, and the server says when it may come again;
- 407, 408, 425, 500 and 503: the server's own word, or a proxy's, that it did not do what was asked;
- a mail server's 4yz, which is the same.

Any other failure after the request was written, a silence above all, leaves open whether the message arrived:
such a one is *unknown*, and is not sent again. 502 and 504 are a gateway's, which doesn't know either.
Every other answer of 3xx and 4xx, and a mail server's 5yz, is a refusal, which another attempt would only
repeat. 401, 403, 404 and a refused log-in are refusals of the channel itself: its token, its chat or its
webhook is not there.
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
"""SMTP's: the log-in is wanting or wrong (RFC 4954)."""
_SAID: Final = ("description", "message", "error")
_IT_MAY: Final = "it may have arrived, so it isn't sent again"


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
    """Whether a byte of the request, of an e-mail's text, may have left."""
    carries: bool = True
    """Whether the message, or a part of it, was in the request."""
    why: str = ""
    """Without an answer: the error's name."""
    is_mail: bool = False
    """Then ``status`` is SMTP's."""

    @property
    def is_accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300 and _json(self).get("ok") is not False

    @property
    def moved_to(self) -> str | None:
        """Telegram's new number for a group that has become a supergroup."""
        moved = _parameters(self).get("migrate_to_chat_id")
        return None if self.is_accepted or not isinstance(moved, int) else str(moved)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an attempt, in words too; times in seconds."""

    outcome: Outcome
    detail: str = ""
    wait_seconds: float | None = None
    """So long the server wants no message of this channel."""
    is_channels_own: bool = False
    """Refused is the channel, not this message."""


def interpret(
    exchanges: Sequence[Exchange], *, went_well: bool, otherwise: str = "", is_recorded: bool = False
) -> Answer:
    """What an attempt came to, of one request or several; ``otherwise``: what else is known of a failure.

    ``is_recorded``: what left is among the exchanges, and nothing else. Where a server took a part of the
    message it is sent: another attempt would send that part twice.
    """
    if not exchanges:
        return _unseen(went_well=went_well, otherwise=otherwise, is_recorded=is_recorded)
    carrying = [one for one in exchanges if one.carries] or [exchanges[-1]]  # which hides it, or never had it
    taken = [one for one in carrying if one.is_accepted]
    failed = next((one for one in (*carrying, *exchanges) if not one.is_accepted), None)
    if not taken and failed is not None:
        return _failure(failed)
    if went_well or failed is not None:
        detail = f"a part was not taken: {_words(failed)}" if failed is not None else ""
        return Answer(Outcome.SENT, detail, _pause(exchanges[-1]))
    return _denied(carrying)


def _unseen(*, went_well: bool, otherwise: str, is_recorded: bool) -> Answer:
    if went_well:
        return Answer(Outcome.SENT)
    if is_recorded:
        return Answer(Outcome.LATER, otherwise or "nothing was sent: does the address name a recipient?")
    return Answer(Outcome.UNKNOWN, otherwise or "the channel's plugin could not send it")


def _denied(carrying: Sequence[Exchange]) -> Answer:
    """The statuses say yes, and apprise's plugin says no."""
    if len(carrying) > 1:
        return Answer(Outcome.UNKNOWN, f"a part was not taken, the channel's plugin says: {_IT_MAY}")
    (one,) = carrying
    words = _words(one) if one.carries else "no request had the message: does the address name a recipient?"
    return Answer(Outcome.REFUSED, f"not sent, the channel's plugin says: {words}")


def _failure(exchange: Exchange) -> Answer:
    status = _status(exchange)
    if status is None:
        if exchange.was_written:
            return Answer(Outcome.UNKNOWN, f"no answer: {_IT_MAY}")
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
    """The answer's; where the body denies a status of 2xx, the body's own, as Telegram has it."""
    answer = _json(exchange)
    code = answer.get("error_code")
    return code if answer.get("ok") is False and isinstance(code, int) else exchange.status


def _words(exchange: Exchange) -> str:
    """The status, and the server's own word for it: Telegram's description, Discord's message."""
    if exchange.status is None:
        return "no answer"
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
    """Telegram has it in ``parameters``, Discord at the top, others in a header."""
    inside = _parameters(exchange).get("retry_after")
    return _seconds(inside, _json(exchange).get("retry_after"), _header(exchange, "Retry-After"))


def _parameters(exchange: Exchange) -> Mapping[str, Any]:
    parameters = _json(exchange).get("parameters")
    return parameters if isinstance(parameters, dict) else {}


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
        answer = json.loads(exchange.body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
