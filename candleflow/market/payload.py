"""The trade payload that Binance sends and the Kafka topic ``trades`` holds: its layout and its checks.

    {"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,"p":"61837.63000000","q":"0.02000000",
     "T":1723161255342,"m":true,"M":true}

``e`` event type, ``E`` event time, ``s`` symbol, ``t`` trade id, ``p`` price, ``q`` quantity, ``T`` trade
time, ``m`` whether the buyer is the maker, ``M`` ignored. Source: binance-spot-api-docs,
web-socket-streams.md, "Trade Streams".

``decode_payload`` reads any record. In Spark, ``LayoutReader.java`` reads the records in exactly this layout
and leaves all others to ``decode_payload``; property tests check that both give the same result.
``exchange/messages.py`` extracts the payload from a WebSocket message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from candleflow.market.symbol import SYMBOL_LENGTH, SYMBOL_PATTERN, is_symbol
from candleflow.market.trade import Trade, rejection_reason, to_microseconds

DECIMAL_PATTERN: Final = r"[0-9]+(?:\.[0-9]+)?"
"""A price or quantity in plain digits: no sign, no exponent, no space."""

_INTEGER: Final = "(0|[1-9][0-9]{0,17})"
_TIME: Final = "([1-9][0-9]{12}(?:[0-9]{3})?)"
_AMOUNT: Final = r"([0-9]{1,%d}(?:\.[0-9]{1,8})?)"

CANONICAL_PATTERN: Final = (
    r'\{"e":"trade","E":' + _INTEGER + r',"s":"(' + SYMBOL_PATTERN + r')","t":' + _INTEGER
    + r',"p":"' + _AMOUNT % 11 + r'","q":"' + _AMOUNT % 12 + r'","T":' + _TIME
    + r',"m":(true|false),"M":(?:true|false)\}'
)  # fmt: skip
"""The exact layout that Binance sends, as a regular expression of Python and Java. Groups: E s t p q T m.

A record that matches is valid JSON with every field of the right type. Each number fits the engine's types:
64-bit integers, times of 13 digits (milliseconds) or 16 (microseconds), and decimals within
``market.trade``'s limits. A record that does not match goes to the full parser, so the pattern affects only
the speed, never the result.
"""

JSON_NAME_BYTES: Final = rf'[^"\\\x00-\x1f]{{1,{4 * SYMBOL_LENGTH}}}'
"""The symbol's part of a regular expression on bytes. It can't check characters of several bytes, so the
caller checks the name."""

CANONICAL_BYTES: Final = CANONICAL_PATTERN.replace(SYMBOL_PATTERN, JSON_NAME_BYTES).encode()
"""``CANONICAL_PATTERN`` for bytes, with ``JSON_NAME_BYTES`` in the symbol's place."""

REQUIRED_FIELDS: Final[dict[str, str]] = {
    "E": "integer",
    "s": "string",
    "t": "integer",
    "p": "string",
    "q": "string",
    "T": "integer",
    "m": "boolean",
}
"""The fields a trade must have, with their JSON types, in the order in which they are checked."""

RECORD_LIMIT_BYTES: Final = 4_096
"""A longer record is rejected without parsing. Binance's trades have about 150 bytes; the longest symbols add
200."""

DEPTH_LIMIT: Final = 500
"""Maximum levels of nested objects and arrays; a trade has one. RFC 8259, section 9, allows such a limit.
Python's own differs between versions: 3.11 rejects about 980 levels, 3.13 accepts 2,000."""

# The reasons for rejecting a record, in the order of the checks. trade.rejection_reason() has further ones.
TOO_LONG: Final = "record too long"
NOT_UTF8: Final = "not UTF-8"
NOT_JSON: Final = "not JSON"
"""Also for a JSON object with a repeated key, and for more than ``DEPTH_LIMIT`` levels."""
NOT_AN_OBJECT: Final = "not a JSON object"
NOT_A_TRADE: Final = "not a trade event"
UNKNOWN_SYMBOL: Final = "unknown symbol"
"""The name is not a valid symbol or, in the producer, not one of the symbols it follows."""
FUTURE: Final = "trade time in the future"


def missing(field: str) -> str:
    return f"missing field {field}"


def wrong_type(field: str) -> str:
    return f"field {field} is not a JSON {REQUIRED_FIELDS[field]}"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record or frame that can't be used: one of the reasons above, and the original bytes."""

    reason: str
    record: bytes


def decode_payload(record: bytes, now: int, max_future_us: int) -> Trade | Rejected:
    """Decode a payload, such as a record of the topic ``trades``, into a trade of any symbol.

    ``now``: the current time, or when the record was written, in microseconds since the epoch. A trade dated
    more than ``max_future_us`` after it is rejected.
    """
    if len(record) > RECORD_LIMIT_BYTES:
        return Rejected(TOO_LONG, record)
    try:
        fields = parse(record.decode())
    except UnicodeDecodeError:
        return Rejected(NOT_UTF8, record)
    except ValueError:
        return Rejected(NOT_JSON, record)
    verdict = judge(fields, None, now, max_future_us)
    return verdict if isinstance(verdict, Trade) else Rejected(verdict, record)


def parse(text: str) -> Any:
    """Parse ``text`` as JSON. Raises ValueError in the cases of ``NOT_JSON``."""
    if text.count("{") + text.count("[") > DEPTH_LIMIT and _depth(text) > DEPTH_LIMIT:
        raise ValueError("nested too deeply")
    return _DECODER.decode(text)


def judge(fields: Any, symbols: Collection[str] | None, now: int, max_future_us: int) -> Trade | str:
    """Return the trade in the JSON value ``fields``, or the first reason to reject it.

    ``symbols``: the accepted symbols; None accepts every valid symbol name. Times as in ``decode_payload``.
    """
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
    if not (is_symbol(trade.symbol) if symbols is None else trade.symbol in symbols):
        return UNKNOWN_SYMBOL
    return rejection_reason(trade) or (FUTURE if trade.trade_time > now + max_future_us else trade)


_PYTHON_TYPES: Final[dict[str, type]] = {"integer": int, "string": str, "boolean": bool}
_DECIMAL: Final = re.compile(DECIMAL_PATTERN)
_NOT_A_NUMBER: Final = Decimal("NaN")


def _decimal(text: str) -> Decimal:
    """Parse plain digits. Anything else becomes NaN, which ``rejection_reason`` rejects."""
    return Decimal(text) if _DECIMAL.fullmatch(text) else _NOT_A_NUMBER


# A string matches as one step. The possessive "*+" and the optional end prevent backtracking: linear time.
_STEPS: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def _depth(text: str) -> int:
    """Return the deepest level of brackets in ``text``, outside of strings."""
    depth = deepest = 0
    for found in _STEPS.finditer(text):
        step = found[0]
        if step in ("{", "["):
            depth += 1
            deepest = max(deepest, depth)
        elif step in ("}", "]"):
            depth -= 1
    return deepest


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(members)
    if len(unique) != len(members):
        raise ValueError("a key is repeated")
    return unique


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")  # NaN and Infinity: Python's json would accept them


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def encode(trade: Trade) -> bytes:
    """Encode a trade that was fetched from the exchange's history in the exact layout of the stream.

    Times are milliseconds, as in the stream, or microseconds if the trade time has a fraction of a
    millisecond. The event time ``E`` is set to the trade time, because only the stream has an event time.
    """
    is_whole = trade.trade_time % 1_000 == 0
    time = trade.trade_time // 1_000 if is_whole else trade.trade_time
    return (
        f'{{"e":"trade","E":{time},"s":"{trade.symbol}","t":{trade.trade_id},"p":"{trade.price:f}",'
        f'"q":"{trade.quantity:f}","T":{time},"m":{str(trade.buyer_is_maker).lower()},"M":true}}'
    ).encode()
