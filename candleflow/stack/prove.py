"""``prove``: a day of the exchange's archive goes the whole way, and must give the klines that it published.

The archive's trades are served as a recording, over a WebSocket of our own. The producer, Kafka, Spark and
PostgreSQL are the real ones, on free ports and a data folder of this run. What they stored is compared with
the archive's klines, which no trade of ours had a part in.
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
"""When no count has changed for this long, the rest isn't waited for. Spark's start is the longest silence:
10 s, and 40 s while other work has the cores."""

_LOOK_EVERY_SECONDS: Final = 0.5
_SAY_EVERY_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 15.0
_MINUTE_US: Final = 60 * SECOND_US
_EPOCH: Final = date(1970, 1, 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``prove``."""
    parser.add_argument("--symbol", type=symbol_argument, help="the first of CANDLEFLOW_SYMBOLS if not given")
    parser.add_argument("--date", type=_day, required=True, help="which day, UTC, such as 2024-08-08")
    parser.add_argument(
        "--from", dest="since", type=_minute, default=0, metavar="HH:MM", help="default: the day's begin"
    )
    end = parser.add_mutually_exclusive_group()
    end.add_argument(
        "--to", dest="until", type=_minute, default=1_440, metavar="HH:MM", help="default: the day's end"
    )
    end.add_argument("--minutes", type=int, help="how many minutes of the day, for a quick proof")
    parser.add_argument("--keep", action="store_true", help="keep the data folder, and say where it is")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Prove and print; 0 where every candle equals its kline, else 1.

    Raises ExchangeError where the archive can't be fetched or its files are wrong, StackError where a
    process can't run, SettingError for a stretch of no minute.
    """
    asked = _asked(settings, arguments)
    try:
        with ExitStack() as held:
            if arguments.keep:
                settings.stack.data_path.mkdir(parents=True, exist_ok=True)
                folder = Path(tempfile.mkdtemp(prefix=f"proof-{asked.symbol}-", dir=settings.stack.data_path))
                held.callback(print, f"the data is kept in {folder}", file=sys.stderr)
            else:
                folder = held.enter_context(work_folder("prove-", settings.stack.data_path))
            return _prove(settings, asked, arguments.date, folder)
    except KeyboardInterrupt:
        print("stopped before the end: nothing is proved", file=sys.stderr)
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
    """The symbol, and the stretch of the day in microseconds. Raises SettingError for an empty one."""
    begin = (arguments.date - _EPOCH).days * DAY_US
    until = arguments.until if arguments.minutes is None else arguments.since + arguments.minutes
    if not arguments.since < until <= 1_440:
        raise SettingError("--from, --to and --minutes must leave a minute of the day at least")
    symbol = arguments.symbol or settings.symbols[0]
    return Asked(symbol, begin + arguments.since * _MINUTE_US, begin + until * _MINUTE_US)


def _bases(settings: Settings) -> Sequence[Basis]:
    """The finest candles against ``1s`` klines, and every roll-up against ``1m``."""
    finest, minute = bases(settings.windows)
    longer = (name for name in ROLL_UPS if name != minute.interval)
    return (finest, minute, *(Basis(name, roll_up_windows(name), "1m", _MINUTE_US) for name in longer))


@dataclass(frozen=True, slots=True)
class _Day:
    """What the archive has of the day, checked by its checksums."""

    asked: Asked
    trades: Path
    klines: Mapping[str, Path]
    """By interval."""

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
        """Write the trades as the exchange's combined stream sends them; how many there are.

        The archive has no event time: the trade time stands for it. Raises ExchangeError where there is none.
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
            raise ExchangeError(f"{self.trades.name} has no trade in the time asked for")
        return count

    def klines_of(self, interval: str) -> Iterator[Kline]:
        """The klines of the stretch that was asked for."""
        every = archive.klines(self.klines[interval], self.asked.symbol, interval)
        return (one for one in every if self.asked.since <= one.open_time < self.asked.until)


class _Pipeline:
    """The processes of a run."""

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
        """Return once Kafka and PostgreSQL are; the others wait for them by themselves."""
        wait_for_services(self.settings, self._children["services"], self._log("services"))

    def stop(self) -> None:
        """Stop the processes, writers before the servers that they write to."""
        if self._reader is not None:
            self._reader.close()
        for child in reversed(self._children.values()):
            process.stop(child, signal.SIGTERM, _STOP_SECONDS)

    def wait_for(self, sent: int) -> tuple[int, float]:
        """Wait until the candles have all trades, or no count has changed for too long.

        Returns how many they have, and the seconds since the first was sent. Raises StackError where a
        process ended.
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
            # A candle is closed by the time since its last trade, which would be waited for in vain here:
            # all trades of the stretch have come.
            [one._replace(is_closed=True) for one in found],
            day.klines_of(basis.kline),
            basis,
            since=asked.since,
            until=asked.until,
            now=asked.until + SETTLE_US,
        )

    def _counts(self) -> tuple[int, int, int]:
        """Trades sent, published and received, as far as can be seen."""
        told = []
        for name, count in (("simulator", "sent"), ("producer", "published")):
            beat = read_heartbeat(self.settings.stack.run_dir, name)
            told.append(int(beat.counts.get(count, 0)) if beat is not None else 0)
        return told[0], told[1], self._outcomes().get("received", 0)

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
                raise StackError(f"{name} ended with status {child.returncode}: {why}")

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
    """Kafka, PostgreSQL, processor, simulator and producer, on a data folder in ``folder``."""
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
        "kafka_sasl_password": "",
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
    # Once for all of them: it may have to be downloaded.
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
    print("not compared, as the archive has none: event times")
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
        raise argparse.ArgumentTypeError(f"{text!r} is no day such as 2024-08-08") from None
    if day >= datetime.now(UTC).date():
        raise argparse.ArgumentTypeError(f"{text}: the archive has a day once it is over, UTC")
    return day


def _minute(text: str) -> int:
    """Minutes since the day's begin."""
    found = re.fullmatch(r"([0-9]{2}):([0-5][0-9])", text)
    minutes = int(found[1]) * 60 + int(found[2]) if found else -1
    if not 0 <= minutes <= 1_440:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a time such as 09:30, from 00:00 to 24:00")
    return minutes
