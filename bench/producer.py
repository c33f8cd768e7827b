"""Measure the producer's throughput: trades a second from the WebSocket to Kafka's acknowledgement.

    python -m bench.producer                       300,000 trades at full speed
    python -m bench.producer --trades 1000000      more of them
    python -m bench.producer --rate 2000           2,000 trades a second from the simulator instead

The benchmark starts Kafka, a server of prepared frames (``bench.frames``) and the producer as separate
processes, on free ports in a temporary folder, and reads the producer's heartbeat. For comparison it
measures, each in its own process:

- kafka-python alone, with the same payloads and no WebSocket: the upper limit for our producer
- kafka-python awaiting each acknowledgement before the next send, as cryptofeed does
- reading the WebSocket, with and without decoding the frames

The ratios are of one run. ``us each`` is CPU time per trade, which a busy machine changes least.
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
"""The producer's in-flight limit."""
_FAR_FUTURE_US: Final = 2**62
_SYMBOLS: Final = frozenset(SYMBOLS)
PRODUCER: Final = "the producer"
CEILING: Final = "kafka-python alone"
AWAITED: Final = "kafka-python, each send awaited"


@dataclass(frozen=True, slots=True)
class Figure:
    """The time that a number of trades took: ``seconds`` by the wall clock, ``processor_seconds`` of CPU."""

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
    """Run a program of ours, wait until it prints ``ready``, and stop it at the end."""
    out = subprocess.PIPE if ready else None
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=out)
    try:
        if process.stdout is not None and process.stdout.readline().strip() != ready:
            sys.exit(f"{' '.join(arguments)} did not start: see its output above")
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
    sys.exit("the producer published nothing: see its output above")


def next_beat(run_dir: Path, after: float) -> Heartbeat:
    """Wait for the first heartbeat later than ``after`` and return it."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        beat = read_heartbeat(run_dir, "producer")
        if beat is not None and beat.beaten_at > after:
            return beat
        time.sleep(POLL_SECONDS)
    sys.exit(f"the producer wrote no heartbeat for {START_SECONDS:.0f} s: see its output above")


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
    """Measure the producer with more trades than it can handle.

    The time runs from its first heartbeat with trades to its last one before the end, so the producer is busy
    all the time.
    """
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
        sys.exit("too few trades for a figure: pass a larger --trades")
    return Figure(
        last.counts["published"] - first.counts["published"],
        last.beaten_at - first.beaten_at,
        processor_after - processor_before,
    )


def alone(measure: Callable[..., Figure], *arguments: object) -> Figure:
    """Run ``measure`` in its own process and return its figure."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


@contextmanager
def _measured(trades: int, found: list[Figure]) -> Iterator[None]:
    began, processor_before = time.perf_counter(), time.process_time()
    yield
    found.append(Figure(trades, time.perf_counter() - began, time.process_time() - processor_before))


def ceiling(bootstrap: str, topic: str, trades: int) -> Figure:
    """Measure kafka-python with our producer's settings: ``send`` in a loop, wait only for the last one."""
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
    """Measure kafka-python waiting for each acknowledgement. No linger, which would only add to the wait."""
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
    """What to do with the WebSocket's frames, without Kafka."""

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
        raise TypeError(f"not a trade: {frame!r}")  # sys.exit here would leave the pool waiting forever


def read_ceiling(trades: int, how: Reading) -> Figure:
    port = free_port()
    with started(["-m", "bench.frames", str(port), str(trades)], servers.environment(), ready=b"ready"):
        return alone(reading, f"ws://127.0.0.1:{port}", trades, how)


def rows(folder: Path, bootstrap: str, trades: int) -> Iterator[tuple[str, Figure]]:
    """Yield each line's name and figure as soon as it is measured."""
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
        f"the producer's rate: {rate / found[CEILING].rate:.2f} times kafka-python alone, "
        f"{rate / found[Reading.DECODING].rate:.2f} times reading and decoding, "
        f"{rate / found[AWAITED].rate:.1f} times awaiting each send"
    )


def at_rate(folder: Path, bootstrap: str, rate: float, seconds: float) -> None:
    """Print the producer's throughput and cost at a rate of the simulator."""
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
    parser.add_argument("--trades", type=int, default=300_000, help="number of trades at full speed (300000)")
    parser.add_argument("--rate", type=float, help="use the simulator at this many trades a second instead")
    parser.add_argument("--seconds", type=float, default=20, help="how long to measure at that rate (20)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, servers.kafka(Path(name)) as kafka:
        if arguments.rate is None:
            compare(Path(name), kafka.bootstrap, arguments.trades)
            return
        at_rate(Path(name), kafka.bootstrap, arguments.rate, arguments.seconds)


if __name__ == "__main__":
    main()
