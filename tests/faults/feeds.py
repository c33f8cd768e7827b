"""The market data that the simulated exchange serves, and all trades that it could have delivered."""

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
    """The simulator's command, its description, and the file if it is a recording."""

    command: Sequence[str]
    words: str
    file: Path | None = None
    module: str = "candleflow"

    def whole(self, rest_url: str, in_topic: Trades) -> Trades:
        """Return all the exchange's trades between the first and the last id in the topic."""
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
    """Return a simulated market without end."""
    command = ("simulate", "--rate", str(rate), "--seed", str(seed), "--symbols", ",".join(SYMBOLS))
    return Feed(command, f"simulated, {rate:g} trades/s")


def unruly(orders: Path, rate: float, seed: int = 1) -> Feed:
    """Return a simulated market on an exchange with the faults that the file ``orders`` asks for."""
    market = ("--rate", str(rate), "--seed", str(seed), "--symbols", ",".join(SYMBOLS))
    command = (*market, "--orders", str(orders))
    return Feed(command, f"simulated, {rate:g} trades/s", module="tests.faults.unruly_exchange")


def recorded(speed: float, otherwise: Feed) -> Feed:
    """Return ten recorded minutes of Binance, or ``otherwise`` with a remark if the recording is missing."""
    file = oracle.TRADES_ONLY
    if not file.exists():
        return Feed(otherwise.command, f"{otherwise.words} ({oracle.ABSENT})")
    command = ("replay", str(file), "--speed", str(speed), "--wait-for", str(len(SYMBOLS)))
    return Feed(command, f"recording, speed {speed:g}", file)


def _history(rest_url: str, symbol: str, first: int, last: int) -> Iterator[dict[str, Any]]:
    """Fetch trades from the exchange's REST API and convert them to the stream's format."""
    url = f"{rest_url}/api/v3/historicalTrades"
    with httpx.Client(trust_env=False) as client:
        for from_id in range(first, last + 1, _HISTORY_LIMIT):
            parameters: dict[str, str | int] = {"symbol": symbol, "fromId": from_id, "limit": _HISTORY_LIMIT}
            for one in client.get(url, params=parameters).raise_for_status().json():
                yield {
                    "s": symbol, "t": one["id"], "p": one["price"], "q": one["qty"], "T": one["time"],
                    "m": one["isBuyerMaker"],
                }  # fmt: skip
