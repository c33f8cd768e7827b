"""What the simulated exchange serves to a pipeline, and every trade that there was to be had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx

from tests import oracle
from tests.faults.verdicts import Trades

SYMBOLS: Final = ("BTCUSDT", "ETHUSDT")
_HISTORY_LIMIT: Final = 1_000


@dataclass(frozen=True)
class Feed:
    """The simulator's command, what it is in words, and the recording's file if it is one."""

    command: Sequence[str]
    words: str
    file: Path | None = None
    module: str = "candleflow"

    def whole(self, rest_url: str, in_topic: Trades) -> Trades:
        """Every trade from the first to the last that is in the topic, those that are not in it as well."""
        found: Trades = {}
        for symbol in SYMBOLS:
            ids = [trade_id for of, trade_id in in_topic if of == symbol]
            if ids:
                first, last = min(ids), max(ids)
                trades = self._recorded(symbol) if self.file else _history(rest_url, symbol, first, last)
                found |= {(symbol, one["t"]): one for one in trades if first <= one["t"] <= last}
        return found

    def _recorded(self, symbol: str) -> Iterator[dict[str, Any]]:
        assert self.file is not None
        return (one for one in oracle.recorded_trades(self.file) if one["s"] == symbol)


def seeded(rate: float, seed: int = 1) -> Feed:
    """A made-up market, for ever."""
    command = ("simulate", "--rate", str(rate), "--seed", str(seed), "--symbols", ",".join(SYMBOLS))
    return Feed(command, f"made up, {rate:g} trades/s")


def unruly(orders: Path, rate: float, seed: int = 1) -> Feed:
    """A made-up market, on an exchange that makes the faults which the file asks for."""
    market = ("--rate", str(rate), "--seed", str(seed), "--symbols", ",".join(SYMBOLS))
    command = (*market, "--orders", str(orders))
    return Feed(command, f"made up, {rate:g} trades/s", module="tests.faults.unruly_exchange")


def recorded(speed: float, otherwise: Feed) -> Feed:
    """Ten recorded minutes of Binance's; where the recording isn't here ``otherwise``, which says so."""
    file = oracle.TRADES_ONLY
    if not file.exists():
        return Feed(otherwise.command, f"{otherwise.words} ({oracle.ABSENT})")
    command = ("replay", str(file), "--speed", str(speed), "--wait-for", str(len(SYMBOLS)))
    return Feed(command, f"recording, speed {speed:g}", file)


def _history(rest_url: str, symbol: str, first: int, last: int) -> Iterator[dict[str, Any]]:
    """What the exchange's REST says that it traded, in the stream's terms."""
    url = f"{rest_url}/api/v3/historicalTrades"
    with httpx.Client(trust_env=False) as client:
        for from_id in range(first, last + 1, _HISTORY_LIMIT):
            parameters: dict[str, str | int] = {"symbol": symbol, "fromId": from_id, "limit": _HISTORY_LIMIT}
            for one in client.get(url, params=parameters).raise_for_status().json():
                yield {
                    "s": symbol, "t": one["id"], "p": one["price"], "q": one["qty"], "T": one["time"],
                    "m": one["isBuyerMaker"],
                }  # fmt: skip
