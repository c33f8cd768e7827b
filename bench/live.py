"""Measure the running system: start time, memory, and latency from trade to row.

    python -m bench.live                  two starts, then a third with a minute at 2,000 trades a second
    python -m bench.live --quick          the same with 20 s
    python -m bench.live --minutes 60     the same with an hour, and how memory grew in it
    python -m bench.live --rate 20000 --symbols 200

The benchmark runs ``candleflow up`` with the simulator in a temporary data folder on free ports, observes it
from outside, prints the figures and stops everything. The first two starts use the simulator's default rate,
as ``make run`` does: one with an empty data folder, one with an existing one. If the cache has no Java class
archives yet, the first start runs until they are made.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg2

from bench import machine, topic
from bench.growth import slope
from candleflow import settings as settings_module
from candleflow.errors import CandleflowError
from candleflow.stack.class_archive import kafka_archive, spark_archive
from candleflow.stack.jars import ensure_jars
from candleflow.stack.java import find_java
from candleflow.stack.process import answers
from candleflow.store import credentials
from candleflow.telemetry import read_heartbeat

ROOT = Path(__file__).resolve().parents[1]
SYMBOLS = "BTCUSDT,ETHUSDT"
STOP_SECONDS = 15
MEMORY_SECONDS = 20.0
ENOUGH_LOOKS = 6


def environment(folder: Path, symbols: str = SYMBOLS) -> dict[str, str]:
    """Return an environment for the simulator on free ports, without the caller's own settings.

    ``symbols`` is a comma-separated list.
    """
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(4)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        kafka, postgres, page, exchange = (one.getsockname()[1] for one in sockets)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CANDLEFLOW_")}
    return kept | {
        "CANDLEFLOW_EXCHANGE": "simulator",
        "CANDLEFLOW_SYMBOLS": symbols,
        "CANDLEFLOW_SIMULATOR_PORT": str(exchange),
        "CANDLEFLOW_KAFKA_BOOTSTRAP": f"127.0.0.1:{kafka}",
        "CANDLEFLOW_POSTGRES_URL": f"postgresql://candleflow@127.0.0.1:{postgres}/candleflow",
        "CANDLEFLOW_DASHBOARD_PORT": str(page),
        "CANDLEFLOW_DATA_DIR": str(folder / "data"),
    }


@contextmanager
def running(env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "candleflow", "up"], cwd=ROOT, env=env, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(2 * STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@contextmanager
def loaded(
    env: dict[str, str], rate: float, warm_up: float, log: Path
) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str]]]:
    """Run the system at ``rate`` trades a second; yield its process and environment.

    It yields ``warm_up`` seconds after the processor has caught up. ``env`` must be this process's own too.
    """
    # No history before the start: the simulator would have to make klines from millions of trades.
    own = env | {"CANDLEFLOW_SIMULATOR_RATE": str(rate), "CANDLEFLOW_HISTORY_HOURS": "0"}
    with running(own, log) as process:
        seconds_until(
            lambda: (behind := lag()) is not None and behind < rate, time.monotonic(), 240, log, every=1
        )
        time.sleep(warm_up)
        yield process, own


def lag() -> float | None:
    """Return how many records the processor is behind; None before its first batch."""
    beat = read_heartbeat(settings_module.load().stack.run_dir, "processor")
    return beat.counts.get("lag") if beat is not None and beat.counts.get("batches") else None


def seconds_until(
    what: Callable[[], object], began: float, deadline: float, log: Path, every: float = 0.1
) -> float:
    """Wait for the condition and return the seconds since ``began``.

    Raises TimeoutError with the end of the log after ``deadline`` seconds.
    """
    while not what():
        if time.monotonic() - began > deadline:
            raise TimeoutError(f"not within {deadline} s:\n{log.read_text()[-4_000:]}")
        time.sleep(every)
    return time.monotonic() - began


def has_candle_since(moment: datetime) -> bool:
    try:
        connection = psycopg2.connect(credentials.reader_url(settings_module.load()))
    except (psycopg2.OperationalError, CandleflowError):
        return False  # the database isn't ready yet
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT EXISTS (SELECT FROM candles WHERE updated_at > %s)", (moment,))
            (found,) = cursor.fetchone() or (False,)
            return bool(found)
    except psycopg2.Error:
        return False  # the schema isn't there yet
    finally:
        connection.close()


def memory_mb(process: psutil.Process) -> dict[str, float]:
    """Return each part's memory in MB, children included: PSS, which splits shared pages among processes."""
    parts: dict[str, float] = {}
    for child in process.children(recursive=False):
        members = [child, *child.children(recursive=True)]
        parts[_part_name(child)] = sum(one.memory_full_info().pss for one in members) / 1e6
    parts["supervisor"] = process.memory_full_info().pss / 1e6
    return parts


def _part_name(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    names = (
        "kafka.Kafka",
        "postgres",
        "producer",
        "processor",
        "dashboard",
        "simulate",
        "alerts",
        "audit",
        "forecaster",
    )
    return next((name for name in names if name in line), line[:40])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="measure 20 s after 30 s of warm-up")
    parser.add_argument(
        "--minutes", type=float, default=1, help="minutes to measure, after one of warm-up (1)"
    )
    parser.add_argument("--rate", type=float, default=2_000, help="trades a second, over all symbols (2000)")
    parser.add_argument("--symbols", type=int, default=len(SYMBOLS.split(",")), help="number of symbols (2)")
    arguments = parser.parse_args()
    warm_up, measured = (30, 20) if arguments.quick else (60, arguments.minutes * 60)

    print(machine.describe())
    with tempfile.TemporaryDirectory(prefix="candleflow-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        env = environment(folder, ",".join(topic.symbols(arguments.symbols)))
        os.environ.update(env)  # this process loads its settings from here
        for what in ("start with an empty data folder", "warm start"):
            with running(env, folder / "start.log") as process:
                report_start(what, folder / "start.log")
                report_memory(process)
                await_archives(folder / "start.log")
        with loaded(env, arguments.rate, warm_up, folder / "load.log") as (process, own):
            print(machine.describe())
            print(
                f"at {arguments.rate:,.0f} trades a second of {arguments.symbols} symbols, {warm_up} s after "
                "the processor had caught up:"
            )
            latency = ["latency", "--seconds", str(measured)]
            with memory_watched(process.pid):
                subprocess.run([sys.executable, "-m", "candleflow", *latency], cwd=ROOT, env=own, check=True)
            report_memory(process)
    return 0


@contextmanager
def memory_watched(pid: int) -> Iterator[None]:
    """Sample memory during the block; print its course at the end if there are enough samples."""
    stop, taken = threading.Event(), [memory_mb(psutil.Process(pid))]

    def look() -> None:
        while not stop.wait(MEMORY_SECONDS):
            taken.append(memory_mb(psutil.Process(pid)))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield
    finally:
        stop.set()
        watch.join()
    if len(taken) > ENOUGH_LOOKS:
        for part in sorted(taken[0]):
            print(memory_course(part, [look.get(part, 0.0) for look in taken]))
        print(memory_course("all", [sum(look.values()) for look in taken]))


def memory_course(part: str, values: Sequence[float]) -> str:
    """Describe a part's memory over time; the slope leaves out the first half, which is warm-up."""
    late = values[len(values) // 2 :]
    found, off = slope([at * MEMORY_SECONDS / 60 for at in range(len(late))], late)
    return (
        f"memory of {part}: {values[0]:.0f} MB at first, {max(values):.0f} at most, {values[-1]:.0f} last, "
        f"{found:+.1f} MB an hour in the second half (+/- {off:.1f})"
    )


def report_start(what: str, log: Path) -> None:
    began, started_at = time.monotonic(), datetime.now(UTC)
    page_url = f"http://127.0.0.1:{settings_module.load().dashboard.port}/_stcore/health"
    row = seconds_until(lambda: has_candle_since(started_at), began, 240, log)
    page = seconds_until(lambda: answers(page_url), began, 240, log)
    print(f"{what}: first candle in PostgreSQL after {row:.1f} s, page answers after {page:.1f} s")


def await_archives(log: Path) -> None:
    """Wait until this start has made the Java class archives that the next start uses."""
    cache = settings_module.load().stack.cache_path
    java_home = find_java(cache)
    for archive in (
        kafka_archive(cache, java_home, ensure_jars("kafka", cache)),
        spark_archive(cache, java_home, ensure_jars("spark", cache)),
    ):
        seconds_until(archive.find, time.monotonic(), 900, log, every=1)


def report_memory(process: subprocess.Popen[bytes]) -> None:
    parts = memory_mb(psutil.Process(process.pid))
    print("memory, MB: " + ", ".join(f"{part} {mb:.0f}" for part, mb in sorted(parts.items())))
    print(f"memory in total: {sum(parts.values()):.0f} MB")


if __name__ == "__main__":
    sys.exit(main())
