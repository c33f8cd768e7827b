"""The decoder on arbitrary input: it always returns, never raises, and its fast path changes no result."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from itertools import islice
from typing import Any, Final, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from candleflow.exchange import messages
from candleflow.exchange.messages import (
    Message,
    TradeMessage,
    decode,
    decode_fully,
)
from candleflow.market.payload import NOT_AN_OBJECT, NOT_JSON, NOT_UTF8, TOO_LONG, Rejected, decode_payload
from candleflow.market.symbol import lower
from candleflow.market.trade import NOTIONAL_LIMIT, Trade, rejection_reason
from tests import made_symbols, oracle

NOW: Final = 1_723_161_255_343_000
SYMBOLS: Final = frozenset({"BTCUSDT", "ETHUSDT", "币安人生USDT"})
MINUTE_US: Final = 60_000_000
MESSAGES: Final = get_args(Message)

TRADE: Final = (
    '{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,"p":"61837.63000000","q":"0.02000000",'
    '"T":1723161255342,"m":true,"M":true}'
)


def read(frame: str | bytes) -> Message:
    record = frame if isinstance(frame, bytes) else frame.encode(errors="surrogatepass")
    return decode(record, SYMBOLS, NOW, MINUTE_US)


# Values that use the layout's characters, within the limits and far outside them.
integers = st.one_of(
    st.integers(0, 10**19 - 1), st.integers(NOW // 1_000 - 10, NOW // 1_000 + 70_000), st.integers(0, 20)
)
digits = st.text("0123456789", min_size=1, max_size=14)
decimals = st.one_of(
    digits, st.builds("{}.{}".format, digits, st.text("0123456789", min_size=1, max_size=10))
)
symbols = st.one_of(st.sampled_from(sorted(SYMBOLS)), made_symbols.SYMBOLS)
flags = st.sampled_from(["true", "false"])
canonical = st.builds(
    '{{"e":"trade","E":{},"s":"{}","t":{},"p":"{}","q":"{}","T":{},"m":{},"M":{}}}'.format,
    integers, symbols, integers, decimals, decimals, integers, flags, flags,
)  # fmt: skip
streams = st.sampled_from(["btcusdt", "币安人生usdt"])
frames = st.one_of(canonical, st.builds('{{"stream":"{}@trade","data":{}}}'.format, streams, canonical))

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
fields = st.one_of(json_values, integers, decimals, symbols, st.booleans())
nearly_trades = st.dictionaries(
    st.sampled_from(["e", "E", "s", "t", "p", "q", "T", "m", "M", "x"]), fields, max_size=10
).map(lambda changed: json.loads(TRADE) | changed)


@given(frames)
@example(TRADE)
def test_the_quick_way_and_the_full_parser_say_the_same(frame: str) -> None:
    quick = read(frame)
    assert quick == decode_fully(frame.encode(), SYMBOLS, NOW, MINUTE_US)


@given(
    st.integers(0, 10**18 - 1),
    st.one_of(st.integers(10**12, 10**13 - 1), st.integers(10**15, 10**16 - 1)),
    st.decimals(0, 10**11 - 1, places=8),
    st.decimals(0, 10**12 - 1, places=8),
    st.sampled_from(sorted(SYMBOLS)),
)
def test_the_quick_way_is_really_taken(
    trade_id: int, time: int, price: Decimal, quantity: Decimal, symbol: str
) -> None:
    fields = {"s": symbol, "t": trade_id, "T": time, "E": time, "p": f"{price:f}", "q": f"{quantity:f}"}
    frame = json.dumps(json.loads(TRADE) | fields, separators=(",", ":"), ensure_ascii=False)
    combined = f'{{"stream":"{lower(symbol)}@trade","data":{frame}}}'
    assert messages._RAW.fullmatch(frame.encode()) is not None
    assert messages._COMBINED.fullmatch(combined.encode()) is not None
    if 0 < price * quantity < NOTIONAL_LIMIT * Decimal("0.99"):
        quick = messages._recognized(combined.encode(), SYMBOLS, 2**62)
        assert quick == decode_fully(combined.encode(), SYMBOLS, 2**62, 0)


@given(
    nearly_trades, st.sampled_from([None, "btcusdt@trade", "btcusdt@bookTicker"]), st.sampled_from([None, 1])
)
def test_layout_does_not_change_the_verdict(content: Any, stream: str | None, indent: int | None) -> None:
    whole = content if stream is None else {"stream": stream, "data": content}
    compact = read(json.dumps(whole, separators=(",", ":")))
    spread = read(json.dumps(whole, indent=indent))
    assert type(compact) is type(spread)
    if isinstance(compact, TradeMessage) and isinstance(spread, TradeMessage):
        assert compact.trade == spread.trade
    if isinstance(compact, Rejected) and isinstance(spread, Rejected):
        assert compact.reason == spread.reason


@given(nearly_trades)
def test_a_payload_has_the_same_verdict_in_a_frame_and_bare(content: Any) -> None:
    record = json.dumps(content).encode()
    bare = decode_payload(record, NOW, MINUTE_US)
    framed = read(record)
    if isinstance(bare, Trade):
        if bare.symbol in SYMBOLS:
            assert framed == TradeMessage(bare.symbol, bare.trade_id, bare.trade_time, record)
            assert framed.trade == bare
        assert rejection_reason(bare) is None
        assert bare.trade_time <= NOW + MINUTE_US
    elif content.get("e") == "trade":
        assert isinstance(framed, Rejected)


@given(st.one_of(frames, nearly_trades.map(json.dumps)))
def test_what_is_published_is_a_trade_again_when_it_is_read_back(frame: str) -> None:
    message = read(frame)
    if isinstance(message, TradeMessage):
        assert decode_payload(message.payload, NOW, MINUTE_US) == message.trade


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300), json_values.map(json.dumps)))
def test_anything_at_all_has_an_answer(frame: str | bytes) -> None:
    assert isinstance(read(frame), MESSAGES)
    record = frame if isinstance(frame, bytes) else frame.encode(errors="surrogatepass")
    assert isinstance(decode_payload(record, NOW, MINUTE_US), Trade | Rejected)


@given(frames, st.integers(0, 300), st.binary(min_size=1, max_size=2))
@example('{"stream":"btcusdt@trade","data":' + TRADE + "}", 12, b"\xff")
def test_bytes_that_are_no_utf8_are_never_taken_the_quick_way(frame: str, at: int, put_in: bytes) -> None:
    record = frame.encode()[:at] + put_in + frame.encode()[at:]
    assert read(record) == decode_fully(record, SYMBOLS, NOW, MINUTE_US)


@given(st.text(st.characters(), max_size=50))
@example("\ud800")
def test_text_that_is_no_utf8_is_refused_for_it_or_for_its_form(text: str) -> None:
    message = read(text)
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        assert isinstance(message, Rejected)
        assert message.reason == NOT_UTF8


@settings(max_examples=20)
@given(st.integers(1, 200_000), st.sampled_from(["[", '{"a":', "[[{", '"', "9", "-", "1e", "\\u"]))
def test_depth_and_length_never_raise(count: int, piece: str) -> None:
    message = read(piece * count)
    assert isinstance(message, Rejected)
    assert message.reason in (NOT_JSON, NOT_AN_OBJECT, TOO_LONG)  # 999 is JSON


@pytest.fixture(scope="module")
def recorded() -> list[bytes]:
    """One frame of each kind in the recording."""
    if not oracle.ALL_STREAMS.exists():
        pytest.skip(oracle.ABSENT)
    with gzip.open(oracle.ALL_STREAMS) as lines:
        return [line.rstrip() for line in islice(lines, 0, 20_000, 97)]


@given(st.data())
def test_a_recorded_frame_that_was_damaged_has_an_answer(recorded: list[bytes], data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from(recorded)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame)))
        until = at + data.draw(st.integers(0, 8))
        frame[at:until] = data.draw(
            st.one_of(st.binary(max_size=4), st.sampled_from([b'"', b"}", b"[", b"1e400"]))
        )
    damaged = bytes(frame)
    message = read(damaged)
    assert isinstance(message, MESSAGES)
    if isinstance(message, Rejected):
        assert message.record == damaged
    if isinstance(message, TradeMessage):
        assert decode_payload(message.payload, NOW, MINUTE_US) == message.trade
