"""``verify``: our stored candles against the exchange's own klines, over any stretch of time.

The comparison itself is ``watch.klines``, and what is printed of it ``verify_report``; here the store, the
exchange's REST and the settings are joined.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
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
"""A rate limit asks for a minute at most, as weights are counted by the minute; a ban goes on for longer."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DEFAULT_SPAN_US: Final = 3_600 * SECOND_US


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``verify``."""
    add_times(parser)
    parser.add_argument("--json", action="store_true", help="for programs: every window that isn't equal")


def add_times(parser: argparse.ArgumentParser) -> None:
    """A symbol, and a stretch of time."""
    parser.add_argument("--symbol", type=symbol_argument, help="the first of CANDLEFLOW_SYMBOLS if not given")
    parser.add_argument(
        "--from",
        dest="since",
        type=_time,
        metavar="TIME",
        help="such as 2026-11-22T10:00, UTC; default: 1 h before",
    )
    parser.add_argument("--to", dest="until", type=_time, metavar="TIME", help="default: now")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Verify and print; 0 where nothing differs, else 1.

    Raises SettingError for times that hold no window and where no REST address is known, StoreError and
    ExchangeError where PostgreSQL or the exchange can't be asked.
    """
    asked = asked_for(settings, arguments, time.time_ns() // 1_000)
    urls = addresses(settings).rest
    if not urls:
        raise SettingError(
            "CANDLEFLOW_EXCHANGE_REST_URL='': must be the REST address beside CANDLEFLOW_EXCHANGE_WS_URL, "
            "such as http://127.0.0.1:9443: klines come from there"
        )
    reader = CandleReader.from_settings(settings)
    console = Console(stderr=True)
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            verified = asyncio.run(verify(settings, asked, reader, urls, progress))
    except KeyboardInterrupt:
        print("stopped before the end: nothing is proved", file=sys.stderr)
        return 1
    finally:
        reader.close()
    if arguments.json:
        print(json.dumps(as_json(verified), indent=1))
    else:
        print_report(verified)
    return int(verified.differs)


def asked_for(settings: Settings, arguments: argparse.Namespace, now: int) -> Asked:
    """The arguments with their defaults, at our clock's time ``now``. Raises SettingError."""
    until = now if arguments.until is None else arguments.until
    since = until - _DEFAULT_SPAN_US if arguments.since is None else arguments.since
    if not bases(settings.windows)[0].opens(since, min(until, now)):
        raise SettingError(
            f"--from {written(since)} --to {written(until)}: must hold a whole window of "
            f"{settings.window_seconds} s that is over: --from before --to, and before now"
        )
    return Asked(arguments.symbol or settings.symbols[0], since, until)


async def verify(
    settings: Settings,
    asked: Asked,
    reader: CandleReader,
    urls: Sequence[str],
    progress: Progress,
) -> Verified:
    """Compare all intervals with the klines of the first of ``urls`` that answers.

    Raises ExchangeError where none does.
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


class _Comparing:
    """One run's comparisons, an interval after the other, a thousand klines at a time."""

    def __init__(
        self,
        asked: Asked,
        reader: CandleReader,
        rest: ExchangeRest,
        progress: Progress,
        now: int,
    ) -> None:
        self._asked = asked
        self._reader = reader
        self._rest = rest
        self._progress = progress
        self._now = now

    async def all_of(self, basis: Basis) -> Comparison:
        """Every window of the interval."""
        opens = basis.opens(self._asked.since, self._asked.until)
        shown = self._progress.add_task(f"{self._asked.symbol} {basis.interval}", total=len(opens))
        begins_at = await asyncio.to_thread(self._reader.first_open_time, self._asked.symbol, basis.interval)
        parts = []
        for page in pages(opens, basis):
            parts.append(await self._page(basis, page, begins_at))
            self._progress.advance(shown, len(page))
        return joined(basis.interval, parts)

    async def _page(self, basis: Basis, opens: range, begins_at: int | None) -> Comparison:
        symbol, since, until = self._asked.symbol, opens[0], opens[-1] + basis.windows.size_us
        # Ours first: what is in them by now, the exchange has had for longer.
        ours = await asyncio.to_thread(self._reader.within, symbol, basis.interval, since, until)
        theirs = await self._rest.klines(symbol, basis.kline, start_time=since, end_time=until - 1)
        return compare(ours, theirs, basis, since=since, until=until, now=self._now, begins_at=begins_at)


def pages(opens: range, basis: Basis) -> Iterator[range]:
    """The open times, cut so that one request's klines cover each part."""
    windows = (MAX_LIMIT - basis.klines_in_window) * basis.kline_us // basis.windows.slide_us + 1
    for start in range(0, len(opens), windows):
        yield opens[start : start + windows]


def symbol_argument(text: str) -> str:
    """A symbol's name, in any letters, as argparse takes it."""
    symbol = upper(text)
    if not is_symbol(symbol):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a name such as BTCUSDT")
    return symbol


def _time(text: str) -> int:
    """Microseconds since the epoch."""
    try:
        at = datetime.fromisoformat(text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        microseconds = (at - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        microseconds = -1
    if microseconds < 0:
        raise argparse.ArgumentTypeError(
            f"{text!r}: must be a time such as 2026-11-22T10:00, from 1970 on, UTC unless it names an offset"
        )
    return microseconds
