"""Replay a day of the exchange's archive through the whole pipeline and compare each candle with its kline.

A local WebSocket server replays the archive's trades to the real producer, Kafka, Spark and PostgreSQL. They
run on free ports and in a data folder of their own. The stored candles are compared with the klines in the
archive, which the exchange computed itself.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from candleflow import settings as settings_module
from candleflow.audit.klines import FIELDS, SETTLE_US, Basis, Comparison, Verdict, bases, compare
from candleflow.audit.verify import symbol_argument
from candleflow.audit.verify_report import Asked, Verified, print_report
from candleflow.errors import ExchangeError, SettingError, StackError
from candleflow.exchange import archive
from candleflow.market.kline import Kline
from candleflow.market.symbol import lower
from candleflow.market.window import DAY_US, ROLL_UPS, SECOND_US, roll_up_windows
from candleflow.settings import PREFIX, Settings
from candleflow.stack import process
from candleflow.stack.java import find_java
from candleflow.stack.up import candleflow, child_environment, wait_for_services
from candleflow.stack.work_folder import work_folder
from candleflow.store.reader import CandleReader
from candleflow.telemetry import read_heartbeat

RECORDING: Final = "trades.jsonl"
STALLED_SECONDS: Final = 90.0
"""Stop waiting when no count has changed for this long. Nothing changes while Spark starts: for 10 s, or 40 s
on busy cores."""

_LOOK_EVERY_SECONDS: Final = 0.5
_SAY_EVERY_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 15.0
_MINUTE_US: Final = 60 * SECOND_US
_EPOCH: Final = date(1970, 1, 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``prove``."""
    parser.add_argument("--symbol", type=symbol_argument, help="default: the first of CANDLEFLOW_SYMBOLS")
    parser.add_argument("--date", type=_day, required=True, help="the day in UTC, such as 2024-08-08")
    parser.add_argument(
        "--from", dest="since", type=_minute, default=0, metavar="HH:MM", help="start, in UTC; default: 00:00"
    )
    end = parser.add_mutually_exclusive_group()
    end.add_argument(
        "--to", dest="until", type=_minute, default=1_440, metavar="HH:MM", help="end, in UTC; default: 24:00"
    )
    end.add_argument("--minutes", type=int, help="how many minutes of the day to compare, for a quick run")
    parser.add_argument("--keep", action="store_true", help="keep the data folder and print its path")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Run ``prove`` and print the comparison; return 0 if every candle equals its kline, else 1.

    Raises ExchangeError if the archive can't be downloaded or its files are wrong, StackError if a process
    can't run, SettingError if the requested time range is empty.
    """
    asked = _asked(settings, arguments)
    try:
        with ExitStack() as held:
            if arguments.keep:
                settings.stack.data_path.mkdir(parents=True, exist_ok=True)
                folder = Path(tempfile.mkdtemp(prefix=f"proof-{asked.symbol}-", dir=settings.stack.data_path))
                held.callback(print, f"the data folder is kept: {folder}", file=sys.stderr)
            else:
                folder = held.enter_context(work_folder("prove-", settings.stack.data_path))
            return _prove(settings, asked, arguments.date, folder)
    except KeyboardInterrupt:
        print("interrupted before the comparison: nothing is proved", file=sys.stderr)
        return 1


def _prove(settings: Settings, asked: Asked, day: date, folder: Path) -> int:
    console = Console(stderr=True)
    published = _Day.fetched(settings, asked, day, folder, console)
    console.print("Writing the trades as a recording", highlight=False)
    sent = published.write_recording(folder / RECORDING)
    with _pipeline(asked.symbol, folder, console) as pipeline:
        stored, seconds = pipeline.wait_for(sent)
        comparisons = tuple(pipeline.compared(published, basis) for basis in _bases(pipeline.settings))
    print_report(Verified(asked, settings.exchange.archive_url, comparisons))
    return _print_verdict(comparisons, sent, stored, seconds)


def _asked(settings: Settings, arguments: argparse.Namespace) -> Asked:
    """Return the symbol and the time range in microseconds. Raises SettingError if the range is empty."""
    begin = (arguments.date - _EPOCH).days * DAY_US
    until = arguments.until if arguments.minutes is None else arguments.since + arguments.minutes
    if not arguments.since < until <= 1_440:
        raise SettingError("--from, --to and --minutes must select at least one minute of the day")
    symbol = arguments.symbol or settings.symbols[0]
    return Asked(symbol, begin + arguments.since * _MINUTE_US, begin + until * _MINUTE_US)


def _bases(settings: Settings) -> Sequence[Basis]:
    """Return what to compare: the finest candles with ``1s`` klines, every roll-up with ``1m`` klines."""
    finest, minute = bases(settings.windows)
    longer = (name for name in ROLL_UPS if name != minute.interval)
    return (finest, minute, *(Basis(name, roll_up_windows(name), "1m", _MINUTE_US) for name in longer))


@dataclass(frozen=True, slots=True)
class _Day:
    """The archive's files of one day, verified by their checksums."""

    asked: Asked
    trades: Path
    klines: Mapping[str, Path]
    """The kline file of each interval."""

    @classmethod
    def fetched(cls, settings: Settings, asked: Asked, day: date, folder: Path, console: Console) -> _Day:
        """Download trades and klines into the folder. Raises ExchangeError."""
        files = {}
        for interval in ("", "1s", "1m"):
            url = archive.address(settings.exchange.archive_url, asked.symbol, day.isoformat(), interval)
            console.print(f"Fetching {url}", highlight=False, soft_wrap=True)
            with _downloading(console, url) as advance:
                files[interval] = archive.fetch(url, folder, advance)
        return cls(asked, files.pop(""), files)

    def write_recording(self, file: Path) -> int:
        """Write the trades in the format of the exchange's combined stream and return their number.

        The archive has no event times, so the trade time is used. Raises ExchangeError if there are no
        trades.
        """
        symbol, count = self.asked.symbol, 0
        head = f'{{"stream":"{lower(symbol)}@trade","data":{{"e":"trade","E":'
        with file.open("w", encoding="utf-8") as out:
            for trade_id, price, quantity, _, at, is_maker, is_best in archive.trades(
                self.trades, self.asked.since, self.asked.until
            ):
                flags = f'"m":{is_maker.lower()},"M":{is_best.lower()}'
                trade = f'"t":{trade_id},"p":"{price}","q":"{quantity}","T":{at},{flags}'
                out.write(f'{head}{at},"s":"{symbol}",{trade}}}}}\n')
                count += 1
        if not count:
            raise ExchangeError(f"{self.trades.name} has no trade in the requested time range")
        return count

    def klines_of(self, interval: str) -> Iterator[Kline]:
        """Yield the klines of the requested time range."""
        every = archive.klines(self.klines[interval], self.asked.symbol, interval)
        return (one for one in every if self.asked.since <= one.open_time < self.asked.until)


class _Pipeline:
    """The processes of one ``prove`` run."""

    def __init__(self, settings: Settings, folder: Path, console: Console) -> None:
        self.settings = settings
        self._folder = folder
        self._console = console
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._reader: CandleReader | None = None

    def start(self, environment: Mapping[str, str], command: str, *arguments: str | Path) -> None:
        self._children[command] = process.spawn(
            candleflow(command, *arguments), log=self._log(command), environment=environment
        )

    def wait_until_ready(self) -> None:
        """Wait until Kafka and PostgreSQL are ready. The other processes wait for these two themselves."""
        wait_for_services(self.settings, self._children["services"], self._log("services"))

    def stop(self) -> None:
        """Stop the processes; those that write stop before the servers."""
        if self._reader is not None:
            self._reader.close()
        for child in reversed(self._children.values()):
            process.stop(child, signal.SIGTERM, _STOP_SECONDS)

    def wait_for(self, sent: int) -> tuple[int, float]:
        """Wait until the candles contain all trades, or until no count has changed for ``STALLED_SECONDS``.

        Returns the number of trades in the candles, and the seconds since the first trade was sent. Raises
        StackError if a process ends.
        """
        before = (0, 0, 0)
        first_sent_at = changed_at = said_at = time.monotonic()
        while True:
            served, published, received = counts = self._counts()
            now = time.monotonic()
            if not before[0]:
                first_sent_at = now
            if counts != before:
                before, changed_at = counts, now
            is_over = received >= sent or now - changed_at > STALLED_SECONDS
            if is_over or now - said_at >= _SAY_EVERY_SECONDS:
                said_at = now
                self._console.print(
                    f"of {sent:,} trades {served:,} sent, {published:,} in Kafka, {received:,} in PostgreSQL",
                    highlight=False,
                )
            if is_over:
                return self._outcomes().get("merged", 0), now - first_sent_at
            self._raise_if_ended()
            time.sleep(_LOOK_EVERY_SECONDS)

    def compared(self, day: _Day, basis: Basis) -> Comparison:
        asked = day.asked
        found = self._candles().within(asked.symbol, basis.interval, asked.since, asked.until)
        return compare(
            # All trades of the range have arrived, so every candle is final. The pipeline would not close the
            # last ones, because no later trade follows.
            [one._replace(is_closed=True) for one in found],
            day.klines_of(basis.kline),
            basis,
            since=asked.since,
            until=asked.until,
            now=asked.until + SETTLE_US,
        )

    def _counts(self) -> tuple[int, int, int]:
        """Return the trades sent and published, from the heartbeats, and received, from the database."""
        counts = []
        for name, count in (("simulator", "sent"), ("producer", "published")):
            beat = read_heartbeat(self.settings.stack.run_dir, name)
            counts.append(int(beat.counts.get(count, 0)) if beat is not None else 0)
        return counts[0], counts[1], self._outcomes().get("received", 0)

    def _outcomes(self) -> dict[str, int]:
        return self._candles().counts()

    def _candles(self) -> CandleReader:
        if self._reader is None:
            self._reader = CandleReader.from_settings(self.settings)
        return self._reader

    def _raise_if_ended(self) -> None:
        for name, child in self._children.items():
            if child.poll() is not None:
                why = process.tail(self._log(name))
                raise StackError(
                    f"{name} ended with status {child.returncode}: {why}; run it with --keep to keep its log"
                )

    def _log(self, command: str) -> Path:
        return self._folder / "data" / "logs" / f"{command}.log"


@contextmanager
def _downloading(console: Console, url: str) -> Iterator[archive.Advance]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(url.rpartition("/")[2], total=None)
        yield lambda size, total: progress.update(task, advance=size, total=total)


@contextmanager
def _pipeline(symbol: str, folder: Path, console: Console) -> Iterator[_Pipeline]:
    """Run Kafka, PostgreSQL, processor, replay and producer with a data folder in ``folder``."""
    exchange, kafka, postgres = (process.free_port() for _ in range(3))
    given = {
        "symbols": symbol,
        "shard": "1/1",
        "exchange": "auto",
        "exchange_ws_url": f"ws://{process.LOOPBACK}:{exchange}",
        "exchange_rest_url": f"http://{process.LOOPBACK}:{exchange}",
        "history_hours": "0",
        "kafka_bootstrap": f"{process.LOOPBACK}:{kafka}",
        "kafka_security_protocol": "PLAINTEXT",
        "kafka_sasl_username": "",
        "kafka_sasl_password": "",  # nosec B105 # none
        "kafka_ssl_ca": "",
        "postgres_url": f"postgresql://candleflow@{process.LOOPBACK}:{postgres}/candleflow",
        "postgres_sslmode": "disable",
        "postgres_sslrootcert": "",
        "data_dir": str(folder / "data"),
        "metrics_port": "0",
        "spark_master": "local[*]",
    }
    settings = settings_module.load(**given)
    chosen = {PREFIX + name.upper(): value for name, value in given.items()}
    # Find Java once for all processes, as it may have to be downloaded.
    chosen["JAVA_HOME"] = str(find_java(settings.stack.cache_path, console=console))
    environment = child_environment(chosen)
    pipeline = _Pipeline(settings, folder, console)
    console.print("Starting Kafka, PostgreSQL and Spark", highlight=False)
    try:
        pipeline.start(environment, "services")
        pipeline.start(environment, "processor")
        pipeline.start(environment, "replay", folder / RECORDING, "--port", str(exchange), "--speed", "0")
        pipeline.start(environment, "producer")
        pipeline.wait_until_ready()
        yield pipeline
    finally:
        pipeline.stop()


def _print_verdict(comparisons: Sequence[Comparison], sent: int, stored: int, seconds: float) -> int:
    equal = sum(one.count(Verdict.EQUAL) for one in comparisons)
    compared = sum(sum(one.counts.values()) for one in comparisons)
    is_proved = stored == sent and 0 < equal == compared
    print(f"compared: {', '.join(FIELDS)}")
    print("not compared: event times, which the archive doesn't have")
    rate = stored / max(seconds, _LOOK_EVERY_SECONDS)
    print(f"{sent:,} trades sent, {stored:,} stored, in {seconds:.1f} s: {rate:,.0f} trades/s")
    print(
        f"{'PROVED' if is_proved else 'NOT PROVED'}: {compared:,} candles compared, {equal:,} equal, "
        f"{compared - equal:,} not"
    )
    return int(not is_proved)


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a day such as 2024-08-08") from None
    if day >= datetime.now(UTC).date():
        raise argparse.ArgumentTypeError(
            f"{text}: must be in the past, as the archive gets a day after its end (UTC)"
        )
    return day


def _minute(text: str) -> int:
    """Parse HH:MM into minutes since midnight."""
    found = re.fullmatch(r"([0-9]{2}):([0-5][0-9])", text)
    minutes = int(found[1]) * 60 + int(found[2]) if found else -1
    if not 0 <= minutes <= 1_440:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a time such as 09:30, from 00:00 to 24:00")
    return minutes
