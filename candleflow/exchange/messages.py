"""What a frame from Binance's WebSocket says: bytes in, one typed message out. No socket, no clock, no error.

    raw        {"e":"trade","E":...,"s":"BTCUSDT",...}
    combined   {"stream":"btcusdt@trade","data":{"e":"trade",...}}

Two ways lead to the same verdict. A frame in the exact layout that Binance sends (``CANONICAL_PATTERN``) is
cut up by a regular expression; every other frame goes to the full parser, which alone decides what is a
trade, what is another stream's message and what is malformed. A property test holds the two equal. A frame
that claims to be a trade, by its event type or by its stream's name, and breaks the rules of
``market/payload.py`` is rejected with the first of its reasons; nothing here ever raises.

Sources: binance-spot-api-docs, web-socket-streams.md; the recordings in the tests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeAlias

from candleflow.market.payload import (
    CANONICAL_PATTERN,
    DECIMAL_PATTERN,
    FUTURE,
    NOT_A_TRADE,
    NOT_AN_OBJECT,
    NOT_JSON,
    NOT_UTF8,
    RECORD_LIMIT_BYTES,
    REQUIRED_FIELDS,
    TOO_LONG,
    UNKNOWN_SYMBOL,
    missing,
    wrong_type,
)
from candleflow.market.symbol import is_symbol
from candleflow.market.trade import EXACT, NOTIONAL_LIMIT, Trade, refusal, to_microseconds

TRADE_SUFFIX: Final = "@trade"
"""What the name of a stream of trades ends in: ``btcusdt@trade``."""


class TradeMessage(NamedTuple):
    """A sound trade, and its payload as the exchange sent it: of a combined frame, the text of ``data``."""

    trade: Trade
    payload: bytes


@dataclass(frozen=True, slots=True)
class ServerShutdown:
    """The server will end this connection soon (Binance: within 10 minutes): connect anew at once."""


@dataclass(frozen=True, slots=True)
class ControlReply:
    """The answer to a request of ours such as SUBSCRIBE; ``error`` is None where it was granted."""

    request_id: int | str | None
    result: Any = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class OtherStream:
    """A well-formed message that is no trade; ``name`` is its stream's, or else its event type."""

    name: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A frame that can't be used: why, in the words of ``market/payload.py``, and the frame as it came."""

    reason: str
    record: bytes


Message: TypeAlias = TradeMessage | ServerShutdown | ControlReply | OtherStream | Rejected

_RAW: Final = re.compile(CANONICAL_PATTERN)
_COMBINED: Final = re.compile(r'\{"stream":"[a-z0-9._-]{1,20}@trade","data":(' + CANONICAL_PATTERN + r")\}")
_DECIMAL: Final = re.compile(DECIMAL_PATTERN)
_BLANKS: Final = re.compile(r"[ \t\n\r]*")  # JSON's white space, RFC 8259 section 2
_NOT_A_NUMBER: Final = Decimal("NaN")

_BOOK_TICKER_FIELDS: Final = frozenset("usbBaA")  # individual book ticker: the only stream without "e" ...
_DEPTH_FIELDS: Final = frozenset(("lastUpdateId", "bids", "asks"))  # ... but for the partial book's depth


def decode(frame: str | bytes, symbols: Collection[str], now: int, max_future_us: int) -> Message:
    """What ``frame`` says.

    ``symbols``: those followed, a set for speed; a trade of any other is rejected. ``now``: the present, in
    microseconds since the epoch; a trade dated more than ``max_future_us`` after it is rejected. A frame of
    more than ``RECORD_LIMIT_BYTES`` is rejected unless it is another stream's.
    """
    if isinstance(frame, bytes):
        try:
            text = frame.decode()
        except UnicodeDecodeError:
            return Rejected(NOT_UTF8 if len(frame) <= RECORD_LIMIT_BYTES else TOO_LONG, frame)
    else:
        text = frame
    if len(text) <= RECORD_LIMIT_BYTES:
        if text.startswith('{"stream"'):
            found, fields_from = _COMBINED.fullmatch(text), 1
        else:
            found, fields_from = _RAW.fullmatch(text), 0
        if found is not None:
            trade = _cut(found, fields_from)
            is_sound = _is_sound(trade, symbols, now + max_future_us)
            reason = None if is_sound else _refusal(trade, symbols, now, max_future_us)
            if reason is None:
                return TradeMessage(trade, found[fields_from].encode())
            return Rejected(reason, text.encode())
    return decode_fully(text, symbols, now, max_future_us)


def decode_fully(text: str, symbols: Collection[str], now: int, max_future_us: int) -> Message:
    """``decode`` without its quick way: the full parser, for any text."""
    record = text.encode(errors="surrogatepass")
    message = _parse(text, record, symbols, now, max_future_us)
    is_refused = isinstance(message, TradeMessage | Rejected)
    return Rejected(TOO_LONG, record) if is_refused and len(record) > RECORD_LIMIT_BYTES else message


def decode_payload(record: bytes, now: int, max_future_us: int) -> Trade | Rejected:
    """The trade in a bare payload, such as one of Kafka's topic ``trades``; of any symbol.

    The reference for the verdicts of ``engine/trades.py``. Times as in ``decode``.
    """
    if len(record) > RECORD_LIMIT_BYTES:
        return Rejected(TOO_LONG, record)
    try:
        fields = _loads(record.decode())
    except UnicodeDecodeError:
        return Rejected(NOT_UTF8, record)
    except (ValueError, RecursionError):
        return Rejected(NOT_JSON, record)
    verdict = _judge(fields, None, now, max_future_us)
    return verdict if isinstance(verdict, Trade) else Rejected(verdict, record)


def _cut(found: re.Match[str], fields_from: int) -> Trade:
    """The trade of a frame in the canonical layout, whose groups E s t p q T m come after ``fields_from``."""
    _, symbol, trade_id, price, quantity, time, is_maker = found.groups()[fields_from:]
    return Trade(
        symbol,
        int(trade_id),
        Decimal(price),
        Decimal(quantity),
        to_microseconds(int(time)),
        is_maker == "true",
    )


def _is_sound(trade: Trade, symbols: Collection[str], latest: int) -> bool:
    """Whether ``_refusal`` has nothing against a trade of the canonical layout.

    The layout's pattern holds each number within its limits already, but for zero.
    """
    return (
        trade.symbol in symbols
        and bool(trade.price and trade.quantity)
        and trade.trade_time <= latest
        and EXACT.multiply(trade.price, trade.quantity) < NOTIONAL_LIMIT
    )


def _parse(text: str, record: bytes, symbols: Collection[str], now: int, max_future_us: int) -> Message:
    if len(record) != len(text) and _has_surrogate(text):
        return Rejected(NOT_UTF8, record)
    try:
        content = _loads(text)
    except (ValueError, RecursionError):  # RecursionError: nested deeper than the interpreter's stack
        return Rejected(NOT_JSON, record)
    stream = ""
    is_combined = isinstance(content, dict) and "e" not in content and "stream" in content
    if is_combined:
        stream = content["stream"] if isinstance(content["stream"], str) else ""
        content = content.get("data")
    if not _claims_to_be_a_trade(content, stream):
        return _other_message(content, stream) or Rejected(_why_nothing(content), record)
    verdict = _judge(content, symbols, now, max_future_us)
    if not isinstance(verdict, Trade):
        return Rejected(verdict, record)
    return TradeMessage(verdict, _data_text(text).encode() if is_combined else record)


def _claims_to_be_a_trade(content: Any, stream: str) -> bool:
    return stream.endswith(TRADE_SUFFIX) or (isinstance(content, dict) and content.get("e") == "trade")


def _other_message(content: Any, stream: str) -> ServerShutdown | ControlReply | OtherStream | None:
    """The message that is no trade, or None where Binance documents none of this form."""
    if isinstance(content, list):  # such as !miniTicker@arr: many events in one message
        are_events = all(isinstance(one, dict) and one.get("e") != "trade" for one in content)
        return OtherStream(stream or "array") if are_events else None
    if not isinstance(content, dict):
        return None
    if content.get("e") == "serverShutdown":
        return ServerShutdown()
    if stream:
        return OtherStream(stream)
    if "e" in content:
        return OtherStream(content["e"]) if isinstance(content["e"], str) else None
    if content.keys() >= _BOOK_TICKER_FIELDS:
        return OtherStream("bookTicker")
    if content.keys() >= _DEPTH_FIELDS:
        return OtherStream("depth")
    return _control_reply(content)


def _control_reply(content: dict[str, Any]) -> ControlReply | None:
    """The reply in ``content``: ``{"result":null,"id":1}``, or an error, in its documented forms."""
    request_id = content.get("id")
    if not isinstance(request_id, int | str | None):
        return None
    error = content.get("error", content)
    if isinstance(error, dict) and "code" in error and "msg" in error:
        return ControlReply(request_id, error=f"{error['code']}: {error['msg']}")
    if "error" in content:
        return ControlReply(request_id, error=str(error))
    if "result" in content and "id" in content:
        return ControlReply(request_id, content["result"])
    return None


def _why_nothing(content: Any) -> str:
    return NOT_A_TRADE if isinstance(content, dict) else NOT_AN_OBJECT


def _judge(fields: Any, symbols: Collection[str] | None, now: int, max_future_us: int) -> Trade | str:
    """The trade that the JSON value ``fields`` is, or the first reason why it is none."""
    if not isinstance(fields, dict):
        return NOT_AN_OBJECT
    if fields.get("e") != "trade":
        return NOT_A_TRADE
    for name, json_type in REQUIRED_FIELDS.items():
        if name not in fields:
            return missing(name)
        if type(fields[name]) is not _PYTHON_TYPES[json_type]:
            return wrong_type(name)
    trade = Trade(
        fields["s"],
        fields["t"],
        _decimal(fields["p"]),
        _decimal(fields["q"]),
        to_microseconds(fields["T"]),
        fields["m"],
    )
    return _refusal(trade, symbols, now, max_future_us) or trade


_PYTHON_TYPES: Final[dict[str, type]] = {"integer": int, "string": str, "boolean": bool}


def _refusal(trade: Trade, symbols: Collection[str] | None, now: int, max_future_us: int) -> str | None:
    """Why the trade is refused, or None; ``symbols`` None stands for every name of a symbol's form."""
    if not (is_symbol(trade.symbol) if symbols is None else trade.symbol in symbols):
        return UNKNOWN_SYMBOL
    return refusal(trade) or (FUTURE if trade.trade_time > now + max_future_us else None)


def _decimal(text: str) -> Decimal:
    """The number that ``text`` is; NaN, which ``refusal`` knows, for whatever isn't in plain digits."""
    return Decimal(text) if _DECIMAL.fullmatch(text) else _NOT_A_NUMBER


def _data_text(text: str) -> str:
    """The text of ``data``'s value in a combined frame that has been parsed already.

    Cut out and not written anew, so that each number and escape stays as the exchange sent it.
    """
    at = text.index("{") + 1
    while True:
        key, at = _DECODER.raw_decode(text, _skip_blanks(text, at))
        start = _skip_blanks(text, _skip_blanks(text, at) + 1)  # 1: the colon
        _, at = _DECODER.raw_decode(text, start)
        if key == "data":
            return text[start:at]
        at = _skip_blanks(text, at) + 1  # the comma: data is yet to come


def _skip_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(members)
    if len(unique) != len(members):
        raise ValueError("a key is named twice")
    return unique


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")  # NaN, Infinity: Python's json would take them


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
_loads: Final = _DECODER.decode
