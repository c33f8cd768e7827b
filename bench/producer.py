"""The producer in figures: trades a second from the WebSocket to Kafka's acknowledgement.

    python -m bench.producer                    20,000 trades a second offered, for 20 s
    python -m bench.producer --rate 2000        at another rate

It starts a Kafka, the simulator and the producer in processes of their own, on free ports and in a temporary
folder, reads the producer's heartbeat, prints a line, and stops everything. Where more is offered than the
producer takes, the rate printed is what it takes; ``us of processor time`` tells the same on a busy machine.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench import servers
from candleflow.stack.process import free_port
from candleflow.telemetry import Heartbeat, read_heartbeat

ROOT = Path(__file__).resolve().parents[1]
WARM_UP_SECONDS = 5.0
START_SECONDS = 60.0


@contextmanager
def started(arguments: list[str], environment: dict[str, str]) -> Iterator[psutil.Process]:
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment)
    try:
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
    while True:
        beat = read_heartbeat(run_dir, "producer")
        if beat is not None and beat.beaten_at > after:
            return beat
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rate", type=float, default=20_000, help="trades a second offered (20000)")
    parser.add_argument("--seconds", type=float, default=20, help="how long to measure (20)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, servers.kafka(Path(folder)) as kafka:
        measure(Path(folder), kafka.bootstrap, arguments.rate, arguments.seconds)


def measure(folder: Path, bootstrap: str, rate: float, seconds: float) -> None:
    port = free_port()
    environment = servers.environment(
        exchange="simulator",
        simulator_port=port,
        symbols="BTCUSDT,ETHUSDT",
        kafka_bootstrap=bootstrap,
        data_dir=folder / "data",
        log_level="WARNING",
    )
    run_dir = folder / "data" / "run"
    simulator = ["-m", "candleflow", "simulate", "--rate", str(rate), "--port", str(port)]
    with started(simulator, environment), started(["producer.py"], environment) as producer:
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
        f"{resident_mb:.0f} MB resident"
    )


if __name__ == "__main__":
    main()
