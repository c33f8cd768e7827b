"""The producer's rules without a socket: the exchange's addresses, valid symbols, which trades are new."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candleflow import settings as settings_module
from candleflow.errors import SettingError
from candleflow.exchange.addresses import addresses
from candleflow.producer.intake import RANGES_LIMIT, PublishedIds
from candleflow.producer.process import check_symbols, halted


def test_auto_alternates_between_two_addresses_of_the_same_market() -> None:
    found = addresses(settings_module.load(exchange="auto"))
    assert found.websocket == ("wss://stream.binance.com:9443", "wss://data-stream.binance.vision")
    assert found.rest == ("https://api.binance.com", "https://data-api.binance.vision")
    assert "CANDLEFLOW_EXCHANGE=simulator" in found.advice


@pytest.mark.parametrize(
    ("given_settings", "websocket", "rest"),
    [
        ({"exchange": "binance"}, "wss://stream.binance.com:9443", "https://api.binance.com"),
        ({"exchange": "binance-us"}, "wss://stream.binance.us:9443", "https://api.binance.us"),
        (
            {"exchange": "binance-vision"},
            "wss://data-stream.binance.vision",
            "https://data-api.binance.vision",
        ),
        (
            {"exchange": "simulator", "simulator_port": 9_555},
            "ws://127.0.0.1:9555",
            "http://127.0.0.1:9555",
        ),
        (
            {"exchange_ws_url": "ws://127.0.0.1:1", "exchange_rest_url": "http://127.0.0.1:2"},
            "ws://127.0.0.1:1",
            "http://127.0.0.1:2",
        ),
    ],
)
def test_an_exchange_has_its_addresses(given_settings: dict[str, str], websocket: str, rest: str) -> None:
    found = addresses(settings_module.load(**given_settings))
    assert (found.websocket, found.rest, found.advice) == ((websocket,), (rest,), "")


def test_with_only_a_websocket_address_rest_is_off() -> None:
    assert addresses(settings_module.load(exchange_ws_url="ws://127.0.0.1:1")).rest == ()


def test_a_given_rest_address_replaces_that_of_a_named_exchange() -> None:
    found = addresses(settings_module.load(exchange="binance", exchange_rest_url="https://proxy.example"))
    assert found.rest == ("https://proxy.example",)


def test_an_unknown_symbol_is_named_with_the_nearest_ones() -> None:
    with pytest.raises(SettingError) as raised:
        check_symbols(["BTCUSDT", "ETHUSD", "QQ"], ["BTCUSDT", "ETHUSDT", "ETHUSDC"])
    assert raised.value.exit_status == 2
    assert "CANDLEFLOW_SYMBOLS='BTCUSDT,ETHUSD,QQ'" in str(raised.value)
    assert "ETHUSD (did you mean ETHUSDT or ETHUSDC" in str(raised.value)
    assert "QQ" in str(raised.value)


def test_if_the_exchange_lists_no_symbol_none_is_rejected() -> None:
    check_symbols(["BTCUSDT"], [])


def test_a_halted_symbol_is_not_unknown() -> None:
    listed = {"BTCUSDT": "TRADING", "LUNAUSDT": "BREAK", "ETHUSDT": "TRADING"}
    check_symbols(["BTCUSDT", "LUNAUSDT"], listed)
    assert halted(["BTCUSDT", "LUNAUSDT"], listed) == ["LUNAUSDT"]
    assert halted(["BTCUSDT"], {}) == []


def test_a_lower_id_that_was_never_published_is_new() -> None:
    published = PublishedIds()
    assert [published.add("BTCUSDT", one) for one in (10, 12, 11, 10, 9, 12)] == [
        True,
        True,
        True,
        False,
        True,
        False,
    ]


def test_the_same_id_of_two_symbols_is_two_trades() -> None:
    published = PublishedIds()
    assert published.add("BTCUSDT", 1)
    assert published.add("ETHUSDT", 1)


@given(st.lists(st.integers(0, 60)))
def test_each_id_is_new_once_in_any_order(ids: list[int]) -> None:
    published, seen = PublishedIds(), set[int]()
    for one in ids:
        assert published.add("BTCUSDT", one) == (one not in seen)
        seen.add(one)


def test_ids_with_many_gaps_take_bounded_memory_and_recent_ones_stay_exact() -> None:
    published = PublishedIds()
    ids = [2 * number for number in range(50_000)]
    for one in ids:
        assert published.add("BTCUSDT", one)
    assert len(published._ids["BTCUSDT"].ranges) <= RANGES_LIMIT + 4_096
    recent = ids[-RANGES_LIMIT:]
    random.Random(1).shuffle(recent)
    assert not any(published.add("BTCUSDT", one) for one in recent)
