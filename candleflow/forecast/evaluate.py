"""``forecast evaluate``: how accurate forecasts would have been, over stored candles or a file of trades.

It runs the same forecasting code as the forecaster process (``race.py``).
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from candleflow.audit.verify import add_times, asked_for
from candleflow.audit.verify_report import Asked, written
from candleflow.errors import ExchangeError, SettingError
from candleflow.exchange import archive
from candleflow.exchange.messages import TradeMessage, decode
from candleflow.forecast import words
from candleflow.forecast.race import AHEAD
from candleflow.forecast.scores import Evaluation, Scores, evaluate
from candleflow.market.candle import fold
from candleflow.market.payload import UNKNOWN_SYMBOL, Rejected
from candleflow.market.stored import StoredCandle
from candleflow.market.trade import TIME_LIMIT_US, Trade, rejection_reason, to_microseconds
from candleflow.market.window import SECOND_US, Windows
from candleflow.settings import Settings
from candleflow.store.reader import CandleReader, with_quiet

_PAGE_US: Final = 3_600 * SECOND_US
_WIDTH: Final = 120
"""Line width in characters if the output is not a terminal."""


@dataclass(slots=True)
class Unread:
    """Lines of a file that could not be read."""

    count: int = 0
    first: str = ""
    """The first such line, and what is wrong with it."""

    def add(self, line: str, why: str) -> None:
        """Count a line that could not be read; keep the first one for the report."""
        self.first = self.first or f"{line[:200]!r} {why}"
        self.count += 1


@dataclass(frozen=True, slots=True)
class Stretch:
    """The candles to forecast, and where they come from."""

    symbol: str
    origin: str
    candles: Sequence[StoredCandle]
    left_out: int
    """How many candles were skipped because they are incomplete or not closed."""
    unread: Unread = field(default_factory=Unread)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``forecast``."""
    parser.add_argument(
        "action", choices=["evaluate"], help="evaluate: print how accurate forecasts would have been"
    )
    add_times(parser)
    parser.add_argument(
        "--file",
        type=Path,
        help="read trades from this file instead of the stored candles: a day from the exchange's archive "
        "(zip or CSV), or a recording (.jsonl, .jsonl.gz)",
    )


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Evaluate and print the report; return the exit status.

    The status is 1 if lines of the file can't be read or it has too few candles to forecast, else 0.

    Raises SettingError if the time range has no window, ExchangeError if the file can't be read, and
    StoreError while PostgreSQL is unavailable.
    """
    stretch = _of_file(settings, arguments) if arguments.file else _of_store(settings, arguments)
    found = evaluate(stretch.candles, settings.windows.size_us)
    print_report(stretch, found, is_simulated=settings.exchange.is_simulated and not arguments.file)
    if stretch.unread.count:
        print(
            f"{stretch.unread.count:,} lines can't be read; the first: {stretch.unread.first}",
            file=sys.stderr,
        )
    return int(bool(arguments.file) and (found.scores is None or stretch.unread.count > 0))


def _of_store(settings: Settings, arguments: argparse.Namespace) -> Stretch:
    asked = asked_for(settings, arguments, time.time_ns() // 1_000)
    reader = CandleReader.from_settings(settings)
    try:
        return _chosen(asked.symbol, "stored candles", _stored(reader, settings.windows, asked), settings)
    finally:
        reader.close()


def _stored(reader: CandleReader, windows: Windows, asked: Asked) -> Iterator[StoredCandle]:
    """Yield the finest candles that open in the time range; for sliding windows only adjacent ones."""
    for since in range(asked.since, asked.until, _PAGE_US):
        until = min(since + _PAGE_US, asked.until)
        for one in reader.within(asked.symbol, windows.interval, since, until):
            if one.open_time < until and one.open_time % windows.size_us == 0:
                yield one


def _of_file(settings: Settings, arguments: argparse.Namespace) -> Stretch:
    symbol = arguments.symbol or settings.symbols[0]
    unread = Unread()
    candles = candles_of(trades_of(arguments.file, symbol, unread), settings.windows)
    if not candles:
        lines = f"; {unread.count:,} lines can't be read, the first: {unread.first}" if unread.count else ""
        raise ExchangeError(f"{arguments.file} has no trade of {symbol}{lines}")
    since = arguments.since or 0
    until = arguments.until or TIME_LIMIT_US
    asked = (one for one in candles if since <= one.open_time < until)
    return replace(_chosen(symbol, arguments.file.name, asked, settings), unread=unread)


def _chosen(symbol: str, origin: str, found: Iterator[StoredCandle], settings: Settings) -> Stretch:
    """Select the closed, complete candles, and add flat candles for windows without trades between them."""
    candles = list(found)
    usable = [one for one in candles if one.is_closed and one.is_complete]
    size_us = settings.windows.size_us
    limit = (usable[-1].open_time - usable[0].open_time) // size_us + 1 if usable else 0
    return Stretch(symbol, origin, with_quiet(usable, size_us, limit), len(candles) - len(usable))


def trades_of(file: Path, symbol: str, unread: Unread) -> Iterator[Trade]:
    """Yield the symbol's trades from a recording or a file of the exchange's archive.

    An archive file's lines name no symbol, so all are taken. Other messages of a recording are skipped, and
    invalid lines are counted in ``unread``.

    Raises ExchangeError if the file can't be read or has another format.
    """
    read = _recorded if file.name.removesuffix(".gz").endswith((".jsonl", ".ndjson")) else _archived
    return read(file, symbol, unread)


def _recorded(file: Path, symbol: str, unread: Unread) -> Iterator[Trade]:
    open_file = gzip.open if file.suffix == ".gz" else open
    try:
        with open_file(file, "rt", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                text = line.rstrip("\r\n")
                message = decode(text.encode(), {symbol}, TIME_LIMIT_US, 0)
                if isinstance(message, TradeMessage):
                    yield message.trade
                elif isinstance(message, Rejected) and message.reason != UNKNOWN_SYMBOL and text:
                    unread.add(text, f"is rejected: {message.reason}")
    except (OSError, EOFError) as error:
        raise ExchangeError(f"{file} can't be read: {error}") from error


def _archived(file: Path, symbol: str, unread: Unread) -> Iterator[Trade]:
    if not file.is_file():
        raise SettingError(f"--file {file}: there is no such file")
    archive.check_shape(file)
    with tempfile.TemporaryDirectory(prefix="candleflow-") as folder:
        for part in archive.parts(file, Path(folder)):
            for line in part.read_text(encoding="utf-8", errors="replace").splitlines():
                trade = _trade(line, symbol)
                if isinstance(trade, Trade):
                    yield trade
                else:
                    unread.add(line, trade)


def _trade(line: str, symbol: str) -> Trade | str:
    """Parse a line of an archive file; return the trade, or what is wrong with the line."""
    wrong = archive.fault(line)
    if wrong is not None:
        return wrong
    number, price, quantity, _, at, is_maker, _ = line.split(",")
    trade = Trade(
        symbol,
        int(number),
        Decimal(price),
        Decimal(quantity),
        to_microseconds(int(at)),
        is_maker.lower() == "true",
    )
    refused = rejection_reason(trade)
    return trade if refused is None else f"is rejected: {refused}"


def candles_of(trades: Iterator[Trade], windows: Windows) -> list[StoredCandle]:
    """Return the trades' candles as the database would have them.

    The first is incomplete, as there are no trades before it; the last is not closed. Sliding windows are
    reduced to adjacent ones.
    """
    tumbling = replace(windows, slide_us=windows.size_us)
    candles = []
    before = None
    for candle in sorted(fold(trades, tumbling).values(), key=lambda one: one.open_time):
        candles.append(
            StoredCandle(
                candle.symbol, windows.interval, candle.open_time, candle.open, candle.high, candle.low,
                candle.close, candle.volume, candle.quote_volume, candle.taker_buy_volume,
                candle.taker_buy_quote_volume, candle.trade_count, candle.first_trade_id,
                candle.last_trade_id, is_closed=True, is_complete=candle.is_complete_after(before),
                revision=0, source="archive", updated_at=candle.open_time + windows.size_us,
            )
        )  # fmt: skip
        before = candle
    if candles:
        candles[-1] = candles[-1]._replace(is_closed=False)
    return candles


def print_report(stretch: Stretch, found: Evaluation, *, is_simulated: bool) -> None:
    """Print the table of scores, and what it means."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    if is_simulated:
        console.print("SIMULATED: forecasts of a simulated market", style="bold white on red")
    for line in _about(stretch, found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if found.scores is None:
        console.print("nothing to forecast: too few consecutive complete candles", style="bold")
        return
    console.print(_table(found.scores))
    for line in words.sentences(found.scores):
        console.print(line, style="bold", highlight=False, soft_wrap=True)


def _about(stretch: Stretch, found: Evaluation) -> Iterator[str]:
    candles = stretch.candles
    times = f"{written(candles[0].open_time)} to {written(candles[-1].open_time)}  " if candles else ""
    yield f"{stretch.symbol}  {times}{found.candles:,} candles of {stretch.origin}"
    if stretch.left_out:
        yield f"{stretch.left_out:,} incomplete or open candles were skipped"
    models = ", ".join(f"{model} {count:,}" for model, count in found.by_model.most_common())
    if models:
        yield f"forecasts are {AHEAD} windows ahead, made before the window begins, by model: {models}"


def _table(scores: Scores) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("", "forecast", "last price"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for line in words.table(scores):
        table.add_row(*line)
    return table
