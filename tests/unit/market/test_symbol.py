"""The rule for symbol names is Binance's, checked for every character of Unicode."""

from __future__ import annotations

import string
import unicodedata
from functools import cache

import pytest
from hypothesis import given

from candleflow.market.symbol import is_symbol, lower, upper
from tests.made_symbols import SYMBOLS

_SURROGATES = range(0xD800, 0xE000)
_CODES = [code for code in range(0x110000) if code not in _SURROGATES]

_ALPHABETIC_SYMBOLS = {  # Unicode's Other_Alphabetic among the symbols: letters in circles and squares
    *range(0x24B6, 0x24EA), *range(0x1F130, 0x1F14A), *range(0x1F150, 0x1F16A), *range(0x1F170, 0x1F18A)
}  # fmt: skip
_JOINERS = {0x200C, 0x200D}


@cache
def accepted() -> set[int]:
    return {code for code in _CODES if is_symbol(f"A{chr(code)}")}


def rule_changes() -> list[int]:
    """The characters at which the rule changes: either the character or the one before it is allowed."""
    return [code for code in range(1, 0x110000) if (code in accepted()) != (code - 1 in accepted())]


def is_word(code: int) -> bool:
    r"""Java's ``\w`` with UNICODE_CHARACTER_CLASS, as its documentation defines it."""
    category = unicodedata.category(chr(code))
    is_letter = category[0] in "LM" or category in ("Nd", "Nl", "Pc")
    return is_letter or code in _ALPHABETIC_SYMBOLS or code in _JOINERS


def test_every_character_of_binances_rule_may_be_in_a_name() -> None:
    wanted = {code for code in _CODES if is_word(code)} - set(map(ord, string.ascii_lowercase))
    assert wanted | {ord("-"), ord(".")} <= accepted()


def test_no_other_does_that_is_ascii_or_blank_or_control_or_moves_text_or_is_an_emoji() -> None:
    extra = {code for code in accepted() if not is_word(code)} - {ord("-"), ord(".")}
    assert min(extra) > 0xFF
    kinds = {unicodedata.category(chr(code)) for code in extra}
    assert kinds.isdisjoint({"Cc", "Cf", "Co", "Zs", "Zl", "Zp"})
    assert not extra & {*range(0x1F300, 0x1FAFF), *range(0x2600, 0x27BF)}


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("BTCUSDT", True),
        ("1000SATSUSDT", True),
        ("A", True),
        ("这是测试币456", True),
        ("币安人生USDT", True),
        ("\u0410\u0411", True),  # Cyrillic letters
        ("_A.B-C", True),
        ("A" * 50, True),
        ("币" * 50, True),
        ("\U00020000" * 50, True),
        ("A" * 51, False),
        ("币" * 51, False),
        ("btcusdt", False),
        ("币安人生usdt", False),
        ("", False),
        ("BTC USDT", False),
        ("BTCUSDT\n", False),
        ("BTC,USDT", False),
        ("../../ETC", False),
        ("..", False),
        ("--help", False),
        ("BTCUSDT';--", False),
        ("BTC/USDT", False),
        ("BTC\u3000USDT", False),
        ("\u202eBTC", False),
        ("BTC\ud800", False),
        ("🚀USDT", False),
    ],
)
def test_a_symbols_name_follows_binances_rule(name: str, good: bool) -> None:
    assert is_symbol(name) is good


@given(SYMBOLS)
def test_small_letters_name_the_same_symbol(name: str) -> None:
    assert is_symbol(name)
    assert upper(f" {lower(name)}\n") == name


def test_no_letter_beyond_ascii_changes() -> None:
    assert upper("straßeusdt") == "STRAßEUSDT"
