"""The payload of a trade that was fetched from the exchange's history."""

from __future__ import annotations

import re
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from candleflow.market.payload import CANONICAL_PATTERN, decode_payload, encode
from candleflow.market.trade import Trade

AMOUNTS = st.decimals(Decimal("0.00000001"), Decimal("999999.99999999"), places=8)
TRADES = st.builds(
    Trade,
    st.sampled_from(["BTCUSDT", "1000SATSUSDT"]),
    st.integers(0, 10**17),
    AMOUNTS,
    AMOUNTS,
    st.integers(10**15, 4 * 10**15),
    st.booleans(),
)


@given(TRADES)
def test_it_is_read_back_as_the_same_trade_in_the_streams_own_layout(trade: Trade) -> None:
    payload = encode(trade)
    assert re.fullmatch(CANONICAL_PATTERN, payload.decode())
    assert decode_payload(payload, 5 * 10**15, 0) == trade


def test_it_is_as_binance_sends_it() -> None:
    trade = Trade(
        "BTCUSDT",
        3_735_683_259,
        Decimal("61837.63000000"),
        Decimal("0.02000000"),
        1_723_161_255_342_000,
        True,
    )
    assert encode(trade) == (
        b'{"e":"trade","E":1723161255342,"s":"BTCUSDT","t":3735683259,"p":"61837.63000000",'
        b'"q":"0.02000000","T":1723161255342,"m":true,"M":true}'
    )
