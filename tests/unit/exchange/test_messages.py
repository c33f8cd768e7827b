"""How the decoder classifies everything that may arrive on the socket, as a table."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest

from candleflow.exchange.messages import (
    ControlReply,
    Message,
    OtherStream,
    ServerShutdown,
    TradeMessage,
    decode,
)
from candleflow.market import payload
from candleflow.market.payload import RECORD_LIMIT_BYTES, Rejected, decode_payload, missing, wrong_type
from candleflow.market.trade import Trade
from tests import oracle

NOW: Final = 1_723_161_255_343_000
SYMBOLS: Final = frozenset({"BTCUSDT", "ETHUSDT"})
MINUTE_US: Final = 60_000_000

TRADE: Final = (
    '{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,"p":"61837.63000000","q":"0.02000000",'
    '"T":1723161255342,"m":true,"M":true}'
)
EXPECTED: Final = Trade(
    "BTCUSDT", 3735683259, Decimal("61837.63000000"), Decimal("0.02000000"), 1_723_161_255_342_000, True
)


def with_(field: str, value: str) -> str:
    """Return the recorded trade with one field's value replaced by a JSON text."""
    fields = [part.split(":", 1) for part in TRADE[1:-1].split(",")]
    changed = [f"{key}:{value if key == json.dumps(field) else old}" for key, old in fields]
    return "{" + ",".join(changed) + "}"


def without(field: str) -> str:
    fields = [part for part in TRADE[1:-1].split(",") if not part.startswith(f'"{field}":')]
    return "{" + ",".join(fields) + "}"


def combined(data: str, stream: str = "btcusdt@trade") -> str:
    return f'{{"stream":"{stream}","data":{data}}}'


def read(frame: str | bytes) -> Message:
    record = frame if isinstance(frame, bytes) else frame.encode(errors="surrogatepass")
    return decode(record, SYMBOLS, NOW, MINUTE_US)


def outcome(message: Message) -> str:
    """Describe a message in a word or two, for the table."""
    match message:
        case TradeMessage():
            return "trade"
        case Rejected(reason=reason):
            return reason
        case OtherStream(name=name):
            return f"other: {name}"
        case ControlReply(error=None):
            return "granted"
        case ControlReply(error=error):
            return f"refused: {error}"
        case ServerShutdown():
            return "shutdown"


NOT_POSITIVE_PRICE: Final = "price not a finite positive decimal"
NOT_POSITIVE_QUANTITY: Final = "quantity not a finite positive decimal"

NIGHTMARES: Final[dict[str, tuple[str | bytes, str]]] = {
    # Valid trades, however they are written.
    "a trade as Binance sends it": (TRADE, "trade"),
    "as bytes": (TRADE.encode(), "trade"),
    "in the combined wrapper": (combined(TRADE), "trade"),
    "in a wrapper with its keys exchanged": (f'{{"data":{TRADE},"stream":"btcusdt@trade"}}', "trade"),
    "with blanks and line ends": (combined(TRADE.replace(",", " ,\n\t").replace(":", " : ")), "trade"),
    "keys in another order": (json.dumps(dict(reversed(json.loads(TRADE).items()))), "trade"),
    "with a field that is new to us": (TRADE[:-1] + ',"x":{"y":[1,2]}}', "trade"),
    "without the unused fields": (without("M"), "trade"),
    "with escapes in its strings": (with_("s", r'"BTC\u0055SDT"'), "trade"),
    "times in microseconds": (with_("T", "1723161255342999"), "trade"),
    "a minute ahead, not more": (with_("T", "1723161315343"), "trade"),
    "dated 1970": (with_("T", "0"), "trade"),
    "id zero": (with_("t", "0"), "trade"),
    "a price without a point": (with_("p", '"61837"'), "trade"),
    "a price with leading zeros": (with_("p", '"0061837.63"'), "trade"),
    "a quantity of a hundred thousand million": (with_("q", '"100000000000.00000001"'), "trade"),
    "the least quantity": (with_("q", '"0.00000001"'), "trade"),
    # Invalid trades, with the first reason that applies.
    "no such symbol here": (with_("s", '"BNBUSDT"'), payload.UNKNOWN_SYMBOL),
    "a symbol in small letters": (with_("s", '"btcusdt"'), payload.UNKNOWN_SYMBOL),
    "a symbol with a line end": (with_("s", r'"BTCUSDT\n"'), payload.UNKNOWN_SYMBOL),
    "a symbol of half a character": (with_("s", r'"BTC\ud800"'), payload.UNKNOWN_SYMBOL),
    "no symbol": (without("s"), missing("s")),
    "no id": (without("t"), missing("t")),
    "no price": (without("p"), missing("p")),
    "no event time": (without("E"), missing("E")),
    "no event type in a stream of trades": (combined(without("e")), payload.NOT_A_TRADE),
    "another event in a stream of trades": (combined(with_("e", '"aggTrade"')), payload.NOT_A_TRADE),
    "no payload in a stream of trades": ('{"stream":"btcusdt@trade"}', payload.NOT_AN_OBJECT),
    "a null payload": (combined("null"), payload.NOT_AN_OBJECT),
    "a list for a payload": (combined("[]"), payload.NOT_AN_OBJECT),
    "price a number": (with_("p", "61837.63"), wrong_type("p")),
    "price null": (with_("p", "null"), wrong_type("p")),
    "price a list": (with_("p", "[]"), wrong_type("p")),
    "id a string": (with_("t", '"3735683259"'), wrong_type("t")),
    "id with a point": (with_("t", "3735683259.0"), wrong_type("t")),
    "id true": (with_("t", "true"), wrong_type("t")),
    "time an exponent": (with_("T", "1e400"), wrong_type("T")),
    "maker a number": (with_("m", "1"), wrong_type("m")),
    "maker a word": (with_("m", '"true"'), wrong_type("m")),
    "id negative": (with_("t", "-1"), "trade id out of range"),
    "id over 63 bits": (with_("t", str(2**63)), "trade id out of range"),
    "id of a thousand digits": (with_("t", "9" * 1_000), "trade id out of range"),
    "time negative": (with_("T", "-1"), "trade time out of range"),
    "the year 10000": (with_("T", "253402300800000000"), "trade time out of range"),
    "the year 2286": (with_("T", "9999999999999"), payload.FUTURE),
    "a millisecond more than a minute ahead": (with_("T", "1723161315344"), payload.FUTURE),
    "price zero": (with_("p", '"0.00000000"'), NOT_POSITIVE_PRICE),
    "price negative": (with_("p", '"-1.0"'), NOT_POSITIVE_PRICE),
    "price with a plus": (with_("p", '"+1.0"'), NOT_POSITIVE_PRICE),
    "price with a blank": (with_("p", '" 1.0"'), NOT_POSITIVE_PRICE),
    "price with an exponent": (with_("p", '"1e400"'), NOT_POSITIVE_PRICE),
    "price not a number": (with_("p", '"NaN"'), NOT_POSITIVE_PRICE),
    "price infinite": (with_("p", '"Infinity"'), NOT_POSITIVE_PRICE),
    "price empty": (with_("p", '""'), NOT_POSITIVE_PRICE),
    "price ends in a point": (with_("p", '"1."'), NOT_POSITIVE_PRICE),
    "price in Arabic digits": (with_("p", '"١٢"'), NOT_POSITIVE_PRICE),
    "price with an underscore": (with_("p", '"1_000"'), NOT_POSITIVE_PRICE),
    "price too high": (with_("p", '"100000000000"'), "price out of range"),
    "price with nine places": (with_("p", '"1.000000000"'), "price has more than 8 decimal places"),
    "quantity zero": (with_("q", '"0"'), NOT_POSITIVE_QUANTITY),
    "quantity too large": (with_("q", '"1000000000000"'), "quantity out of range"),
    "price times quantity too large": (
        with_("p", '"99999999999"').replace("0.02000000", "1000000001.1"), "notional out of range"
    ),
    "price times quantity just not too large": (
        with_("p", '"99999999999"').replace("0.02000000", "1000000000"), "trade"
    ),
    # Not JSON.
    "nothing": ("", payload.NOT_JSON),
    "a blank": (" ", payload.NOT_JSON),
    "words": ("hello", payload.NOT_JSON),
    "cut in the middle": (TRADE[:80], payload.NOT_JSON),
    "one brace too many": (TRADE + "}", payload.NOT_JSON),
    "two trades in one frame": (TRADE + TRADE, payload.NOT_JSON),
    "a byte order mark": ("\ufeff" + TRADE, payload.NOT_JSON),
    "price a literal NaN": (with_("p", "NaN"), payload.NOT_JSON),
    "an unread field a literal Infinity": (TRADE[:-1] + ',"x":-Infinity}', payload.NOT_JSON),
    "an id with a leading zero": (with_("t", "0123"), payload.NOT_JSON),
    "a key named twice": (TRADE[:-1] + ',"p":"1.0"}', payload.NOT_JSON),
    "a key named twice, deep inside": (TRADE[:-1] + ',"x":{"y":1,"y":2}}', payload.NOT_JSON),
    "single quotes": (TRADE.replace('"', "'"), payload.NOT_JSON),
    "a trailing comma": (TRADE[:-1] + ",}", payload.NOT_JSON),
    "a raw line end inside a string": (with_("s", '"BTC\nUSDT"'), payload.NOT_JSON),
    "nested two thousand deep": ("[" * 2_000 + "]" * 2_000, payload.NOT_JSON),
    "zero bytes": (b"\x00" * 20, payload.NOT_JSON),
    # Not a text.
    "cut in the middle of a character": ('{"e":"trade","s":"é'.encode()[:-1], payload.NOT_UTF8),
    "UTF-16": (TRADE.encode("utf-16"), payload.NOT_UTF8),
    "half a character in a string of Python's": ('{"e":"trade","s":"\ud800"}', payload.NOT_UTF8),
    # JSON that Binance never sends.
    "a number": ("42", payload.NOT_AN_OBJECT),
    "null": ("null", payload.NOT_AN_OBJECT),
    "a list of numbers": ("[1,2]", payload.NOT_AN_OBJECT),
    "a list of trades": (f"[{TRADE}]", payload.NOT_AN_OBJECT),
    "an empty object": ("{}", payload.NOT_A_TRADE),
    "an event type that is no string": (with_("e", "5"), payload.NOT_A_TRADE),
    "a trade without its event type": (without("e"), payload.NOT_A_TRADE),
    # Too long.
    "a megabyte of a trade": (TRADE[:-1] + f',"x":"{"y" * 2**20}"}}', payload.TOO_LONG),
    "a megabyte of nothing": ("x" * 2**20, payload.TOO_LONG),
    "a megabyte of bytes that are no text": (b"\xff" * 2**20, payload.TOO_LONG),
    "a megabyte of brackets": ("[" * 2**20, payload.TOO_LONG),
    "a price of five thousand zeros": (with_("p", f'"{"0" * 5_000}1"'), payload.TOO_LONG),
    "just too long": (TRADE + " " * (RECORD_LIMIT_BYTES + 1 - len(TRADE)), payload.TOO_LONG),
    "just not too long": (TRADE + " " * (RECORD_LIMIT_BYTES - len(TRADE)), "trade"),
    "too long in bytes only": (TRADE[:-1] + f',"x":"{"é" * 2_000}"}}', payload.TOO_LONG),
    # Other messages.
    "book ticker, combined": (
        combined('{"u":1,"s":"BTCUSDT","b":"1","B":"1","a":"1","A":"1"}', "btcusdt@bookTicker"),
        "other: btcusdt@bookTicker",
    ),
    "book ticker, raw": ('{"u":1,"s":"BTCUSDT","b":"1","B":"1","a":"1","A":"1"}', "other: bookTicker"),
    "depth of thousands of levels": (
        combined('{"lastUpdateId":1,"bids":[' + ",".join(['["1","2"]'] * 5_000) + '],"asks":[]}', "x@depth"),
        "other: x@depth",
    ),
    "a snapshot from REST": ('{"lastUpdateId":1,"bids":[],"asks":[]}', "other: depth"),
    "aggregate trade": ('{"e":"aggTrade","s":"BTCUSDT"}', "other: aggTrade"),
    "all mini tickers": ('[{"e":"24hrMiniTicker"},{"e":"24hrMiniTicker"}]', "other: array"),
    "all mini tickers, combined": (
        combined('[{"e":"24hrMiniTicker"}]', "!miniTicker@arr"), "other: !miniTicker@arr"
    ),
    "granted": ('{"result":null,"id":1}', "granted"),
    "granted, with a word for an id": ('{"id":"a1","result":["btcusdt@trade"]}', "granted"),
    "refused": ('{"code":2,"msg":"Invalid request: no","id":1}', "refused: 2: Invalid request: no"),
    "refused, without an id": ('{"code":3,"msg":"Invalid JSON"}', "refused: 3: Invalid JSON"),
    "refused, in the other form": ('{"error":{"code":1,"msg":"No"},"id":7}', "refused: 1: No"),
    "shutting down": ('{"e":"serverShutdown","E":1770123456789}', "shutdown"),
    "shutting down, combined": (
        combined('{"e":"serverShutdown","E":1770123456789}', "!serverShutdown"), "shutdown"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("frame", "expected"), NIGHTMARES.values(), ids=NIGHTMARES.keys())
def test_each_frame_has_its_outcome(frame: str | bytes, expected: str) -> None:
    assert outcome(read(frame)) == expected


@pytest.mark.parametrize(("frame", "expected"), NIGHTMARES.values(), ids=NIGHTMARES.keys())
def test_a_refused_frame_is_kept_as_it_came(frame: str | bytes, expected: str) -> None:
    message = read(frame)
    if isinstance(message, Rejected):
        as_bytes = frame if isinstance(frame, bytes) else frame.encode(errors="surrogatepass")
        assert message.record == as_bytes


@pytest.mark.parametrize("frame", [TRADE, combined(TRADE), combined(TRADE).replace(":", " : ", 1)])
def test_a_trade_is_read_whole(frame: str) -> None:
    message = read(frame)
    assert isinstance(message, TradeMessage)
    assert message.trade == EXPECTED
    assert message.payload == TRADE.encode()


def test_a_taker_that_buys_is_the_maker_that_sells() -> None:
    message = read(with_("m", "false"))
    assert isinstance(message, TradeMessage)
    assert not message.trade.buyer_is_maker


def test_microseconds_are_kept() -> None:
    message = read(with_("T", "1723161255342999"))
    assert isinstance(message, TradeMessage)
    assert message.trade.trade_time == 1_723_161_255_342_999


def test_the_payload_keeps_each_number_and_escape_as_it_was_sent() -> None:
    data = TRADE[:-1] + r', "x": [1.50, 1e5, 123456789012345678901234567890, "\u00e9\ud800"]}'
    message = read(f' {{ "other": {{"data": 1}}, "data" : {data} , "stream" : "btcusdt@trade" }} ')
    assert isinstance(message, TradeMessage)
    assert message.payload.decode() == data


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (TRADE, None),
        (with_("s", '"ANYTHING-1"'), None),
        (with_("s", '"btcusdt"'), payload.UNKNOWN_SYMBOL),
        (with_("s", '"../../etc"'), payload.UNKNOWN_SYMBOL),
        (with_("s", '""'), payload.UNKNOWN_SYMBOL),
        (combined(TRADE), payload.NOT_A_TRADE),
        ('{"e":"serverShutdown"}', payload.NOT_A_TRADE),
        ("[]", payload.NOT_AN_OBJECT),
        ("", payload.NOT_JSON),
        ("{}" * 4_000, payload.TOO_LONG),
        (with_("T", "9999999999999"), payload.FUTURE),
    ],
)
def test_a_bare_payload_of_any_symbol_is_a_trade_or_has_its_reason(record: str, expected: str | None) -> None:
    verdict = decode_payload(record.encode(), NOW, MINUTE_US)
    assert (verdict.reason if isinstance(verdict, Rejected) else None) == expected


def test_a_payload_that_is_no_text_is_refused() -> None:
    assert decode_payload(b"\xff", NOW, MINUTE_US) == Rejected(payload.NOT_UTF8, b"\xff")


DOCUMENTED: Final = {
    "Server Shutdown": "shutdown",
    "Subscribe to a stream": payload.NOT_A_TRADE,
    "Unsubscribe to a stream": payload.NOT_A_TRADE,
    "Listing Subscriptions": payload.NOT_A_TRADE,
    "Setting Properties": payload.NOT_A_TRADE,
    "Retrieving Properties": payload.NOT_A_TRADE,
    "Reference Price Streams": "other: referencePrice",
    "Aggregate Trade Streams": "other: aggTrade",
    "Trade Streams": "trade",
    "Block Trade Streams": "other: blockTrade",
    "Kline/Candlestick Streams for UTC": "other: kline",
    "Kline/Candlestick Streams with timezone offset": "other: kline",
    "Individual Symbol Mini Ticker Stream": "other: 24hrMiniTicker",
    "All Market Mini Tickers Stream": "other: array",
    "Individual Symbol Ticker Streams": "other: 24hrTicker",
    "Individual Symbol Rolling Window Statistics Streams": "other: 1hTicker",
    "All Market Rolling Window Statistics Streams": "other: array",
    "Individual Symbol Book Ticker Streams": "other: bookTicker",
    "Average Price": "other: avgPrice",
    "Partial Book Depth Streams": "other: depth",
    "Diff. Depth Stream": "other: depthUpdate",
}
"""How each example in Binance's documentation is classified. Examples of requests are left out."""


def test_each_example_in_the_documentation_is_classified() -> None:
    file = oracle.SHARED_DATA / "binance_doc_examples.jsonl"
    if not file.exists():
        pytest.skip(oracle.ABSENT)
    for line in file.read_text().splitlines():
        example = json.loads(line)
        frame = json.dumps(example["json"], separators=(",", ":"))
        message = decode(frame.encode(), {"BNBBTC"}, NOW, MINUTE_US)
        expected = "granted" if "result" in example["json"] else DOCUMENTED[example["section"]]
        assert outcome(message) == expected, line


@pytest.mark.parametrize("file", [oracle.TRADES_ONLY, oracle.ALL_STREAMS], ids=["trades", "all streams"])
def test_every_recorded_message_is_a_trade_or_another_streams(file: Path) -> None:
    if not oracle.ALL_STREAMS.exists():
        pytest.skip(oracle.ABSENT)
    with gzip.open(file, "rt") as lines:
        for line in lines:
            message = decode(line.rstrip("\n").encode(), SYMBOLS, 2 * NOW, MINUTE_US)
            if '@trade"' in line[:40]:
                assert isinstance(message, TradeMessage)
                assert f'"data":{message.payload.decode()}}}' in line
            else:
                assert isinstance(message, OtherStream)
