"""Measure how long the page's queries take with a year of one symbol's 5-second candles in the table.

    python -m bench.year                     fill the table (two to three minutes), query, print
    python -m bench.year --folder /some/dir  keep the table there and reuse it in the next run
    python -m bench.year --plans             also print PostgreSQL's plan of each query

It uses its own PostgreSQL, with our configuration and schema, and stores 6.3 million 5-second candles with
all their roll-ups, in the order in which a live market would have written them. The queries are the page's:
each look-back with the candle size that the page proposes, with the smallest size, and with sizes that are
aggregated from stored ones.

``Python`` is the CPU time of this process: receiving, decoding, building rows. ``least`` is the lowest time,
which other work on the machine disturbs least. The benchmark also prints the table's size, and the time to
merge a batch into it and into an empty table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class by psycopg2's naming

from bench import machine
from bench.merge import live_partial
from candleflow.dashboard.choice import CANDLE_LIMIT, LOOK_BACKS, Choice, buckets, period, proposed
from candleflow.market.partial import array_text, encode, encode_windows
from candleflow.market.window import DAY_US, ROLL_UPS, SECOND_US, Windows, floor_time
from candleflow.settings import Settings, load
from candleflow.stack.postgres import PostgresServer
from candleflow.stack.process import free_port
from candleflow.store import credentials, schema
from candleflow.store.credentials import Role
from candleflow.store.reader import CandleReader

WINDOWS: Final = Windows.of_seconds(5)
SYMBOL: Final = "BTCUSDT"
DAYS: Final = 366
_DAYS_AT_ONCE: Final = 6
BEGIN: Final = 1_700_000_100 * SECOND_US
BATCHES_PER_WINDOW: Final = 20
_STORED: Final = {WINDOWS.size_us // SECOND_US, *ROLL_UPS.values()}

# Prices are a sum of slow and fast waves and noise. Trade ids of a window follow those of the window before;
# they are computed from the window's number, so that days can be made separately. Amounts have as many
# decimal places as Spark's.
_FINEST: Final = """
    INSERT INTO part (symbol, interval, open_time, end_time, open, high, low, close, volume, quote_volume,
        taker_buy_volume, taker_buy_quote_volume, trade_count, first_trade_id, last_trade_id, trade_ids,
        is_closed, is_complete, updated_at)
    WITH moment AS (
        SELECT k, hashint8(k) & 1023 AS chance,
            round((60000 + 8000 * sin(k / 900000.0) + 1500 * sin(k / 60000.0) + 400 * sin(k / 7000.0)
                + 90 * sin(k / 970.0) + 25 * sin(k / 137.0) + (hashint8(k) & 1023) / 200.0)::numeric, 2)
                ::numeric(19, 8) AS price,
            60 * k + (hashint8(k) & 31) + 1 AS first_id
        FROM generate_series(%(first)s::bigint, %(last)s::bigint) k
    ), window_ AS (
        SELECT k, chance, price AS open, first_id,
            lead(price) OVER ordered AS close, lead(first_id) OVER ordered - 1 AS last_id
        FROM moment WINDOW ordered AS (ORDER BY k)
    ), candle AS (
        SELECT *, to_timestamp(k * 5) AS opens, last_id - first_id + 1 AS trades,
            ((last_id - first_id + 1) * 0.01537 + chance * 0.00001)::numeric(38, 8) AS volume,
            (0.3 + (chance %% 41) / 100.0)::numeric(3, 2) AS taker
        FROM window_ WHERE close IS NOT NULL
    )
    SELECT %(symbol)s, '5s', opens, opens + interval '5 s', open,
        greatest(open, close) + chance %% 7 * 0.31, least(open, close) - chance %% 5 * 0.29, close,
        volume, (volume * (open + close) / 2)::numeric(38, 16),
        (volume * taker)::numeric(38, 8), (volume * taker * (open + close) / 2)::numeric(38, 16),
        trades, first_id, last_id, int8multirange(int8range(first_id, last_id + 1)), true, true,
        opens + interval '5 s'
    FROM candle
"""
_ROLL_UP: Final = """
    INSERT INTO part (symbol, interval, open_time, end_time, open, high, low, close, volume, quote_volume,
        taker_buy_volume, taker_buy_quote_volume, trade_count, first_trade_id, last_trade_id, trade_ids,
        is_closed, is_complete, updated_at)
    SELECT symbol, %(interval)s, opens, opens + make_interval(secs => %(seconds)s),
        (array_agg(open ORDER BY first_trade_id))[1], max(high), min(low),
        (array_agg(close ORDER BY last_trade_id DESC))[1], sum(volume), sum(quote_volume),
        sum(taker_buy_volume), sum(taker_buy_quote_volume), sum(trade_count), min(first_trade_id),
        max(last_trade_id), range_agg(trade_ids),
        opens + make_interval(secs => %(seconds)s) <= max(end_time), true, max(updated_at)
    FROM (
        SELECT *,
            date_bin(make_interval(secs => %(seconds)s), open_time, timestamptz '1970-01-01 00:00Z') AS opens
        FROM part WHERE interval = %(of)s
    ) of GROUP BY symbol, opens
"""
_NEWEST: Final = """
    INSERT INTO symbols (symbol, last_trade_id, last_price, last_trade_time, newest_open_time, updated_at)
    SELECT symbol, last_trade_id, close, end_time - interval '1 ms', open_time, end_time
    FROM candles WHERE symbol = %s AND interval = '5s' ORDER BY open_time DESC LIMIT 1
"""
_MERGE: Final = "SELECT merge_batch(%s, 'bench', %s, %s, %s::partial_candle[], %s, %s) ->> 'status'"


@dataclass(frozen=True, slots=True)
class Question:
    """A query of the page; ``ask`` runs it and returns the number of rows."""

    name: str
    ask: Callable[[CandleReader], int]


@contextmanager
def stored(folder: Path) -> Iterator[tuple[PostgresServer, Settings]]:
    """Run a server with our schema in the folder."""
    server = PostgresServer(
        folder / "postgres", free_port(), credentials=folder / "run" / credentials.FILE_NAME, fsync=False
    )
    server.start()
    try:
        server.wait_until_ready()
        settings = load(
            postgres_url=f"postgresql://candleflow@127.0.0.1:{server.port}/candleflow", data_dir=folder
        )
        server.provide(settings.database.owner, settings.database.name)
        schema.apply(settings)
        yield server, settings
    finally:
        server.stop()


def has_year(owner: Connection) -> bool:
    with owner.cursor() as cursor:
        cursor.execute("SELECT reltuples > 6e6 FROM pg_class WHERE oid = 'candles'::regclass")
        found = cursor.fetchone() == (True,)
    owner.rollback()
    return found


def fill(owner: Connection, until: int) -> None:
    """Replace the table's content by a year of candles up to the window of ``until`` (microseconds)."""
    with owner.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off; SET work_mem = '128MB'; SET temp_buffers = '128MB'")
        cursor.execute("CREATE TEMPORARY TABLE part (LIKE candles INCLUDING DEFAULTS)")
        began, size = time.monotonic(), WINDOWS.size_us
        cursor.execute("TRUNCATE candles, symbols")
        begin = floor_time(until, DAY_US) - DAYS * DAY_US
        for start in range(begin, until, _DAYS_AT_ONCE * DAY_US):
            last = min(start + _DAYS_AT_ONCE * DAY_US, floor_time(until, size)) // size
            _fill(cursor, start // size, last)
            owner.commit()
            part = (last * size - begin) / (until - begin)
            print(f"\rfilling the table: {part:.0%}, {time.monotonic() - began:.0f} s", end="", flush=True)
        cursor.execute(_NEWEST, (SYMBOL,))
        cursor.execute("DROP TABLE part")
        owner.commit()
    owner.autocommit = True
    with owner.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE candles")
    owner.autocommit = False
    print(f", vacuumed {time.monotonic() - began:.0f} s")


def _fill(cursor: Any, first: int, last: int) -> None:
    cursor.execute("TRUNCATE part")
    cursor.execute(_FINEST, {"symbol": SYMBOL, "first": first, "last": last})
    cursor.execute("ANALYZE part")
    finer = WINDOWS.interval
    for name, seconds in ROLL_UPS.items():
        cursor.execute(_ROLL_UP, {"interval": name, "seconds": seconds, "of": finer})
        finer = name
    # In a live table, a roll-up is stored next to the finest candles of its end, where it was last updated.
    cursor.execute("INSERT INTO candles SELECT * FROM part ORDER BY end_time, open_time")


def questions(now: int) -> list[Question]:
    """Return the page's queries: each look-back with the proposed, the finest and the aggregated sizes."""
    offered = list(buckets(WINDOWS).values())
    folded = [one for one in offered if one not in _STORED]
    asked = []
    for label, look_back in LOOK_BACKS.items():
        suited = proposed(DAYS * 86_400 if look_back is None else look_back, offered)
        fitting = [one for one in folded if look_back is None or one * 20 <= look_back]
        for bucket in dict.fromkeys([suited, offered[0], *fitting]):
            mark = " (proposed)" if bucket == suited else " (folded)" if bucket in folded else ""
            shown = period(Choice(SYMBOL, bucket, look_back), now, now)
            asked.append(Question(f"{label:>4} of {bucket} s{mark}", _candles(bucket, shown.since)))
    interval = WINDOWS.interval
    asked.append(Question("symbols", lambda reader: len(reader.symbols())))
    asked.append(Question("first candle", lambda reader: int(bool(reader.first_open_time(SYMBOL, interval)))))
    return asked


def _candles(bucket_seconds: int, since: int | None) -> Callable[[CandleReader], int]:
    return lambda reader: len(reader.candles(SYMBOL, bucket_seconds, since, CANDLE_LIMIT + 1))


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def newest_trade(reader: CandleReader) -> int:
    return max(one.last_trade_time for one in reader.symbols() if one.symbol == SYMBOL)


def measure(reader: CandleReader, times: int) -> None:
    print(f"\n{'ms':>26}   rows   least     p50     p95   Python")
    for question in questions(newest_trade(reader)):
        taken, computed = [], []
        rows = question.ask(reader)
        for _ in range(times):
            began, computing = time.perf_counter(), time.thread_time()
            rows = question.ask(reader)
            taken.append((time.perf_counter() - began) * 1_000)
            computed.append((time.thread_time() - computing) * 1_000)
        print(
            f"{question.name:>26} {rows:>6} {min(taken):>7.1f} {percentile(taken, 0.5):>7.1f}"
            f" {percentile(taken, 0.95):>7.1f} {percentile(computed, 0.5):>8.1f}",
            flush=True,
        )


def show_plans(server: PostgresServer, settings: Settings) -> None:
    """Print each query's indexes and the rows and pages read, from auto_explain in the server's log."""
    reader_role = credentials.dsn(settings, Role.READER).user
    wanted = {
        "session_preload_libraries": "auto_explain",
        "auto_explain.log_min_duration": "0",
        "auto_explain.log_analyze": "on",
        "auto_explain.log_buffers": "on",
        "auto_explain.log_format": "json",
    }
    with closing(psycopg2.connect(server.url(database=settings.database.name))) as superuser:
        superuser.autocommit = True
        with superuser.cursor() as cursor:
            cursor.execute("LOAD 'auto_explain'")  # else ALTER ROLE rejects its settings
            for name, value in wanted.items():
                change = sql.SQL("ALTER ROLE {} SET {} = %s").format(
                    sql.Identifier(reader_role), sql.Identifier(*name.split("."))
                )
                cursor.execute(change, (value,))
    print(f"\n{'':>26}      ms  plan: how each table is read, its rows and pages of 8 kB")
    with closing(CandleReader.from_settings(settings)) as reader:
        for question in questions(newest_trade(reader)):
            begin = server.log.stat().st_size
            question.ask(reader)
            with server.log.open() as log:
                log.seek(begin)
                print(f"{question.name:>26} {plan_in_short(log.read())}")


def plan_in_short(logged: str) -> str:
    """Summarize a plan logged by auto_explain: its milliseconds, and each step that reads a table."""
    duration, _, plan = logged.partition("duration: ")[2].partition(" ms  plan:")
    explained, _ = json.JSONDecoder().raw_decode(plan.lstrip())
    reads = [_read(step) for step in _steps(explained["Plan"]) if "Relation Name" in step]
    return f"{float(duration):>7.1f}  {'; '.join(reads)}"


def _steps(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _steps(child)


def _read(step: dict[str, Any]) -> str:
    index = f" by {step['Index Name']}" if "Index Name" in step else ""
    backward = " backward" if step.get("Scan Direction") == "Backward" else ""
    rows = round(step["Actual Rows"] * step["Actual Loops"])
    passed_over = step.get("Rows Removed by Filter", 0) * step["Actual Loops"]
    beside = f" of {rows + passed_over:,}" if passed_over else ""
    fetched = step["Shared Read Blocks"]
    pages = f"{step['Shared Hit Blocks'] + fetched:,} pages"
    from_outside = f", {fetched:,} of them not in memory" if fetched else ""
    return (
        f"{step['Node Type']}{backward} of {step['Relation Name']}{index}: {rows:,}{beside} rows,"
        f" {pages}{from_outside}"
    )


def measure_merging(settings: Settings, what: str, batches: int = 200) -> None:
    """Measure merging live batches of ten trades after the newest stored candle."""
    windows = encode_windows(WINDOWS)
    with closing(CandleReader.from_settings(settings)) as reader:
        newest = max(((one.last_trade_time, one.last_trade_id) for one in reader.symbols()), default=None)
    time_, last_id = newest or (BEGIN, 0)
    with closing(credentials.dsn(settings, Role.WRITER).connect()) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("SELECT claim_topic('bench', 'id', 'bench')")
        claimed = (cursor.fetchone() or ({},))[0]
        reached = claimed["offsets"]
        taken = []
        for batch in range(batches):
            open_time = (
                floor_time(time_, WINDOWS.size_us) + (1 + batch // BATCHES_PER_WINDOW) * WINDOWS.size_us
            )
            expected, reached = reached, {"0": reached.get("0", 0) + 10}
            partial = live_partial(SYMBOL, open_time, last_id + 1 + 10 * batch)
            offsets = (json.dumps(expected), json.dumps(reached))
            rest = (array_text([encode(partial)]), json.dumps({"received": 10}), windows)
            began = time.perf_counter()
            cursor.execute(_MERGE, (claimed["run_id"], *offsets, *rest))
            taken.append((time.perf_counter() - began) * 1_000)
            if cursor.fetchone() != ("merged",):
                raise SystemExit("a batch was not merged")
    print(
        f"merging a batch into {what}: p50 {percentile(taken, 0.5):.2f} ms, p95 {percentile(taken, 0.95):.2f}"
    )


def show_size(owner: Connection) -> None:
    with owner.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), pg_table_size('candles') / 1e6, pg_indexes_size('candles') / 1e6 FROM candles"
        )
        rows, table, indexes = cursor.fetchone() or (0, 0, 0)
    owner.rollback()
    per_row = float(table + indexes) * 1e6 / max(rows, 1)
    print(f"{rows:,} candles: table {table:,.0f} MB, indexes {indexes:,.0f} MB, {per_row:.0f} bytes a candle")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="folder that keeps the table (default: a temporary one)")
    parser.add_argument("--times", type=int, default=40, help="runs of each query (40)")
    parser.add_argument("--plans", action="store_true", help="also print PostgreSQL's plans")
    arguments = parser.parse_args()
    print(machine.describe())
    with tempfile.TemporaryDirectory(prefix="candleflow-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        with stored(folder) as (server, settings):
            with closing(credentials.dsn(settings, Role.OWNER).connect()) as owner:
                if not has_year(owner):
                    measure_merging(settings, "an empty table")
                    fill(owner, time.time_ns() // 1_000)
                show_size(owner)
            with closing(CandleReader.from_settings(settings)) as reader:
                measure(reader, arguments.times)
            if arguments.plans:
                show_plans(server, settings)
            measure_merging(settings, "the table with a year")
    return 0


if __name__ == "__main__":
    sys.exit(main())
