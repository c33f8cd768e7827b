"""The trade payload as Binance sends it and Kafka's topic ``trades`` holds it: its layout and its refusals.

    {"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,"p":"61837.63000000","q":"0.02000000",
     "T":1723161255342,"m":true,"M":true}

``e`` event type, ``E`` event time, ``s`` symbol, ``t`` trade id, ``p`` price, ``q`` quantity, ``T`` trade
time, ``m`` whether the buyer is the maker, ``M`` ignored. Source: binance-spot-api-docs,
web-socket-streams.md, "Trade Streams". ``decode_payload`` reads any record. ``LayoutReader.java`` reads, for
Spark, those in the exact layout and leaves every other one to it; property tests hold the two to the same
verdict. ``exchange/messages.py`` finds the payload in what comes off the socket.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from candleflow.market.symbol import SYMBOL_LENGTH, SYMBOL_PATTERN, is_symbol
from candleflow.market.trade import Trade, refusal, to_microseconds

DECIMAL_PATTERN: Final = r"[0-9]+(?:\.[0-9]+)?"
"""A price or quantity in plain digits: no sign, no exponent, no blank."""

_INTEGER: Final = "(0|[1-9][0-9]{0,17})"
_TIME: Final = "([1-9][0-9]{12}(?:[0-9]{3})?)"
_AMOUNT: Final = r"([0-9]{1,%d}(?:\.[0-9]{1,8})?)"

CANONICAL_PATTERN: Final = (
    r'\{"e":"trade","E":' + _INTEGER + r',"s":"(' + SYMBOL_PATTERN + r')","t":' + _INTEGER
    + r',"p":"' + _AMOUNT % 11 + r'","q":"' + _AMOUNT % 12 + r'","T":' + _TIME
    + r',"m":(true|false),"M":(?:true|false)\}'
)  # fmt: skip
"""The exact layout Binance sends, groups E s t p q T m, for Python's and Java's regular expressions alike.

A record that matches it is sound JSON with every field of the right type, and each number fits the type that
the engine counts in: 64-bit integers, times of 13 digits (milliseconds) or 16 (microseconds), and decimals
within ``market.trade``'s limits. Whatever does not match goes to the full parser: the pattern makes reading
quick and decides nothing.
"""

JSON_NAME_BYTES: Final = rf'[^"\\\x00-\x1f]{{1,{4 * SYMBOL_LENGTH}}}'
"""A symbol's place in the layout for regular expressions on bytes, which can't tell one character of several
bytes from another: the caller checks the name."""

CANONICAL_BYTES: Final = CANONICAL_PATTERN.replace(SYMBOL_PATTERN, JSON_NAME_BYTES).encode()
"""``CANONICAL_PATTERN`` for bytes, with ``JSON_NAME_BYTES`` for the symbol."""

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
"""A longer record is refused unread: Binance's trades have some 150 bytes, its longest symbols add 200."""

DEPTH_LIMIT: Final = 500
"""Most levels of nested objects and arrays; a trade has one. A limit of ours, as RFC 8259 allows (section 9):
Python's own differs between its versions, 3.11 refusing some 980 levels and 3.13 taking 2,000."""

# The reasons of refusal, in the order in which they are looked for. Beside these: those of trade.refusal().
TOO_LONG: Final = "record too long"
NOT_UTF8: Final = "not UTF-8"
NOT_JSON: Final = "not JSON"
"""Also for a JSON object that names a key twice, and for more than ``DEPTH_LIMIT`` levels."""
NOT_AN_OBJECT: Final = "not a JSON object"
NOT_A_TRADE: Final = "not a trade event"
UNKNOWN_SYMBOL: Final = "unknown symbol"
"""The symbol hasn't a symbol's form or, at the producer, is none of those followed."""
FUTURE: Final = "trade time in the future"


def missing(field: str) -> str:
    return f"missing field {field}"


def wrong_type(field: str) -> str:
    return f"field {field} is not a JSON {REQUIRED_FIELDS[field]}"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record or frame that can't be used: why, in the words above, and the bytes as they came."""

    reason: str
    record: bytes


def decode_payload(record: bytes, now: int, max_future_us: int) -> Trade | Rejected:
    """Read a bare payload, such as a record of Kafka's topic ``trades``; a trade of any symbol.

    ``now``: the present, or when the record was written, in microseconds since the epoch; a trade dated more
    than ``max_future_us`` after it is rejected.
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
    """The JSON value that ``text`` is; raises ValueError where it is none by the rules of ``NOT_JSON``."""
    if text.count("{") + text.count("[") > DEPTH_LIMIT and _depth(text) > DEPTH_LIMIT:
        raise ValueError("nested too deep")
    return _DECODER.decode(text)


def judge(fields: Any, symbols: Collection[str] | None, now: int, max_future_us: int) -> Trade | str:
    """The trade that the JSON value ``fields`` is, or the first reason why it is none.

    ``symbols``: those accepted; None accepts every name of a symbol's form. Times as in ``decode_payload``.
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
    return refusal(trade) or (FUTURE if trade.trade_time > now + max_future_us else trade)


_PYTHON_TYPES: Final[dict[str, type]] = {"integer": int, "string": str, "boolean": bool}
_DECIMAL: Final = re.compile(DECIMAL_PATTERN)
_NOT_A_NUMBER: Final = Decimal("NaN")


def _decimal(text: str) -> Decimal:
    """The number that ``text`` is; NaN, which ``refusal`` knows, for whatever isn't in plain digits."""
    return Decimal(text) if _DECIMAL.fullmatch(text) else _NOT_A_NUMBER


# A string is one step, its end optional and its inside possessive: any text is passed over in one run.
_STEPS: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def _depth(text: str) -> int:
    """The most levels of brackets in ``text``, outside its strings."""
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
        raise ValueError("a key is named twice")
    return unique


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")  # NaN, Infinity: Python's json would take them


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def encode(trade: Trade) -> bytes:
    """The payload of a trade that did not come from the stream, in the exact layout of those that did.

    Times are milliseconds, as in the stream, unless there is more to tell; the event's is the trade's, as
    only the stream has one of its own.
    """
    is_whole = trade.trade_time % 1_000 == 0
    time = trade.trade_time // 1_000 if is_whole else trade.trade_time
    return (
        f'{{"e":"trade","E":{time},"s":"{trade.symbol}","t":{trade.trade_id},"p":"{trade.price:f}",'
        f'"q":"{trade.quantity:f}","T":{time},"m":{str(trade.buyer_is_maker).lower()},"M":true}}'
    ).encode()
