"""Each symbol belongs to exactly one shard, the same on every machine; few move when a shard is added."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candleflow.errors import MarketError
from candleflow.market.shard import ALL, MOST, PRODUCER, Shard
from tests.made_symbols import SYMBOLS

COUNTS = st.integers(1, MOST)
SHARDS = COUNTS.flatmap(lambda count: st.integers(1, count).map(lambda number: Shard(number, count)))
MANY = tuple(f"{base}{quote}" for base in map(str, range(1_000)) for quote in ("USDT", "BTC"))


def shards(count: int) -> list[Shard]:
    return [Shard(number, count) for number in range(1, count + 1)]


def owner(symbol: str, count: int) -> int:
    (found,) = (one.number for one in shards(count) if one.owns(symbol))
    return found


@given(SYMBOLS, COUNTS)
def test_a_symbol_falls_to_exactly_one_shard_that_of_the_greatest_weight(symbol: str, count: int) -> None:
    weights = {
        one.number: hashlib.sha256(f"{one.number}-{symbol}".encode()).digest() for one in shards(count)
    }
    assert owner(symbol, count) == max(weights, key=weights.__getitem__)


@given(st.lists(SYMBOLS, unique=True, max_size=30), COUNTS)
def test_the_shards_share_out_all_symbols_in_their_order(symbols: list[str], count: int) -> None:
    lots = [one.among(symbols) for one in shards(count)]
    assert sorted(symbol for lot in lots for symbol in lot) == sorted(symbols)
    assert all(list(lot) == [symbol for symbol in symbols if symbol in lot] for lot in lots)


@given(SYMBOLS, st.integers(1, MOST - 1))
def test_with_one_more_shard_a_symbol_stays_or_goes_to_the_new_one(symbol: str, count: int) -> None:
    assert owner(symbol, count + 1) in (owner(symbol, count), count + 1)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_with_one_more_shard_about_its_share_of_the_symbols_moves(count: int) -> None:
    moved = sum(owner(symbol, count) != owner(symbol, count + 1) for symbol in MANY)
    assert moved == pytest.approx(len(MANY) / (count + 1), rel=0.2)


@pytest.mark.parametrize("count", [2, 4, 10])
def test_the_shards_are_of_about_one_size(count: int) -> None:
    for one in shards(count):
        assert len(one.among(MANY)) == pytest.approx(len(MANY) / count, rel=0.3)


@given(SHARDS, SHARDS, st.lists(SYMBOLS, max_size=30))
def test_shards_that_do_not_overlap_have_no_symbol_in_common(
    one: Shard, other: Shard, symbols: list[str]
) -> None:
    assert one.overlaps(other) == other.overlaps(one)
    if not one.overlaps(other):
        assert not set(one.among(symbols)) & set(other.among(symbols))


@pytest.mark.parametrize("one", [shard for count in (1, 2, 3, 4) for shard in shards(count)], ids=str)
@pytest.mark.parametrize("other", [shard for count in (1, 2, 3, 4) for shard in shards(count)], ids=str)
def test_shards_that_overlap_have_some_of_many_symbols_in_common(one: Shard, other: Shard) -> None:
    assert one.overlaps(other) == bool(set(one.among(MANY)) & set(other.among(MANY)))


def test_the_rule_is_the_same_in_every_release_and_process() -> None:
    """Fixed values, because a changed hash would move symbols at an upgrade."""
    symbols = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "XRPUSDT", "DOGEUSDT", "ADAUSDT", "LTCUSDT")
    expected = {
        2: [1, 2, 1, 2, 1, 2, 2, 1],
        3: [3, 2, 3, 3, 1, 2, 2, 3],
        4: [3, 2, 3, 3, 1, 4, 2, 3],
    }
    assert {count: [owner(symbol, count) for symbol in symbols] for count in expected} == expected
    program = (
        "from candleflow.market.shard import Shard;"
        f"print([[Shard(n, 4).owns(s) for n in range(1, 5)].index(True) + 1 for s in {symbols!r}])"
    )
    for seed in ("0", "1"):
        said = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert said == f"{expected[4]}\n"


@given(SHARDS)
def test_a_shard_is_read_back_from_its_text_and_from_its_names(shard: Shard) -> None:
    assert Shard.of(str(shard)) == shard
    assert Shard.named(shard.name_of(PRODUCER), PRODUCER) == shard


def test_the_one_shard_has_every_symbol_and_no_name_beside_the_plain_one() -> None:
    assert ALL.among(MANY) == MANY
    assert ALL.name_of(PRODUCER) == PRODUCER


@pytest.mark.parametrize("name", ["producer-0-of-2", "producer-3-of-2", "producer-1-of-2.x", "processor", ""])
def test_what_is_no_shards_name_is_of_none(name: str) -> None:
    assert Shard.named(name, PRODUCER) is None


@pytest.mark.parametrize("text", ["", "x", "2", "5/4", "0/2", "1/0", "-1/2", "1/2/3", "1/ 2", "1/65", "٢/٣"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(MarketError, match="must be a shard such as 2/4"):
        Shard.of(text)
