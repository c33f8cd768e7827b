"""Decodes a frame from Binance's WebSocket into one typed message. No socket, no clock, no exceptions.

    raw        {"e":"trade","E":...,"s":"BTCUSDT",...}
    combined   {"stream":"btcusdt@trade","data":{"e":"trade",...}}

There is a fast path and a full parser. A regular expression (``CANONICAL_PATTERN``) recognizes a valid trade
in the exact layout that Binance sends. Every other frame goes to the full parser, which decides whether it is
a trade, another stream's message, or malformed. A property test checks that both give the same result.

A frame counts as a trade by its event type or by its stream's name. If it breaks the rules of
``market/payload.py``, it is rejected with the first reason that applies.

Sources: binance-spot-api-docs, web-socket-streams.md; the recordings in the tests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from candleflow.errors import ExchangeError
from candleflow.market.payload import (
    CANONICAL_BYTES,
    JSON_NAME_BYTES,
    NOT_A_TRADE,
    NOT_AN_OBJECT,
    NOT_JSON,
    NOT_UTF8,
    RECORD_LIMIT_BYTES,
    TOO_LONG,
    Rejected,
    decode_payload,
    judge,
    parse,
)
from candleflow.market.symbol import lower, upper
from candleflow.market.trade import NOTIONAL_LIMIT, Trade, to_microseconds

_TRADE_SUFFIX: Final = "@trade"


def stream_of(symbol: str) -> str:
    """Return the name of the symbol's trade stream, such as ``btcusdt@trade``."""
    return lower(symbol) + _TRADE_SUFFIX


def symbol_of(stream: str) -> str | None:
    """Return the symbol of a trade stream, or None for any other stream."""
    is_trade_stream = stream.endswith(_TRADE_SUFFIX) and stream == lower(stream)
    return upper(stream.removesuffix(_TRADE_SUFFIX)) if is_trade_stream else None


class TradeMessage(NamedTuple):
    """A valid trade: the fields that the producer needs, and the payload as the exchange sent it.

    ``trade_time`` is in microseconds since the epoch. The payload of a combined frame is its ``data`` member.
    """

    symbol: str
    trade_id: int
    trade_time: int
    payload: bytes

    @property
    def trade(self) -> Trade:
        """The complete trade, decoded from the payload."""
        verdict = decode_payload(self.payload, self.trade_time, 0)
        if isinstance(verdict, Rejected):
            raise ExchangeError(f"{self.payload!r} was accepted as a trade, but is none: {verdict.reason}")
        return verdict


@dataclass(frozen=True, slots=True)
class ServerShutdown:
    """The server will close this connection soon (Binance: within 10 minutes), so reconnect at once."""


@dataclass(frozen=True, slots=True)
class ControlReply:
    """The answer to a request such as SUBSCRIBE; ``error`` is None if it succeeded."""

    request_id: int | str | None
    result: Any = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class OtherStream:
    """A well-formed message that is not a trade; ``name`` is its stream, or else its event type."""

    name: str


Message: TypeAlias = TradeMessage | ServerShutdown | ControlReply | OtherStream | Rejected

_RAW: Final = re.compile(CANONICAL_BYTES)
_COMBINED: Final = re.compile(
    rf'\{{"stream":"{JSON_NAME_BYTES}@trade","data":('.encode() + CANONICAL_BYTES + rb")\}"
)
_COMBINED_BEGINS: Final = b'{"stream"'
_MEMBERS: Final = json.JSONDecoder()
_BLANKS: Final = re.compile(r"[ \t\n\r]*")  # JSON's white space, RFC 8259 section 2
_SURELY_BELOW_NOTIONAL_LIMIT: Final = 0.999 * float(NOTIONAL_LIMIT)

_BOOK_TICKER_FIELDS: Final = frozenset("usbBaA")  # individual book ticker: the only stream without "e" ...
_DEPTH_FIELDS: Final = frozenset(("lastUpdateId", "bids", "asks"))  # ... but for the partial book's depth


def decode(frame: bytes, symbols: Collection[str], now: int, max_future_us: int) -> Message:
    """Decode ``frame`` into a message.

    ``symbols``: the followed symbols, a set for speed; a trade of any other symbol is rejected. ``now``: the
    current time in microseconds since the epoch; a trade dated more than ``max_future_us`` later is rejected.
    A trade of more than ``RECORD_LIMIT_BYTES`` is rejected.
    """
    message = _recognized(frame, symbols, now + max_future_us)
    return message or decode_fully(frame, symbols, now, max_future_us)


def _recognized(frame: bytes, symbols: Collection[str], latest: int) -> TradeMessage | None:
    """Return the trade in ``frame`` by the fast path, or None to leave the frame to the full parser.

    A match of the pattern is shorter than ``RECORD_LIMIT_BYTES``, and its numbers are within their limits,
    except for zero and for the product of price and quantity. These two are checked with floats; the limit
    has a margin larger than their rounding error.
    """
    if not (frame.isascii() or _is_utf8(frame)):
        return None
    if frame.startswith(_COMBINED_BEGINS):
        found = _COMBINED.fullmatch(frame)
        if found is None:
            return None
        payload, _, symbol_bytes, trade_id, price, quantity, time, _ = found.groups()
    else:
        found = _RAW.fullmatch(frame)
        if found is None:
            return None
        payload = frame
        _, symbol_bytes, trade_id, price, quantity, time, _ = found.groups()
    symbol = symbol_bytes.decode()
    trade_time = to_microseconds(int(time))
    if (
        symbol in symbols
        and trade_time <= latest
        and 0.0 < float(price) * float(quantity) < _SURELY_BELOW_NOTIONAL_LIMIT
    ):
        return TradeMessage(symbol, int(trade_id), trade_time, payload)
    return None


def decode_fully(frame: bytes, symbols: Collection[str], now: int, max_future_us: int) -> Message:
    """Decode any bytes with the full parser, without the fast path of ``decode``."""
    try:
        message = _parse(frame.decode(), frame, symbols, now, max_future_us)
    except UnicodeDecodeError:
        message = Rejected(NOT_UTF8, frame)
    is_refused = isinstance(message, TradeMessage | Rejected)
    return Rejected(TOO_LONG, frame) if is_refused and len(frame) > RECORD_LIMIT_BYTES else message


def _parse(text: str, record: bytes, symbols: Collection[str], now: int, max_future_us: int) -> Message:
    try:
        content = parse(text)
    except ValueError:
        return Rejected(NOT_JSON, record)
    stream = ""
    is_combined = isinstance(content, dict) and "e" not in content and "stream" in content
    if is_combined:
        stream = content["stream"] if isinstance(content["stream"], str) else ""
        content = content.get("data")
    if not _claims_to_be_a_trade(content, stream):
        why = NOT_A_TRADE if isinstance(content, dict) else NOT_AN_OBJECT
        return _other_message(content, stream) or Rejected(why, record)
    verdict = judge(content, symbols, now, max_future_us)
    if not isinstance(verdict, Trade):
        return Rejected(verdict, record)
    payload = _data_text(text).encode() if is_combined else record
    return TradeMessage(verdict.symbol, verdict.trade_id, verdict.trade_time, payload)


def _claims_to_be_a_trade(content: Any, stream: str) -> bool:
    return stream.endswith(_TRADE_SUFFIX) or (isinstance(content, dict) and content.get("e") == "trade")


def _other_message(content: Any, stream: str) -> ServerShutdown | ControlReply | OtherStream | None:
    """Return a message that is not a trade, or None if Binance documents no message of this form."""
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
    """Return the reply in ``content``: a result such as ``{"result":null,"id":1}``, an error, or None."""
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


def _data_text(text: str) -> str:
    """Return the text of the ``data`` member of a combined frame that was parsed already.

    The text is cut out of the frame, not serialized again, so numbers and escapes stay as the exchange sent
    them.
    """
    at = text.index("{") + 1
    while True:
        key, at = _MEMBERS.raw_decode(text, _skip_blanks(text, at))
        start = _skip_blanks(text, _skip_blanks(text, at) + 1)  # 1: the colon
        _, at = _MEMBERS.raw_decode(text, start)
        if key == "data":
            return text[start:at]
        at = _skip_blanks(text, at) + 1  # the comma; ``data`` comes later


def _skip_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


def _is_utf8(frame: bytes) -> bool:
    try:
        frame.decode()
    except UnicodeDecodeError:
        return False
    return True
