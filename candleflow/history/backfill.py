"""``backfill``: load a day or a month of trades from the exchange's public archive, or from a local file.

The lines go through the same Spark code as Kafka's records, about an hour of trades per transaction. It can
run beside the processor. Trades that the candles already have are left out, so a second run changes nothing,
and a new run after an interrupted one loads the rest.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from calendar import monthrange
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from pyspark.sql import SparkSession
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from candleflow.audit.verify import symbol_argument
from candleflow.engine import archive as lines
from candleflow.engine.folding import BatchFold, Overlap
from candleflow.engine.partials import Folded, OversizeError
from candleflow.engine.session import FindSpark, start_session, stop_session
from candleflow.errors import SettingError
from candleflow.exchange import archive
from candleflow.market.window import DAY_US, Windows
from candleflow.settings import Settings, Venue
from candleflow.store import schema
from candleflow.store.history import HistoryStore, Source

MakeFolder = Callable[[], AbstractContextManager[Path]]

LOAD_SECONDS: Final = 60.0
"""The time limit for a transaction. An hour's candles take less than a second, but may have to wait for a
long batch of the processor."""

_WIDTH: Final = 120
"""The width of the table in characters if the output is not a terminal."""
_EPOCH: Final = date(1970, 1, 1)
_FIRST_DAY: Final = date(2017, 7, 14)
"""Binance's first day of trading; there are no older archives."""


@dataclass(frozen=True, slots=True)
class Day:
    """A symbol and a day (UTC) to load; or a month, given by its first day."""

    symbol: str
    date: date
    is_month: bool = False

    @property
    def name(self) -> str:
        """The date as in the names of the archive's files: ``2024-08-08``, or ``2024-08``."""
        return self.date.isoformat()[: 7 if self.is_month else 10]

    @property
    def since(self) -> int:
        """When it begins, in microseconds since the epoch."""
        return (self.date - _EPOCH).days * DAY_US

    @property
    def until(self) -> int:
        days = monthrange(self.date.year, self.date.month)[1] if self.is_month else 1
        return self.since + days * DAY_US


@dataclass(slots=True)
class Loaded:
    """The counts of a run so far."""

    trades: int = 0
    """Lines that are valid trades, including repeated ones."""
    merged: int = 0
    """The trades that the candles did not have yet."""
    candles: int = 0
    """Candles of the finest interval that got trades."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Rejected lines, by reason."""
    example: tuple[str, str] | None = None
    """The first rejected line, and its reason."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``backfill`` to ``parser``."""
    parser.add_argument(
        "--symbol", type=symbol_argument, help="the symbol; default: the first of CANDLEFLOW_SYMBOLS"
    )
    parser.add_argument(
        "--date",
        type=_date,
        required=True,
        metavar="DAY",
        help="the day (UTC) such as 2024-08-08, or the month such as 2024-08",
    )
    parser.add_argument(
        "--file",
        type=Path,
        help="read this local archive (.zip or .csv) of the day or its month, and download nothing",
    )


def run(
    settings: Settings, arguments: argparse.Namespace, work_folder: MakeFolder, find_spark: FindSpark
) -> int:
    """Load the trades and print a table. Return 0, or 1 if lines were rejected or nothing was loaded.

    ``work_folder`` creates a folder for the archive and deletes it when the context ends.
    Raises SettingError if the settings name another venue than the archive's, ExchangeError if the archive
    can't be downloaded or is damaged, StoreError if PostgreSQL is down, and StackError without Java or jars.
    """
    if settings.exchange.venue is not Venue.MAIN:
        raise SettingError(
            f"CANDLEFLOW_EXCHANGE={str(settings.exchange.name)!r}: the archive has the trades of Binance's "
            "main market, whose ids must not be mixed with this market's; accepted: auto, binance, "
            "binance-vision"
        )
    day = Day(arguments.symbol or settings.symbols[0], *arguments.date)
    is_of_month = arguments.file is not None and _is_of_month(arguments.file, day)
    if arguments.file is not None:
        archive.check_shape(arguments.file, *(() if is_of_month else (day.since, day.until)))
    began_at = time.monotonic()
    loaded = Loaded()
    try:
        with work_folder() as work_dir:
            _run_in(work_dir, find_spark, settings, day, arguments.file, loaded, is_of_month=is_of_month)
    except KeyboardInterrupt:
        print("interrupted: what was loaded stays, and a new run loads the rest", file=sys.stderr)
        return 1
    _print(day, loaded, time.monotonic() - began_at)
    if not loaded.trades:
        print(f"nothing was loaded: the file has no trade of {day.name}", file=sys.stderr)
    return int(bool(loaded.rejected) or not loaded.trades)


def _run_in(
    work_dir: Path,
    find_spark: FindSpark,
    settings: Settings,
    day: Day,
    given: Path | None,
    loaded: Loaded,
    *,
    is_of_month: bool,
) -> None:
    console = Console(stderr=True)
    schema.apply(settings)  # before any download: it fails early if PostgreSQL is down
    file = _file(settings, day, given, work_dir, console)
    store = HistoryStore.from_settings(settings, seconds=LOAD_SECONDS)
    with _session(settings, find_spark) as spark, _counting(console, day) as progress:
        loader = Loader(spark, store, settings.windows, day, loaded)
        try:
            for part in archive.parts(file, work_dir, day.since, day.until, passes_over=is_of_month):
                loader.load(part)
                progress.update(progress.task_ids[0], completed=loaded.trades)
        finally:
            store.close()


class Loader:
    """Loads a day's lines, part by part, and counts them in ``loaded``."""

    def __init__(
        self, spark: SparkSession, store: HistoryStore, windows: Windows, day: Day, loaded: Loaded
    ) -> None:
        self._spark = spark
        self._store = store
        self._fold = BatchFold(windows)
        self._day = day
        self._loaded = loaded
        self._closes_until = min(day.until, time.time_ns() // 1_000)

    def load(self, part: Path) -> None:
        """Load a file of lines in one transaction, or in several if the driver can't hold all its bad lines.

        Raises StoreError; the lines of the failed transaction are not counted.
        """
        try:
            self._load(part)
        except OversizeError as error:
            for piece in _pieces(part, max(1, error.records // 2)):
                self.load(piece)

    def _load(self, part: Path) -> None:
        day, loaded = self._day, self._loaded
        found = lines.read_lines(self._spark, part)
        records = lines.records(found, day.symbol)
        judged, folded = lines.read(records, day.since, day.until, self._fold)
        merged = self._fold.once(judged, folded) if folded.has_repeats else folded
        overlaps: list[Overlap] = []
        while overlap := self._merge(merged):
            overlaps.append(overlap)
            merged = self._fold.once(judged, folded, overlaps)
        loaded.trades += folded.sound
        loaded.merged += merged.trades
        loaded.candles += len(merged.partials)
        if folded.rejected and loaded.example is None:
            loaded.example = lines.first_rejected(judged, found)
        loaded.rejected.update(folded.rejected)

    def _merge(self, folded: Folded) -> Overlap | None:
        if not folded.partials:
            return None
        return self._store.load(folded.partials, Source.ARCHIVE, self._closes_until)


def _pieces(part: Path, lines_each: int) -> Iterator[Path]:
    """Cut a file of lines into smaller ones in its folder; each is deleted before the next is written."""
    piece = part.with_name(f"{part.stem}-piece{part.suffix}")
    with part.open("rb") as source:
        while some := list(islice(source, lines_each)):
            piece.write_bytes(b"".join(some))
            yield piece
            piece.unlink()


def _is_of_month(file: Path, day: Day) -> bool:
    """Return whether the file's name is that of a month's archive.

    The lines don't contain the symbol. If the file's name does, it must match: otherwise raises SettingError.
    """
    named = re.match(r"(.+)-trades-([0-9]{4}-[0-9]{2}(?:-[0-9]{2})?)\.", file.name)
    if named is not None and not (named[1] == day.symbol and day.name.startswith(named[2])):
        raise SettingError(
            f"--file {file.name} must be of {day.symbol} on {day.name}, not {named[1]} on {named[2]}"
        )
    if not file.is_file():
        raise SettingError(f"--file {file}: there is no such file")
    return named is not None and len(named[2]) < len("2024-08-08")


def _file(settings: Settings, day: Day, given: Path | None, work_dir: Path, console: Console) -> Path:
    """Return the archive's file, downloaded if none was given, and checked if there is a checksum."""
    if given is not None:
        if archive.check(given):
            console.print(f"{given.name} matches its checksum", highlight=False)
        return given
    url = archive.address(settings.exchange.archive_url, day.symbol, day.name)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console.print(f"Fetching {url}", highlight=False, soft_wrap=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(url.rpartition("/")[2], total=None)
        return archive.fetch(
            url, work_dir, lambda size, total: progress.update(task, advance=size, total=total)
        )


@contextmanager
def _session(settings: Settings, find_spark: FindSpark) -> Iterator[SparkSession]:
    with find_spark() as files:
        spark = start_session(
            files, master=settings.spark.master, memory=settings.spark.memory, name="candleflow-backfill"
        )
        try:
            yield spark
        finally:
            stop_session(spark)


@contextmanager
def _counting(console: Console, day: Day) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed:,} trades"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(f"{day.symbol} {day.name}", total=None)
        yield progress


def _print(day: Day, loaded: Loaded, seconds: float) -> None:
    table = Table("symbol", "day", box=None)
    for name in ("trades", "loaded", "already there", "rejected lines", "candles", "seconds"):
        table.add_column(name, justify="right")
    already = loaded.trades - loaded.merged
    numbers = (loaded.trades, loaded.merged, already, loaded.rejected.total(), loaded.candles)
    table.add_row(day.symbol, day.name, *(f"{number:,}" for number in numbers), f"{seconds:.1f}")
    console = Console()
    (console if console.is_terminal else Console(width=_WIDTH)).print(table)
    for reason, count in loaded.rejected.most_common():
        print(f"{count:,} lines rejected: {reason}", file=sys.stderr)
    if loaded.example is not None:
        line, reason = loaded.example
        found = archive.fault(line) if reason == lines.NOT_A_LINE else None
        words = f"{reason} ({','.join(archive.COLUMNS)}): it {found}" if found else reason
        print(f"the first one: {line[:200]!r}: {words}", file=sys.stderr)


def _date(text: str) -> tuple[date, bool]:
    """Parse a date: a day and False, or a month's first day and True."""
    is_month = re.fullmatch(r"[0-9]{4}-[0-9]{2}", text) is not None
    try:
        day = date.fromisoformat(f"{text}-01" if is_month else text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a day such as 2024-08-08, or a month such as 2024-08"
        ) from None
    begin = _FIRST_DAY.replace(day=1) if is_month else _FIRST_DAY
    if not begin <= day <= datetime.now(UTC).date():
        raise argparse.ArgumentTypeError(f"{text}: must be from {_FIRST_DAY} to today")
    return day, is_month
