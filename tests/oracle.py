"""An independent calculation of candles from a recording, in plain Python without code of Candleflow.

It reads the whole file, sorts by trade id and adds up with ``Fraction``. It is slow but simple, so errors are
unlikely.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TRADES_ONLY = SHARED_DATA / "spot_btc_eth_trades_20240808.ws.jsonl.gz"
ALL_STREAMS = SHARED_DATA / "spot_btc_eth_all_20240808.ws.jsonl.gz"
PUBLISHED_KLINES = SHARED_DATA / "expected_klines_1m_spot_20240808.csv"
ABSENT = f"the recordings are not here: no {SHARED_DATA.name} folder beside the project"

INTERVAL_SECONDS = {"5s": 5, "1m": 60, "5m": 300, "15m": 900, "1h": 3_600, "1d": 86_400}


@dataclass(frozen=True)
class OracleCandle:
    """The expected row of the table ``candles``; volumes are exact fractions."""

    symbol: str
    interval: str
    open_time: datetime
    open: Fraction
    high: Fraction
    low: Fraction
    close: Fraction
    volume: Fraction
    quote_volume: Fraction
    taker_buy_volume: Fraction
    taker_buy_quote_volume: Fraction
    trade_count: int
    first_trade_id: int
    last_trade_id: int
    is_complete: bool


FIELDS = [field.name for field in fields(OracleCandle)]


def recorded_trades(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the trade payloads of a recording of combined streams; other streams are skipped."""
    with gzip.open(file, "rt") as lines:
        for line in lines:
            data = json.loads(line).get("data", {})
            if data.get("e") == "trade":
                yield data


def candles(
    trades: Iterable[dict[str, Any]], seconds: int, interval: str
) -> dict[tuple[Any, ...], OracleCandle]:
    """Return the candles by (symbol, interval, open time).

    A candle is complete if no trade id is missing in it or between it and the candle before it.
    """
    by_id = {(trade["s"], trade["t"]): trade for trade in trades}
    windows: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for trade in by_id.values():
        windows[trade["s"], millis(trade) // 1000 // seconds * seconds].append(trade)
    found: dict[tuple[Any, ...], OracleCandle] = {}
    last_id_of: dict[str, int] = {}
    for (symbol, start), members in sorted(windows.items()):
        members.sort(key=lambda trade: trade["t"])
        prices = [Fraction(trade["p"]) for trade in members]
        first, last = members[0]["t"], members[-1]["t"]
        open_time = datetime.fromtimestamp(start, UTC)
        found[symbol, interval, open_time] = OracleCandle(
            symbol=symbol,
            interval=interval,
            open_time=open_time,
            open=prices[0],
            high=max(prices),
            low=min(prices),
            close=prices[-1],
            volume=_sum(members, quote=False),
            quote_volume=_sum(members, quote=True),
            taker_buy_volume=_sum([t for t in members if not t["m"]], quote=False),
            taker_buy_quote_volume=_sum([t for t in members if not t["m"]], quote=True),
            trade_count=len(members),
            first_trade_id=first,
            last_trade_id=last,
            is_complete=len(members) == last - first + 1 and last_id_of.get(symbol) == first - 1,
        )
        last_id_of[symbol] = last
    return found


def millis(trade: dict[str, Any]) -> int:
    """Return the trade time in milliseconds; the exchange sends milliseconds or microseconds."""
    time: int = trade["T"]
    return time if time < 10**14 else time // 1000


def all_intervals(trades: Iterable[dict[str, Any]]) -> dict[tuple[Any, ...], OracleCandle]:
    """Return the candles of every stored interval."""
    kept = list(trades)
    found: dict[tuple[Any, ...], OracleCandle] = {}
    for interval, seconds in INTERVAL_SECONDS.items():
        found |= candles(kept, seconds, interval)
    return found


def published_klines() -> dict[tuple[Any, ...], dict[str, Fraction]]:
    """Return Binance's own 1-minute klines of the recording by (symbol, '1m', open time)."""
    with PUBLISHED_KLINES.open() as file:
        return {
            (row["symbol"], "1m", datetime.fromtimestamp(int(row["open_time_ms"]) / 1000, UTC)): {
                name: Fraction(row[name]) for name in ("open", "high", "low", "close", "volume")
            }
            for row in csv.DictReader(file)
        }


def stored_candles(connection: Any) -> dict[tuple[Any, ...], OracleCandle]:
    """Read every row of ``candles`` as an OracleCandle; ``connection`` is psycopg2's."""
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(FIELDS)} FROM candles")  # noqa: S608 - names of a dataclass
        rows = [dict(zip(FIELDS, row, strict=True)) for row in cursor.fetchall()]
    decimals = [field.name for field in fields(OracleCandle) if field.type == "Fraction"]
    for row in rows:
        row.update({name: Fraction(row[name]) for name in decimals})
        row["open_time"] = row["open_time"].astimezone(UTC)
    return {(row["symbol"], row["interval"], row["open_time"]): OracleCandle(**row) for row in rows}


def differences(expected: dict[Any, Any], found: dict[Any, Any]) -> list[str]:
    """Describe each candle that is missing or extra, and each wrong field."""
    verdicts = [f"missing {key}" for key in expected.keys() - found.keys()]
    verdicts += [f"extra {key}" for key in found.keys() - expected.keys()]
    for key in expected.keys() & found.keys():
        wrong = [n for n in FIELDS if getattr(expected[key], n) != getattr(found[key], n)]
        verdicts += [
            f"{key}: {n} is {getattr(found[key], n)}, not {getattr(expected[key], n)}" for n in wrong
        ]
    return sorted(verdicts)


def _sum(trades: list[dict[str, Any]], *, quote: bool) -> Fraction:
    return sum(
        (Fraction(trade["q"]) * (Fraction(trade["p"]) if quote else 1) for trade in trades), start=Fraction()
    )
