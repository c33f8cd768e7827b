"""The producer in figures: trades a second from the WebSocket to Kafka's acknowledgement.

    python -m bench.producer                       300,000 trades
    python -m bench.producer --trades 1000000      more of them
    python -m bench.producer --rate 2000           the simulator's 2,000 trades a second instead

It starts a Kafka, an exchange that plays frames made beforehand (``bench.frames``) and the producer in
processes of their own, on free ports and in a temporary folder, and reads the producer's heartbeat. Beside
the producer stand, in one process each, with the same payloads and no WebSocket: kafka-python alone, which is
its ceiling, and awaiting each record's acknowledgement before the next one is sent, as cryptofeed does.
Reading the WebSocket and decoding what it brings are measured by themselves too. The ratios are of one run;
``us each`` is the processor's time, which a busy machine changes least.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import psutil
from kafka import KafkaProducer
from websockets.asyncio.client import connect

from bench import machine, servers
from bench.frames import SYMBOLS, payloads
from candleflow.broker import publisher
from candleflow.broker.topics import ensure_topics
from candleflow.exchange.messages import TradeMessage, decode
from candleflow.stack.process import free_port
from candleflow.telemetry import Heartbeat, read_heartbeat

ROOT: Final = Path(__file__).resolve().parents[1]
WARM_UP_SECONDS: Final = 5.0
START_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.01
AWAITED_TRADES: Final = 1_000
IN_FLIGHT: Final = 50_000
"""The producer's own bound."""
_FAR_FUTURE_US: Final = 2**62
_SYMBOLS: Final = frozenset(SYMBOLS)
PRODUCER: Final = "the producer"
CEILING: Final = "kafka-python alone"
AWAITED: Final = "kafka-python, each send awaited"


@dataclass(frozen=True, slots=True)
class Figure:
    """What so many trades took. Seconds are the wall's, but for ``processor_seconds``."""

    trades: float
    seconds: float
    processor_seconds: float

    @property
    def rate(self) -> float:
        return self.trades / self.seconds

    @property
    def us_each(self) -> float:
        return self.processor_seconds / self.trades * 1e6


@contextmanager
def started(
    arguments: list[str], environment: dict[str, str], ready: bytes = b""
) -> Iterator[psutil.Process]:
    """A program of ours, once it has said ``ready``; stopped in the end."""
    out = subprocess.PIPE if ready else None
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=out)
    try:
        if process.stdout is not None and process.stdout.readline().strip() != ready:
            sys.exit(f"{' '.join(arguments)} did not start: see its lines above")
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=15)


def wait_for_trades(run_dir: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        beat = read_heartbeat(run_dir, "producer")
        if beat is not None and beat.counts.get("published", 0) > 0:
            return
        time.sleep(0.2)
    sys.exit("the producer published nothing: see its lines above")


def next_beat(run_dir: Path, after: float) -> Heartbeat:
    """The first heartbeat that is later than ``after``."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        beat = read_heartbeat(run_dir, "producer")
        if beat is not None and beat.beaten_at > after:
            return beat
        time.sleep(POLL_SECONDS)
    sys.exit("the producer's heart stands still: see its lines above")


def environment(bootstrap: str, folder: Path, **more: object) -> dict[str, str]:
    return servers.environment(
        symbols=",".join(SYMBOLS),
        kafka_bootstrap=bootstrap,
        data_dir=folder,
        max_in_flight=IN_FLIGHT,
        log_level="WARNING",
        **more,
    )


def flat_out(folder: Path, bootstrap: str, trades: int) -> Figure:
    """The producer with more than it can take, from its first heartbeat with trades to its last without the
    end: both are in the midst of the work."""
    port = free_port()
    run_dir = folder / "run"
    variables = environment(bootstrap, folder, exchange_ws_url=f"ws://127.0.0.1:{port}")
    frames = ["-m", "bench.frames", str(port), str(trades)]
    with (
        started(frames, variables, ready=b"ready"),
        started(["producer.py"], variables) as producer,
    ):
        wait_for_trades(run_dir)
        first, processor_before = next_beat(run_dir, 0.0), sum(producer.cpu_times()[:2])
        last, processor_after = first, processor_before
        while (beat := next_beat(run_dir, last.beaten_at)).counts["published"] < trades:
            last, processor_after = beat, sum(producer.cpu_times()[:2])
    if last is first:
        sys.exit("too few trades for a figure: more, by --trades")
    return Figure(
        last.counts["published"] - first.counts["published"],
        last.beaten_at - first.beaten_at,
        processor_after - processor_before,
    )


def alone(measure: Callable[..., Figure], *arguments: object) -> Figure:
    """What ``measure`` finds in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


@contextmanager
def _measured(trades: int, found: list[Figure]) -> Iterator[None]:
    began, processor_before = time.perf_counter(), time.process_time()
    yield
    found.append(Figure(trades, time.perf_counter() - began, time.process_time() - processor_before))


def ceiling(bootstrap: str, topic: str, trades: int) -> Figure:
    """kafka-python as our producer has it set, ``send`` in a loop, no future looked at but the last one."""
    producer: KafkaProducer = publisher._connect(bootstrap)  # noqa: SLF001 - the same settings
    records = [(symbol.encode(), text.encode()) for symbol, text in payloads(trades)]
    producer.send(topic, b"warm", b"up").get(30)
    found: list[Figure] = []
    with _measured(trades, found):
        for key, value in records:
            sent = producer.send(topic, value, key)
        sent.get(300)
    producer.close(timeout=5)
    return found[0]


def awaited(bootstrap: str, topic: str, trades: int) -> Figure:
    """Each record acknowledged before the next is sent; without a linger, which would only be waited for."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=0)
    records = [(symbol.encode(), text.encode()) for symbol, text in payloads(trades)]
    producer.send(topic, b"warm", b"up").get(30)
    found: list[Figure] = []
    with _measured(trades, found):
        for key, value in records:
            producer.send(topic, value, key).get(30)
    producer.close(timeout=5)
    return found[0]


class Reading(StrEnum):
    """What is done with the WebSocket alone, without Kafka."""

    READING = "websockets alone"
    DECODING = "websockets and decoding"


def reading(url: str, trades: int, how: Reading) -> Figure:
    return asyncio.run(_read(url, trades, how))


async def _read(url: str, trades: int, how: Reading) -> Figure:
    found: list[Figure] = []
    async with connect(url, compression=None, ping_interval=None, max_queue=(256, 64)) as socket:
        with _measured(trades, found):
            for _ in range(trades):
                frame = await socket.recv(decode=False)
                if how is Reading.DECODING:
                    _decode(frame)
    return found[0]


def _decode(frame: bytes) -> None:
    message = decode(frame, _SYMBOLS, _FAR_FUTURE_US, 0)
    if not isinstance(message, TradeMessage):
        raise TypeError(f"no trade: {frame!r}")  # an exit would leave the pool waiting for ever


def read_ceiling(trades: int, how: Reading) -> Figure:
    port = free_port()
    with started(["-m", "bench.frames", str(port), str(trades)], servers.environment(), ready=b"ready"):
        return alone(reading, f"ws://127.0.0.1:{port}", trades, how)


def rows(folder: Path, bootstrap: str, trades: int) -> Iterator[tuple[str, Figure]]:
    """Each line's name and figure, as they are measured."""
    ensure_topics(bootstrap, ["ceiling"], 1, 1, 1)
    for how in Reading:
        yield how, read_ceiling(trades, how)
    yield PRODUCER, flat_out(folder, bootstrap, trades)
    yield CEILING, alone(ceiling, bootstrap, "ceiling", trades)
    yield AWAITED, alone(awaited, bootstrap, "ceiling", AWAITED_TRADES)


def compare(folder: Path, bootstrap: str, trades: int) -> None:
    """Print the table and the ratios."""
    found: dict[str, Figure] = {}
    print(machine.describe())
    print(f"{'':36} {'trades/s':>10} {'us each':>8}", flush=True)
    for name, figure in rows(folder, bootstrap, trades):
        found[name] = figure
        print(f"{name:36} {figure.rate:>10,.0f} {figure.us_each:>8.1f}", flush=True)
    rate = found[PRODUCER].rate
    print(
        f"the producer: {rate / found[CEILING].rate:.2f} of kafka-python's ceiling, "
        f"{rate / found[Reading.DECODING].rate:.2f} of that of reading and decoding, "
        f"{rate / found[AWAITED].rate:.1f} times each send awaited"
    )


def at_rate(folder: Path, bootstrap: str, rate: float, seconds: float) -> None:
    """Print what the producer takes at the simulator's rate."""
    port = free_port()
    variables = environment(bootstrap, folder, exchange="simulator", simulator_port=port)
    run_dir = folder / "run"
    simulator = ["-m", "candleflow", "simulate", "--rate", str(rate), "--port", str(port)]
    with started(simulator, variables), started(["producer.py"], variables) as producer:
        wait_for_trades(run_dir)
        time.sleep(WARM_UP_SECONDS)
        first, processor_before = next_beat(run_dir, 0.0), sum(producer.cpu_times()[:2])
        last = next_beat(run_dir, first.beaten_at + seconds)
        processor_seconds = sum(producer.cpu_times()[:2]) - processor_before
        resident_mb = producer.memory_info().rss / 1e6
    wall = last.beaten_at - first.beaten_at
    published = last.counts["published"] - first.counts["published"]
    print(
        f"offered {rate:,.0f}/s: {published / wall:,.0f} trades/s acknowledged over {wall:.0f} s, "
        f"{processor_seconds / published * 1e6:.0f} us of processor time each, "
        f"{last.counts['in_flight']:,} in flight at the end, loop lag {last.counts['loop_lag_ms']} ms, "
        f"{resident_mb:.0f} MB resident",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trades", type=int, default=300_000, help="how many, flat out (300000)")
    parser.add_argument(
        "--rate", type=float, help="trades a second offered by the simulator, in place of that"
    )
    parser.add_argument("--seconds", type=float, default=20, help="how long to measure at that rate (20)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, servers.kafka(Path(name)) as kafka:
        if arguments.rate is None:
            compare(Path(name), kafka.bootstrap, arguments.trades)
            return
        at_rate(Path(name), kafka.bootstrap, arguments.rate, arguments.seconds)


if __name__ == "__main__":
    main()
