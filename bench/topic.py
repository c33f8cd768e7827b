"""Fill the Kafka topic that every contestant reads with trades in Binance's exact JSON format.

The simulator (``candleflow.simulator.market``) makes the trades from a seed, so every run has the same ones.
They begin in the past, like a backlog. At the end comes one *closing trade* for each symbol, minutes later:
some programs write a window only after it has closed, and this closes the last one. No figure includes the
closing trades.
"""

from __future__ import annotations

import heapq
import subprocess
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Final, NamedTuple

from candleflow.market.window import SECOND_US, Windows
from candleflow.simulator.market import SeededMarket
from candleflow.simulator.symbol import SCALE

SYMBOLS: Final = (
    "BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "XRPUSDT", "DOGEUSDT", "ADAUSDT", "LINKUSDT",
)  # fmt: skip
SEED: Final = 6
RATE: Final = 2_000.0
"""Trades a second over all symbols: with 8 symbols 1,250 a candle, so 6,400 candles for 8 million trades."""
BEGINS_AT_US: Final = 1_723_161_600 * SECOND_US
"""2024-08-09 00:00 UTC, the date of our recordings of the real market."""
WINDOWS: Final = Windows.of_seconds(5)
CLOSING_AFTER_US: Final = 300 * SECOND_US
"""Time from the last trade to the closing trades, longer than any contestant waits for late trades."""

_FILL: Final = Path(__file__).with_name("peers") / "fill.py"
_LINES_AT_ONCE: Final = 2_000


class TopicTrade(NamedTuple):
    """A trade as integers; price and quantity in units of 10^-8, time in microseconds since the epoch."""

    symbol: str
    trade_id: int
    time: int
    price: int
    quantity: int
    buyer_is_maker: bool


def symbols(count: int) -> tuple[str, ...]:
    """Return ``count`` symbols: first those of SYMBOLS, then made-up ones."""
    made_up = (f"SYM{number:04d}USDT" for number in range(len(SYMBOLS), count))
    return (*SYMBOLS[:count], *made_up)


def trades(count: int, symbols: Sequence[str] = SYMBOLS) -> Iterator[TopicTrade]:
    """Yield the first ``count`` trades in order of time; within a symbol also in order of trade id.

    RATE is the total of all symbols, whatever their number.
    """
    market = SeededMarket(SEED, RATE, symbols)

    def of(symbol: str) -> Iterator[tuple[int, TopicTrade]]:
        one = market.market(symbol)
        for trade in one.from_id(one.id_at(BEGINS_AT_US)):
            yield trade.time, TopicTrade(symbol, *trade)

    timed = heapq.merge(*map(of, symbols), key=lambda pair: pair[0])
    return (trade for _, trade in islice(timed, count))


def closing(last_of: dict[str, TopicTrade]) -> Iterator[TopicTrade]:
    """Yield one closing trade for each symbol, CLOSING_AFTER_US after the last trade of all."""
    at = max(trade.time for trade in last_of.values()) + CLOSING_AFTER_US
    for last in last_of.values():
        yield last._replace(trade_id=last.trade_id + 1, time=at)


def payload(trade: TopicTrade) -> str:
    """Return the trade's JSON as in Binance's stream; the event time is the trade time."""
    symbol, trade_id, time, price, quantity, buyer_is_maker = trade
    at = time // 1_000
    return (
        f'{{"e":"trade","E":{at},"s":"{symbol}","t":{trade_id},"p":"{price // SCALE}.{price % SCALE:08d}",'
        f'"q":"{quantity // SCALE}.{quantity % SCALE:08d}","T":{at},'
        f'"m":{"true" if buyer_is_maker else "false"},"M":true}}'
    )


def fill(
    python: Path,
    bootstrap: str,
    topic: str,
    count: int,
    also: Callable[[TopicTrade], object],
    symbols: Sequence[str] = SYMBOLS,
) -> None:
    """Fill the topic with ``count`` trades, calling ``also`` with each, and then the closing trades.

    ``python`` is an interpreter with confluent-kafka: kafka-python takes 7 minutes for 8 million trades.
    Raises CalledProcessError if Kafka did not accept all of them.
    """
    command: list[str | Path] = [python, _FILL, bootstrap, topic]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as filling, _open(filling) as lines:
        last_of: dict[str, TopicTrade] = {}
        source = trades(count, symbols)
        while some := list(islice(source, _LINES_AT_ONCE)):
            lines.writelines(f"{trade.symbol}\t{payload(trade)}\n" for trade in some)
            for trade in some:
                also(trade)
                last_of[trade.symbol] = trade
        lines.writelines(f"{trade.symbol}\t{payload(trade)}\n" for trade in closing(last_of))
    if filling.returncode:
        raise subprocess.CalledProcessError(filling.returncode, command)


def _open(process: subprocess.Popen[str]) -> IO[str]:
    """Return the standard input of the process."""
    if process.stdin is None:
        raise ValueError("the process was started without a pipe for its standard input")
    return process.stdin
