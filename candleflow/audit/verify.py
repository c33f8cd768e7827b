"""``verify``: compare stored candles with the exchange's own klines, over any time range.

This module reads the candles and the klines, ``klines.py`` compares them, and ``verify_report.py`` prints the
result.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from rich.console import Console
from rich.progress import Progress

from candleflow.audit.klines import Basis, Comparison, bases, compare, joined
from candleflow.audit.verify_report import Asked, Verified, as_json, print_report, written
from candleflow.errors import ExchangeError, SettingError
from candleflow.exchange.addresses import addresses
from candleflow.exchange.rest import MAX_LIMIT, ExchangeRest
from candleflow.market.symbol import is_symbol, upper
from candleflow.market.window import SECOND_US
from candleflow.settings import Settings
from candleflow.store.reader import CandleReader

PATIENCE_SECONDS: Final = 120.0
"""How long to wait for the rate limit, which resets every minute. A ban lasts longer and ends the command."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DEFAULT_SPAN_US: Final = 3_600 * SECOND_US


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``verify``."""
    add_times(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, with every window that isn't equal")


def add_times(parser: argparse.ArgumentParser) -> None:
    """Add the options ``--symbol``, ``--from`` and ``--to``."""
    parser.add_argument("--symbol", type=symbol_argument, help="default: the first of CANDLEFLOW_SYMBOLS")
    parser.add_argument(
        "--from",
        dest="since",
        type=_time,
        metavar="TIME",
        help="start, such as 2026-11-22T10:00, in UTC (default: 1 h before --to)",
    )
    parser.add_argument("--to", dest="until", type=_time, metavar="TIME", help="end (default: now)")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Verify and print the report; return 0 if no window differs, else 1.

    Raises SettingError if the time range has no window or no REST address is configured, StoreError and
    ExchangeError if PostgreSQL or the exchange can't be reached.
    """
    asked = asked_for(settings, arguments, time.time_ns() // 1_000)
    urls = addresses(settings).rest
    if not urls:
        raise SettingError(
            "CANDLEFLOW_EXCHANGE_REST_URL='': must be set together with CANDLEFLOW_EXCHANGE_WS_URL, "
            "such as http://127.0.0.1:9443: the klines are fetched from there"
        )
    reader = CandleReader.from_settings(settings)
    console = Console(stderr=True)
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            verified = asyncio.run(verify(settings, asked, reader, urls, progress))
    except KeyboardInterrupt:
        print("interrupted: the comparison is incomplete, and no result is printed", file=sys.stderr)
        return 1
    finally:
        reader.close()
    if arguments.json:
        print(json.dumps(as_json(verified), indent=1))
    else:
        print_report(verified)
    return int(verified.differs)


def asked_for(settings: Settings, arguments: argparse.Namespace, now: int) -> Asked:
    """Apply the defaults to the arguments; ``now`` is the local time. Raises SettingError."""
    until = now if arguments.until is None else arguments.until
    since = until - _DEFAULT_SPAN_US if arguments.since is None else arguments.since
    if not bases(settings.windows)[0].opens(since, min(until, now)):
        raise SettingError(
            f"--from {written(since)} --to {written(until)}: must include a whole window of "
            f"{settings.window_seconds} s that has ended: --from before --to, and before now"
        )
    return Asked(arguments.symbol or settings.symbols[0], since, until)


async def verify(
    settings: Settings,
    asked: Asked,
    reader: CandleReader,
    urls: Sequence[str],
    progress: Progress,
) -> Verified:
    """Compare all intervals with the klines of the first of ``urls`` that responds.

    Raises ExchangeError if none does.
    """
    problems = []
    for url in urls:
        async with ExchangeRest(url, patience_seconds=PATIENCE_SECONDS) as rest:
            try:
                now = await rest.server_time()
            except ExchangeError as error:
                problems.append(str(error))
                continue
            asked = Asked(asked.symbol, asked.since, min(asked.until, now))
            comparing = _Comparing(asked, reader, rest, progress, now)
            comparisons = tuple([await comparing.all_of(one) for one in bases(settings.windows)])
            return Verified(asked, url, comparisons, settings.exchange.is_simulated)
    raise ExchangeError("; ".join(problems))


@dataclass(frozen=True, slots=True)
class _Comparing:
    """The comparisons of one run, one interval after the other, up to 1,000 klines per request."""

    asked: Asked
    reader: CandleReader
    rest: ExchangeRest
    progress: Progress
    now: int

    async def all_of(self, basis: Basis) -> Comparison:
        """Compare every window of the interval."""
        opens = basis.opens(self.asked.since, self.asked.until)
        shown = self.progress.add_task(f"{self.asked.symbol} {basis.interval}", total=len(opens))
        begins_at = await asyncio.to_thread(self.reader.first_open_time, self.asked.symbol, basis.interval)
        parts = []
        for page in pages(opens, basis):
            parts.append(await self._page(basis, page, begins_at))
            self.progress.advance(shown, len(page))
        return joined(basis.interval, parts)

    async def _page(self, basis: Basis, opens: range, begins_at: int | None) -> Comparison:
        symbol, since, until = self.asked.symbol, opens[0], opens[-1] + basis.windows.size_us
        # Read the stored candles first: the exchange then already has all their trades.
        ours = await asyncio.to_thread(self.reader.within, symbol, basis.interval, since, until)
        theirs = await self.rest.klines(symbol, basis.kline, start_time=since, end_time=until - 1)
        return compare(ours, theirs, basis, since=since, until=until, now=self.now, begins_at=begins_at)


def pages(opens: range, basis: Basis) -> Iterator[range]:
    """Split the open times so that one request's klines cover each part."""
    windows = (MAX_LIMIT - basis.klines_in_window) * basis.kline_us // basis.windows.slide_us + 1
    for start in range(0, len(opens), windows):
        yield opens[start : start + windows]


def symbol_argument(text: str) -> str:
    """Parse a symbol's name, upper or lower case, for argparse."""
    symbol = upper(text)
    if not is_symbol(symbol):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a symbol such as BTCUSDT")
    return symbol


def _time(text: str) -> int:
    """Parse a time for argparse; return microseconds since the epoch."""
    try:
        at = datetime.fromisoformat(text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        microseconds = (at - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        microseconds = -1
    if microseconds < 0:
        raise argparse.ArgumentTypeError(
            f"{text!r}: must be a time such as 2026-11-22T10:00, from 1970 on, in UTC unless it has an offset"
        )
    return microseconds
