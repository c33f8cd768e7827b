"""Measure alert latency: from the trade that fires a rule to the arrival of the message at its channel.

    python -m bench.alerts                 about 66 alerts in two minutes
    python -m bench.alerts --seconds 300   more alerts
    python -m bench.alerts --from-rows     only the alerter, without Kafka and Spark

The benchmark starts Kafka and PostgreSQL on free ports in a temporary folder, and the producer, processor and
alerter as separate processes. This process itself plays the exchange and the messengers: a WebSocket server
whose prices cross a level, one symbol at a time, and local servers that accept messages like Telegram and
Discord. So one clock gives both ends of each figure: the trade time ``T`` and the arrival of its message.

Each rule is of kind ``crosses`` without cool-down; pictures are sent as by default. With ``--from-rows`` this
process merges each trade into PostgreSQL directly. Don't run other heavy work at the same time.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

import psycopg2

from bench import machine, servers
from bench.frames import accept, frame
from candleflow import settings as settings_module
from candleflow.alerts.rules import Kind, Rule, fields
from candleflow.errors import CandleflowError
from candleflow.market.payload import Rejected, decode_payload
from candleflow.market.window import SECOND_US
from candleflow.processor.latency import Latencies
from candleflow.settings import Settings
from candleflow.stack.postgres import PostgresServer
from candleflow.stack.process import spawn, stop
from candleflow.store import credentials, schema
from candleflow.store.alerts import AlertEditor
from candleflow.store.credentials import Role
from tests.messengers import DISCORD, TELEGRAM, Messengers, messengers
from tests.store.processor import Processor

ROOT: Final = Path(__file__).resolve().parents[1]
SYMBOLS: Final = tuple(f"ALERT{number}USDT" for number in range(10))
CHANNELS: Final = {"Telegram": TELEGRAM, "Discord": DISCORD}
LINE: Final = 100
WARM_UP_SECONDS: Final = 10.0
LAST_SECONDS: Final = 20.0
"""How long to wait for the last messages."""
FEWEST: Final = 50
_ROUND_SECONDS: Final = 0.025
"""Time between two trades, so 40 trades a second over all symbols."""
_BETWEEN_SECONDS: Final = 8.5
"""Minimum time between two crossings of a symbol, because a rule fires at most once in a 5 s window."""
_CROSSING: Final = re.compile(r"(ALERT\d+USDT) crosses (up|down) ")


@dataclass(frozen=True, slots=True)
class Crossing:
    """A trade that crosses the level; ``at`` is its time in microseconds since the epoch."""

    symbol: str
    word: str
    at: int


class Exchange:
    """A WebSocket server that sends trades of each symbol in turn to a single client."""

    def __init__(self, seed: int) -> None:
        self.crossings: list[Crossing] = []
        self.may_cross = threading.Event()
        self._chance = random.Random(seed)  # nosec B311 # prices, the same each time
        self._is_above = dict.fromkeys(SYMBOLS, False)
        self._next_id = dict.fromkeys(SYMBOLS, 1)
        self._due = dict.fromkeys(SYMBOLS, 0.0)
        self._stop = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self._server.getsockname()[1]}"

    @contextmanager
    def serving(self, to: Callable[[], None] | None = None) -> Iterator[None]:
        """Serve the producer, or run ``to``, which reads ``turns()`` itself."""
        thread = threading.Thread(target=to or self._serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._server.close()
            thread.join(5)

    def turns(self) -> Iterator[tuple[str, str]]:
        """Yield each symbol in turn with a new trade, until ``serving`` ends."""
        for symbol in itertools.cycle(SYMBOLS):
            if self._stop.wait(_ROUND_SECONDS):
                return
            yield symbol, self._trade(symbol)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the producer disconnects at the end
            client, _ = self._server.accept()
            with client:
                accept(client)
                for symbol, text in self.turns():
                    client.sendall(frame(symbol, text))

    def _trade(self, symbol: str) -> str:
        """Return the symbol's next trade; its price crosses the level if that is due."""
        at_ms = time.time_ns() // 1_000_000
        if self.may_cross.is_set() and time.monotonic() >= self._due[symbol]:
            is_first = not self._due[symbol]
            self._due[symbol] = time.monotonic() + _BETWEEN_SECONDS * (1 + self._chance.random() / 5)
            if is_first:  # spread the first crossings, so that symbols don't all cross at once
                self._due[symbol] -= _BETWEEN_SECONDS * self._chance.random()
            else:
                self._cross(symbol, at_ms)
        offset = Decimal(self._chance.randint(1, 50)).scaleb(-2)
        price = LINE + offset if self._is_above[symbol] else LINE - offset
        trade_id = self._next_id[symbol]
        self._next_id[symbol] += 1
        return (
            f'{{"e":"trade","E":{at_ms},"s":"{symbol}","t":{trade_id},"p":"{price:.8f}","q":"0.10000000",'
            f'"T":{at_ms},"m":{"true" if trade_id % 2 else "false"},"M":true}}'
        )

    def _cross(self, symbol: str, at_ms: int) -> None:
        self._is_above[symbol] = not self._is_above[symbol]
        word = "up" if self._is_above[symbol] else "down"
        self.crossings.append(Crossing(symbol, word, at_ms * 1_000))


def latencies(crossings: list[Crossing], arrivals: list[tuple[int, str]], seconds: float) -> Latencies:
    """Return the milliseconds from each crossing to the first message about it.

    ``arrivals``: the time of each message in microseconds, and its text. Crossings without a message are left
    out.
    """
    reported = sorted((at, *found) for at, text in arrivals for found in set(_CROSSING.findall(text)))
    ends: dict[tuple[str, str], list[int]] = {}
    for at, symbol, word in reported:
        ends.setdefault((symbol, word), []).append(at)
    found = []
    for one in crossings:
        times = ends.get((one.symbol, one.word), [])
        if (end := next((at for at in times if at >= one.at), None)) is not None:
            times.remove(end)
            found.append((end - one.at) / 1_000)
    return Latencies(sorted(found), seconds)


Started = dict[str, subprocess.Popen[bytes]]


@contextmanager
def programs(names: Sequence[str], variables: dict[str, str], folder: Path) -> Iterator[Started]:
    """Start these programs of ours in order, and stop them in reverse order at the end."""
    started: Started = {}
    with ExitStack() as stops:
        for name in names:
            command = [sys.executable, str(ROOT / f"{name}.py")]
            process = spawn(command, log=folder / f"{name}.log", environment=variables, cwd=ROOT)
            stops.callback(stop, process, 15, 15.0)
            started[name] = process
        yield started


def wait_until(what: Callable[[], bool], started: Started, folder: Path, missing: str) -> None:
    """Wait until ``what`` is true. On a timeout, or if a program ends, exit and print the programs' logs."""
    deadline = time.monotonic() + servers.READY_SECONDS
    while not what():
        if time.monotonic() > deadline or any(one.poll() is not None for one in started.values()):
            logs = "\n".join(f"{one.name}:\n{one.read_text()[-2_000:]}" for one in folder.glob("*.log"))
            sys.exit(f"{missing}:\n{logs}")
        time.sleep(0.2)


def count(settings: Settings, query: str) -> int:
    """Return the count that the query gives to the page's role; 0 while the database can't be reached."""
    try:
        url = credentials.reader_url(settings)
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return int((cursor.fetchone() or (0,))[0])
    except (psycopg2.Error, CandleflowError):
        return 0


def add_rules(settings: Settings) -> None:
    """Add a rule for each symbol that alerts on every channel."""
    names = tuple(name.lower() for name in CHANNELS)
    with closing(AlertEditor.from_settings(settings)) as editor:
        for symbol in SYMBOLS:
            rule = Rule(Kind.CROSSES, Decimal(LINE), symbol, cool_down_seconds=0, channels=names)
            editor.add(fields(rule))


def configure(folder: Path, there: Messengers, postgres: PostgresServer, **more: object) -> dict[str, str]:
    """Create the database and return the programs' environment, after applying it to this process too."""
    variables = servers.environment(
        symbols=",".join(SYMBOLS),
        postgres_url=f"postgresql://candleflow@127.0.0.1:{postgres.port}/candleflow",
        data_dir=folder,
        alert_channels=",".join(f"{name.lower()}={address}" for name, address in CHANNELS.items()),
        **there.settings,
        **more,
    )
    os.environ.update(variables)
    settings = settings_module.load()
    postgres.provide(settings.database.owner, settings.database.name)
    return variables


@contextmanager
def whole_pipeline(folder: Path, there: Messengers, exchange: Exchange) -> Iterator[Started]:
    """Run the whole pipeline: Kafka, PostgreSQL, producer, processor and alerter."""
    with servers.kafka(folder) as kafka, servers.postgres(folder) as postgres, exchange.serving():
        more = {"exchange_ws_url": exchange.url, "kafka_bootstrap": kafka.bootstrap}
        variables = configure(folder, there, postgres, **more)
        with programs(("processor", "producer", "alerts"), variables, folder) as started:
            yield started


@contextmanager
def from_rows(folder: Path, there: Messengers, exchange: Exchange) -> Iterator[Started]:
    """Run only PostgreSQL and the alerter; this process merges each trade itself, at once."""
    with servers.postgres(folder) as postgres:
        variables = configure(folder, there, postgres)
        settings = settings_module.load()
        schema.apply(settings)
        with closing(credentials.dsn(settings, Role.WRITER).connect()) as connection:
            connection.autocommit = True
            processor = Processor(connection, settings.windows)

            def merge() -> None:
                for _, text in exchange.turns():
                    trade = decode_payload(text.encode(), time.time_ns() // 1_000, SECOND_US)
                    if isinstance(trade, Rejected):
                        raise TypeError(f"{trade.reason}: {text}")
                    processor.merge([trade])

            with exchange.serving(merge), programs(("alerts",), variables, folder) as started:
                yield started


def measure(started: Started, folder: Path, there: Messengers, exchange: Exchange, seconds: float) -> None:
    """Wait until the pipeline is ready, let prices cross for ``seconds``, and print the latencies."""
    settings, wanted = settings_module.load(), len(SYMBOLS)
    wait_until(
        lambda: count(settings, "SELECT count(*) FROM symbols") == wanted,
        started, folder, "no trade of each symbol is in a candle",
    )  # fmt: skip
    add_rules(settings)
    wait_until(
        lambda: count(settings, "SELECT count(*) FROM alert_states") == wanted,
        started, folder, "the alerter evaluated no rule",
    )  # fmt: skip
    time.sleep(WARM_UP_SECONDS)
    exchange.may_cross.set()
    time.sleep(seconds)
    exchange.may_cross.clear()
    expected = len(exchange.crossings) * len(CHANNELS)
    deadline = time.monotonic() + LAST_SECONDS
    while len(reported_crossings(there)) < expected and time.monotonic() < deadline:
        time.sleep(0.1)
    report(exchange, there, seconds)


def reported_crossings(there: Messengers) -> list[tuple[str, str]]:
    return [found for text in there.messages for found in _CROSSING.findall(text.replace("\r", ""))]


def report(exchange: Exchange, there: Messengers, seconds: float) -> None:
    print(machine.describe())
    print(f"{len(exchange.crossings)} crossings in {seconds:.0f} s; trade to message, ms:")
    for name, prefix in (("Telegram", "/bot"), ("Discord", "/api/")):
        arrivals = [
            (at, text)
            for path, at, text in zip(there.paths, there.times, there.messages, strict=True)
            if path.startswith(prefix)
        ]
        found = latencies(exchange.crossings, arrivals, seconds)
        if len(found.milliseconds) < FEWEST:
            sys.exit(f"{name}: only {len(found.milliseconds)} alerts arrived; a figure needs {FEWEST}")
        quantiles = "  ".join(f"p{share * 100:g} {found.quantile(share):,.0f}" for share in (0.5, 0.95, 0.99))
        print(
            f"{name}: {quantiles}  max {found.milliseconds[-1]:,.0f}; {len(found.milliseconds)} alerts in "
            f"{len(arrivals)} messages"
        )
    print(f"{len(there.pictures)} pictures were sent")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="duration of the measurement (60)")
    parser.add_argument("--seed", type=int, default=1, help="random seed for the times of the crossings (1)")
    parser.add_argument("--from-rows", action="store_true", help="without Kafka and Spark")
    arguments = parser.parse_args()
    exchange = Exchange(arguments.seed)
    way = from_rows if arguments.from_rows else whole_pipeline
    with tempfile.TemporaryDirectory() as name, messengers() as there:
        folder = Path(name)
        folder.chmod(0o755)
        with way(folder, there, exchange) as started:
            measure(started, folder, there, exchange, arguments.seconds)


if __name__ == "__main__":
    main()
