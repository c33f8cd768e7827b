"""The market that every contestant reads: some symbols' trades in Binance's exact layout, in a Kafka topic.

Trades, prices and times are the simulator's (``exchange.simulated_market``), a pure function of the seed, so
every run of the bench has the same ones. They begin in the past, as a backlog does. After the last comes one
more trade for each symbol, minutes later: a program that writes a window only once it has closed writes the
last one then. Those closing trades are in nobody's figures.
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
"""Trades a second over all symbols: 1,250 a candle, and 6,400 candles of eight million trades."""
BEGINS_AT_US: Final = 1_723_161_600 * SECOND_US
"""2024-08-09 00:00 UTC, a day of which there are recordings of the real market."""
WINDOWS: Final = Windows.of_seconds(5)
CLOSING_AFTER_US: Final = 300 * SECOND_US
"""Longer than any contestant waits for late trades."""

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
    """So many symbols: SYMBOLS first, and then made-up ones."""
    made_up = (f"SYM{number:04d}USDT" for number in range(len(SYMBOLS), count))
    return (*SYMBOLS[:count], *made_up)


def trades(count: int, symbols: Sequence[str] = SYMBOLS) -> Iterator[TopicTrade]:
    """The first ``count`` trades of the market, in the order of their times, and of ids in each symbol.

    All symbols together have RATE, however many they are.
    """
    market = SeededMarket(SEED, RATE, symbols)

    def of(symbol: str) -> Iterator[tuple[int, TopicTrade]]:
        one = market.market(symbol)
        for trade in one.from_id(one.id_at(BEGINS_AT_US)):
            yield trade.time, TopicTrade(symbol, *trade)

    timed = heapq.merge(*map(of, symbols), key=lambda pair: pair[0])
    return (trade for _, trade in islice(timed, count))


def closing(last_of: dict[str, TopicTrade]) -> Iterator[TopicTrade]:
    """One trade for each symbol, so long after the last of all that every window before it has closed."""
    at = max(trade.time for trade in last_of.values()) + CLOSING_AFTER_US
    for last in last_of.values():
        yield last._replace(trade_id=last.trade_id + 1, time=at)


def payload(trade: TopicTrade) -> str:
    """As Binance's stream sends it; the event's time is the trade's."""
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
    """Fill the topic with ``count`` trades and the closing ones, showing each of the former to ``also``.

    ``python`` is one that has confluent-kafka: kafka-python would take seven minutes for eight million.
    Raises CalledProcessError where Kafka did not take them all.
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
    """Its standard input, which ends where the block does."""
    if process.stdin is None:
        raise ValueError("it was started without a pipe")
    return process.stdin
