"""What a frame from Binance's WebSocket says: bytes in, one typed message out. No socket, no clock, no error.

    raw        {"e":"trade","E":...,"s":"BTCUSDT",...}
    combined   {"stream":"btcusdt@trade","data":{"e":"trade",...}}

Two ways lead to the same verdict. A sound trade in the exact layout that Binance sends is recognized by a
regular expression (``CANONICAL_PATTERN``). Every other frame goes to the full parser, which alone decides
what is a trade, what is another stream's message and what is malformed. A property test holds the two equal.
A frame that claims to be a trade, by its event type or by its stream's name, and breaks the rules of
``market/payload.py`` is rejected with the first of its reasons; nothing here ever raises.

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
    """The name of the symbol's stream of trades: ``btcusdt@trade``."""
    return lower(symbol) + _TRADE_SUFFIX


def symbol_of(stream: str) -> str | None:
    """The symbol whose trades ``stream`` brings, None for a stream of something else."""
    is_trade_stream = stream.endswith(_TRADE_SUFFIX) and stream == lower(stream)
    return upper(stream.removesuffix(_TRADE_SUFFIX)) if is_trade_stream else None


class TradeMessage(NamedTuple):
    """A sound trade: what its way to Kafka needs to know, and its payload as the exchange sent it.

    ``trade_time`` is in microseconds since the epoch. A combined frame's payload is the text of ``data``.
    """

    symbol: str
    trade_id: int
    trade_time: int
    payload: bytes

    @property
    def trade(self) -> Trade:
        """All of it, read from the payload."""
        verdict = decode_payload(self.payload, self.trade_time, 0)
        if isinstance(verdict, Rejected):
            raise ExchangeError(f"{self.payload!r} was taken for a trade: {verdict.reason}")
        return verdict


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
    """What ``frame`` says.

    ``symbols``: those followed, a set for speed; a trade of any other is rejected. ``now``: the present, in
    microseconds since the epoch; a trade dated more than ``max_future_us`` after it is rejected. A frame of
    more than ``RECORD_LIMIT_BYTES`` is rejected unless it is another stream's.
    """
    message = _recognized(frame, symbols, now + max_future_us)
    return message or decode_fully(frame, symbols, now, max_future_us)


def _recognized(frame: bytes, symbols: Collection[str], latest: int) -> TradeMessage | None:
    """The quick way: the trade in ``frame`` if it has the canonical layout and is sound for certain.

    What matches is shorter than ``RECORD_LIMIT_BYTES``, with each number within its limits but for zero and
    the product. Floats tell these two: the bound leaves more room than rounding takes.
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
    """``decode`` without its quick way: the full parser, for any bytes."""
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


def _data_text(text: str) -> str:
    """The text of ``data``'s value in a combined frame that has been parsed already.

    Cut out and not written anew, so that each number and escape stays as the exchange sent it.
    """
    at = text.index("{") + 1
    while True:
        key, at = _MEMBERS.raw_decode(text, _skip_blanks(text, at))
        start = _skip_blanks(text, _skip_blanks(text, at) + 1)  # 1: the colon
        _, at = _MEMBERS.raw_decode(text, start)
        if key == "data":
            return text[start:at]
        at = _skip_blanks(text, at) + 1  # the comma: data is yet to come


def _skip_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


def _is_utf8(frame: bytes) -> bool:
    try:
        frame.decode()
    except UnicodeDecodeError:
        return False
    return True
