"""The trade payload as Binance sends it and Kafka's topic ``trades`` holds it: its layout and its refusals.

    {"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,"p":"61837.63000000","q":"0.02000000",
     "T":1723161255342,"m":true,"M":true}

``e`` event type, ``E`` event time, ``s`` symbol, ``t`` trade id, ``p`` price, ``q`` quantity, ``T`` trade
time, ``m`` whether the buyer is the maker, ``M`` ignored. Source: binance-spot-api-docs,
web-socket-streams.md, "Trade Streams". Three readers rest on this page: ``exchange/messages.py`` decodes what
comes off the socket, ``engine/trades.py`` what comes out of Kafka, with ``LayoutReader.java`` for whatever
is in the exact layout; property tests hold them to the same verdict on every record.
"""

from __future__ import annotations

from typing import Final

from candleflow.market.symbol import SYMBOL_LENGTH, SYMBOL_PATTERN
from candleflow.market.trade import Trade

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

# The reasons of refusal, in the order in which they are looked for. Beside these: those of trade.refusal().
TOO_LONG: Final = "record too long"
NOT_UTF8: Final = "not UTF-8"
NOT_JSON: Final = "not JSON"
"""Also for a JSON object that names a key twice."""
NOT_AN_OBJECT: Final = "not a JSON object"
NOT_A_TRADE: Final = "not a trade event"
UNKNOWN_SYMBOL: Final = "unknown symbol"
"""The symbol hasn't a symbol's form or, at the producer, is none of those followed."""
FUTURE: Final = "trade time in the future"


def missing(field: str) -> str:
    return f"missing field {field}"


def wrong_type(field: str) -> str:
    return f"field {field} is not a JSON {REQUIRED_FIELDS[field]}"


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
