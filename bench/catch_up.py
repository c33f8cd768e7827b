"""Compare how fast Candleflow and other stream processors turn a backlog of trades into candles.

    python -m bench.catch_up            8 million trades, three rounds: about an hour
    python -m bench.catch_up --quick    1 million, two rounds: about 9 minutes; status 1 if a ratio is too low
    python -m bench.catch_up --only candleflow spark --trades 200000 --rounds 1

The benchmark starts Kafka and PostgreSQL on free ports in a temporary folder and fills a topic with trades in
Binance's JSON format. The contestants (``bench/contestants.py``) then run one at a time, the even rounds in
reverse order. Each one writes 5-second candles into its own database.

A run's time starts when the contestant is ready to read and ends when its table contains the last trade of
every symbol. Then every candle is compared with the one that ``bench/oracle.py`` computes. A contestant gets
a figure only if all its candles are correct. The other projects are installed in ``.venv-peers``.

A full run writes ``bench/RESULTS.md`` and ``docs/images/results.svg`` after each round. Don't run other heavy
work at the same time.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from psycopg2.extensions import parse_dsn

from bench import machine, servers, table, topic
from bench.contestants import CONTESTANTS, GOALS, OURS, QUICK_FLOORS, Contestant, install, version
from bench.course import OWNER, TOPIC, FilledTopic, Stack, fill_topic, our_place, prepare, provide
from bench.race import Place, RaceError, Run, race
from candleflow import settings as settings_module
from candleflow.stack.jars import ensure_jars
from candleflow.stack.java import find_java

_log = logging.getLogger("bench")

TRADES: Final = 8_000_000
SLOW_TRADES: Final = 2_000_000
"""Trades for the slow contestants: they take Spark 1.5 minutes and Quix Streams 3."""
ROUNDS: Final = 3
QUICK_ROUNDS: Final = 2
QUICK_TRADES: Final = 1_000_000
QUICK_SLOW_TRADES: Final = 250_000
_RESULTS: Final = Path(__file__).with_name("RESULTS.md")
_PLOT: Final = Path(__file__).parents[1] / "docs" / "images" / "results.svg"


@dataclass
class Entry:
    """A contestant and its runs so far; ``failure`` is why it has no more."""

    contestant: Contestant
    version: str
    runs: dict[int, Run] = field(default_factory=dict)
    failure: str = ""

    def result(self) -> table.Result:
        return table.Result(self.contestant, self.version, self.runs, self.failure)


def main() -> int:
    arguments = _arguments()
    prepare()
    chosen = [one for one in CONTESTANTS if not arguments.only or one.name in arguments.only]
    entries = [_enter(one) for one in chosen]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="candleflow-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user where we are root
        with servers.kafka(folder) as kafka, servers.postgres(folder) as postgres:
            topics = _fill_topics(kafka.bootstrap, arguments, [one.contestant for one in entries])
            stack = Stack(kafka, postgres, folder)
            for number in range(1, arguments.rounds + 1):
                _run_round(entries, topics, number, stack)
                results = [one.result() for one in entries]
                text = _report(results, arguments, number, time.monotonic() - began)
                if arguments.write:  # a run takes an hour, and may be cut off
                    _RESULTS.write_text(text)
                    _PLOT.write_text(table.svg(results))
    sys.stdout.write(f"\n{text}")
    return _status(results, is_quick=arguments.quick)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="1 million trades, two rounds; fails below the minimum ratios"
    )
    parser.add_argument("--trades", type=_count, help="trades in the topic (8_000_000)")
    parser.add_argument("--slow-trades", type=_count, help="trades for the slow contestants (2_000_000)")
    parser.add_argument("--rounds", type=_count, help="runs of each contestant (3)")
    parser.add_argument("--partitions", type=_count, default=1, help="partitions of each topic (1)")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", choices=[one.name for one in CONTESTANTS]
    )
    parser.add_argument(
        "--write",
        action=argparse.BooleanOptionalAction,
        help="write RESULTS.md and the plot (a full run does)",
    )
    arguments = parser.parse_args()
    is_full = not (arguments.quick or arguments.only or arguments.trades)
    arguments.write = is_full if arguments.write is None else arguments.write
    arguments.trades = arguments.trades or (QUICK_TRADES if arguments.quick else TRADES)
    slow_trades = arguments.slow_trades or (QUICK_SLOW_TRADES if arguments.quick else SLOW_TRADES)
    arguments.slow_trades = min(arguments.trades, slow_trades)
    arguments.rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    return arguments


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _enter(contestant: Contestant) -> Entry:
    """Install a contestant. One that can't be installed is listed in the results with the reason."""
    try:
        if contestant.lock is not None:
            _log.info("%s: installing its packages", contestant.title)
            install(contestant.lock)
        return Entry(contestant, version(contestant))
    except (OSError, subprocess.SubprocessError) as error:
        said = " ".join(str(getattr(error, "stderr", None) or error).split())[-300:]
        _log.warning("%s can't be installed: %s", contestant.title, said)
        return Entry(contestant, contestant.package, failure=f"can't be installed here: {said}")


def _fill_topics(
    bootstrap: str, arguments: argparse.Namespace, contestants: Sequence[Contestant]
) -> dict[bool, FilledTopic]:
    """Make the long topic (key False) and the short one for slow contestants (key True), as needed."""
    # Our processor reads only TOPIC, so the long one has that name.
    wanted = {False: (TOPIC, arguments.trades), True: (f"{TOPIC}.short", arguments.slow_trades)}
    return {
        is_slow: fill_topic(bootstrap, *wanted[is_slow], partitions=arguments.partitions)
        for is_slow in sorted({one.is_slow for one in contestants})
    }


def _run_round(entries: Sequence[Entry], topics: dict[bool, FilledTopic], number: int, stack: Stack) -> None:
    for entry in entries if number % 2 else reversed(entries):
        if entry.failure:
            continue
        one, filled = entry.contestant, topics[entry.contestant.is_slow]
        place = _place(one, filled, number, stack)
        try:
            run = entry.runs[number] = race(one, place, filled.trades, filled.expected)
        except RaceError as error:
            entry.failure = f"in round {number} it {error}"
            _log.warning("%s %s", one.title, error)
            continue
        _log.info(
            "round %d, %s: start %.1f s, then %.1f s: %s trades/s; %s",
            *(number, one.title, run.start_seconds, run.seconds, f"{run.rate:,.0f}", run.verdict.words()),
        )


def _place(one: Contestant, filled: FilledTopic, number: int, stack: Stack) -> Place:
    """Create a database, a consumer group name and a folder for one run."""
    name = f"{one.name}_{number}".replace("-", "_")
    url = provide(stack, name)
    if one is OURS:
        return our_place(stack, name)
    cache = settings_module.load().stack.cache_path
    variables = servers.environment() | {
        "KAFKA_BOOTSTRAP": stack.kafka.bootstrap,
        "KAFKA_TOPIC": filled.topic,
        "KAFKA_GROUP": name,
        "PGHOST": stack.postgres.host,
        "PGPORT": str(stack.postgres.port),
        "PGDATABASE": name,
        "PGUSER": OWNER,
        "PGPASSWORD": parse_dsn(url)["password"],
        "JAVA_HOME": str(find_java(cache)),
        "SPARK_JARS": ",".join(path.as_uri() for path in ensure_jars("spark", cache)),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "TZ": "UTC",
    }
    return Place(url, stack.folder / name, variables)


_HEAD: Final = """# Catch-up, side by side

`python -m bench.catch_up{arguments}` at {commit}, {day}, {minutes:.0f} min. {machine}.

Each contestant reads {trades:,} trades of {symbols} symbols from a Kafka topic of {partitions} partition(s)
and writes candles to PostgreSQL. Everything runs on one machine. Slow contestants
read only the first {slow_trades:,} trades.

- Figures are the median of {rounds} round(s).
- *Ours over it* is Candleflow's rate divided by the contestant's in the same round; lowest and highest are in
  brackets.
- *After warm-up* leaves out the first quarter of the trades. Where a contestant writes its rows only at the
  end, the rate of the whole run is used.
- *Fields* counts a candle's values besides its symbol and time. *Exact* counts the fields that are exact
  decimals or integers in every candle; doubles are not.
- Every candle of every run was compared with an independent calculation. A contestant with a wrong candle
  gets no figure.

![Trades a second](../docs/images/results.svg)
"""


def _report(
    results: Sequence[table.Result], arguments: argparse.Namespace, rounds: int, seconds: float
) -> str:
    head = _HEAD.format(
        arguments="".join(f" {one}" for one in sys.argv[1:]),
        commit=machine.commit(),
        day=f"{datetime.now(UTC):%Y-%m-%d}",
        minutes=seconds / 60,
        machine=machine.describe(),
        trades=arguments.trades,
        symbols=len(topic.SYMBOLS),
        partitions=arguments.partitions,
        slow_trades=arguments.slow_trades,
        rounds=rounds,
    )
    parts = [head, table.markdown(results), "## How each does it", table.notes(results)]
    return "\n\n".join([*parts, "## Every run", table.rounds(results)]) + "\n"


def _status(results: Sequence[table.Result], *, is_quick: bool) -> int:
    if any(one.contestant is OURS and not one.counts for one in results):
        _log.error("Candleflow has no result, or some of its candles are wrong")
        return 1
    fell = table.below(results, QUICK_FLOORS if is_quick else GOALS, steady=not is_quick)
    for line in fell:
        _log.warning("%s", line)
    return 1 if fell and is_quick else 0


if __name__ == "__main__":
    sys.exit(main())
