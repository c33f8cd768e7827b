"""The whole pipeline from exchange to PostgreSQL, as real processes that a test may kill, stop and restart.

    simulator -- link -- producer -- Kafka -- processor -- link -- PostgreSQL

The links are TCP proxies. There is none for Kafka: a broker tells its clients its own address, so clients
would bypass a proxy after the first request.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import psycopg2
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class by psycopg2's naming

from candleflow.broker.offsets import bounds
from candleflow.broker.topics import topic_id
from candleflow.errors import BrokerError, StackError
from candleflow.stack.postgres import SUPERUSER, PostgresServer
from candleflow.stack.process import answers, free_port
from candleflow.store import credentials
from tests.broker import reading
from tests.broker.topics import grow
from tests.faults import direct
from tests.faults.brokers import KafkaCluster
from tests.faults.commits import CommitWatch
from tests.faults.direct import Record, Refused
from tests.faults.disk import full
from tests.faults.feeds import SYMBOLS, Feed
from tests.faults.programs import Program, Server
from tests.faults.proxy import LOOPBACK, Proxy
from tests.faults.verdicts import Report, Stored, Trades, compare, read_candles
from tests.processes import ROOT, awaited, environment, lasting

DATABASE: Final = "candleflow"
WRITER: Final = "candleflow_writer"
TOPIC: Final = "trades"
REJECTED_TOPIC: Final = "trades.rejected"
FLOW_SECONDS: Final = 180.0
"""Time limit after a start or the end of a fault until new trades are in the candles."""
DRAIN_SECONDS: Final = 180.0
"""Time limit after the last fault: to publish all trades, and then again to merge the whole topic."""
STOP_SECONDS: Final = 15.0
AUDIT_SECONDS: Final = 240.0
"""Time limit for the auditor, which waits until data, and the last noted gap, are half a minute old."""
ADOPT: Final = "adopt-topic"
LOG_FILES: Final = 40
"""Number of WAL files of 16 MB, more than PostgreSQL keeps ready."""
GRACE: Final = "10 seconds"
"""A processor that has caught up has closed every candle that ended this long ago."""

_PROCESSOR: Final = (sys.executable, ROOT / "processor.py")
_ROWS: Final = """
    SELECT symbol, interval, open_time::text, end_time::text, open::text, high::text, low::text, close::text,
        volume::text, quote_volume::text, taker_buy_volume::text, taker_buy_quote_volume::text,
        trade_count, first_trade_id, last_trade_id, held_ids(candles)::text, is_complete,
        CASE WHEN end_time <= %s THEN is_closed END
    FROM candles ORDER BY 1, 2, 3
"""
"""Every column except ``revision``, ``source`` and ``updated_at``, which depend on how the row was made.
``is_closed`` is left out for candles that have only just ended, because it depends on the time."""


_SLOW: Final = """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN PERFORM pg_catalog.pg_sleep(TG_ARGV[0]::float8); RETURN NULL; END $$;
    CREATE TRIGGER slow BEFORE UPDATE ON topic_offsets FOR EACH STATEMENT EXECUTE FUNCTION slow(%s)
"""
_PROGRESS: Final = """
    SELECT coalesce(max(records) FILTER (WHERE outcome = 'received'), 0),
        coalesce(max(records) FILTER (WHERE outcome = 'merged'), 0),
        (SELECT coalesce(sum(trade_count), 0) FROM candles WHERE interval = '5s'),
        (SELECT coalesce(sum(trade_count), 0) FROM candles WHERE interval = '1m'),
        (SELECT coalesce(sum(trade_count), 0) FROM candles WHERE interval = '1d')
    FROM record_counts
"""
"""A single statement, so that all counts are of the same moment."""


class Pipeline:
    """A pipeline in its own folder; a context manager. Call ``start`` first and ``judge`` at the end.

    ``settings`` are for the producer and the processor (``kafka_partitions=4``). ``brokers`` is the number of
    Kafka brokers.
    """

    def __init__(
        self,
        report: Report,
        folder: Path,
        java_home: Path,
        kafka_jars: list[Path],
        feed: Feed,
        *,
        brokers: int = 1,
        **settings: object,
    ) -> None:
        self.report = report
        self._settings = settings
        self._put: dict[tuple[int, int], Record] = {}
        self.folder = folder
        self._feed = feed
        self._data = folder / "data"
        self._run_dir = self._data / "run"
        exchange_port = free_port()
        self.rest_url = f"http://{LOOPBACK}:{exchange_port}"
        self._postgres = PostgresServer(
            folder / "postgres", free_port(), credentials=self._run_dir / credentials.FILE_NAME
        )
        self.cluster = KafkaCluster(folder / "kafka", brokers, java_home, kafka_jars)
        self._kafka = self.cluster if brokers > 1 else self.cluster.brokers[0]
        self.exchange_link = Proxy(exchange_port)
        self.store_link = Proxy(self._postgres.port, CommitWatch)
        self.kafka = Server("Kafka", self._kafka, report.faults)
        self.postgres = Server("PostgreSQL", self._postgres, report.faults)
        simulator = (sys.executable, "-m", feed.module, *feed.command, "--port", str(exchange_port))
        self.exchange = Program("exchange", simulator, folder, report.faults)
        self.producer = Program("producer", (sys.executable, ROOT / "producer.py"), folder, report.faults)
        self.processor = Program("processor", _PROCESSOR, folder, report.faults)
        self.auditor = Program("audit", _candleflow("audit"), folder, report.faults)
        self._programs = [self.exchange, self.producer, self.processor, self.auditor]
        self.places = {
            "PostgreSQL": self._postgres.folder,
            "Kafka": self._kafka.folder,
            "Spark": folder / "tmp",
            "heartbeats": self._run_dir,
        }
        """The folder that each component writes to."""
        self._parts = ExitStack()

    def __enter__(self) -> Self:
        self._parts.enter_context(self.exchange_link)
        self._parts.enter_context(self.store_link)
        for place in self.places.values():
            place.mkdir(parents=True, exist_ok=True)
        self.exchange.variables = environment(data_dir=self._data)
        self.producer.variables = self._variables()
        self.processor.variables = self._variables() | {"TMPDIR": str(self.places["Spark"])}
        self.auditor.variables = self._variables()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill everything; no clean stop is needed, because the folder is deleted too."""
        for program in self._programs:
            program.faults = Counter()
            program.resume()
            program.kill(with_children=True)
        self._kafka.kill()
        self.postgres.resume()
        self._postgres.kill()
        self._parts.close()

    def start(self) -> None:
        """Start everything except the auditor, and wait until trades are in the candles."""
        self._postgres.start()
        self._kafka.start()
        self.exchange.start()
        self.postgres.wait_until_ready()
        self._postgres.provide(DATABASE, DATABASE)
        self.processor.start()  # its JVM starts while Kafka does
        self.kafka.wait_until_ready()
        awaited(lambda: answers(f"{self.rest_url}/api/v3/ping"), 30, self.exchange.said)
        for program in self._programs:
            if program is not self.auditor:  # only few tests need it
                program.start()
        self.wait_for_trades(1)

    def start_programs_first(self, wait_seconds: float) -> None:
        """Start the programs before the servers, and wait until trades are in the candles.

        Kafka starts after ``wait_seconds`` and PostgreSQL after ``wait_seconds`` more.
        """
        for program in (self.producer, self.processor, self.auditor):
            program.start()
        for server in (self.kafka, self.postgres):
            with lasting(wait_seconds):
                pass
            server.start()
            server.wait_until_ready()
        self._postgres.provide(DATABASE, DATABASE)
        self.exchange.start()
        self.wait_for_trades(1)

    def add_processor(self) -> Program:
        """Start a second processor, on the same topic and database."""
        second = self.add("second-processor", self.processor.command)
        second.start()
        return second

    def add(self, name: str, command: Sequence[str | Path]) -> Program:
        """Add a program with the processor's settings. ``start``, if called later, starts it last."""
        made = Program(name, command, self.folder, Counter(), self.processor.variables)
        self._programs.append(made)
        return made

    def pids(self) -> dict[str, int]:
        """Return the process ids of everything that runs, by name."""
        servers = {one.name: one.server.process for one in (self.kafka, self.postgres)}
        found = {one.name: one.process for one in self._programs} | servers
        return {name: process.pid for name, process in found.items() if process is not None}

    def put(self, records: Sequence[Record]) -> None:
        """Write records to Kafka without the producer."""
        places = direct.put(self._kafka.bootstrap, TOPIC, records)
        self._put |= dict(zip(places, records, strict=True))

    # PostgreSQL, queried without the link ---------------------------------------------------------------

    def superuser(self, database: str = DATABASE) -> Connection:
        """Connect as superuser, in autocommit."""
        connection = psycopg2.connect(self._postgres.url(SUPERUSER, database), connect_timeout=5)
        connection.autocommit = True
        return connection

    def asked(self, question: str, *values: object, database: str = DATABASE) -> list[tuple[Any, ...]]:
        with closing(self.superuser(database)) as connection, connection.cursor() as cursor:
            cursor.execute(question, values)
            return cursor.fetchall()

    def execute(self, statement: str) -> None:
        with closing(self.superuser()) as connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def counts(self) -> dict[str, int]:
        return dict(self.asked("SELECT outcome, records FROM record_counts"))

    def received(self) -> int:
        """Return the number of records that the processor has merged; -1 while PostgreSQL can't be queried.

        Fails if a batch is partly visible: if the counts and the candles of an interval differ.
        """
        with suppress(psycopg2.Error):
            ((received, merged, *in_candles),) = self.asked(_PROGRESS)
            assert in_candles == [merged] * len(in_candles), f"merged {merged}, in candles {in_candles}"
            return int(received)
        return -1

    def stored(self) -> dict[tuple[Any, ...], Stored]:
        with closing(self.superuser()) as connection:
            return read_candles(connection)

    def kill_backend(self) -> None:
        """Kill the processor's backend with SIGKILL; PostgreSQL then ends all sessions and recovers."""
        found = self.asked("SELECT pid FROM pg_stat_activity WHERE usename = %s LIMIT 1", WRITER)
        for (pid,) in found:
            self.report.faults["kill -9 a backend of PostgreSQL"] += 1
            os.kill(pid, signal.SIGKILL)

    def end_sessions(self) -> None:
        """Terminate the processor's sessions, as an administrator may do."""
        self.report.faults["sessions ended"] += 1
        self.asked("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", WRITER)

    @contextmanager
    def refused_merges(self) -> Iterator[None]:
        """Make PostgreSQL refuse merges with a permanent error: the role loses its permission."""
        self.report.faults["merges refused"] += 1
        with closing(self.superuser()) as connection, connection.cursor() as cursor:
            writer = sql.Identifier(WRITER)
            cursor.execute(sql.SQL("REVOKE EXECUTE ON FUNCTION merge_batch FROM {}").format(writer))
            yield
            cursor.execute(sql.SQL("GRANT EXECUTE ON FUNCTION merge_batch TO {}").format(writer))

    # PostgreSQL's and Kafka's own state ------------------------------------------------------------------

    def copy_database(self) -> Path:
        """Stop PostgreSQL, copy its folder, and start it again; return the copy."""
        copy = self.folder / "postgres.copy"
        self._postgres.stop()
        _copy_owned(self._postgres.folder, copy)
        self.postgres.start()
        self.postgres.wait_until_ready()
        return copy

    def restore_database(self, copy: Path) -> None:
        """Restore PostgreSQL's folder from the copy, and start it."""
        self.report.faults["earlier database restored"] += 1
        self._postgres.stop()
        shutil.rmtree(self._postgres.folder)
        _copy_owned(copy, self._postgres.folder)
        self.postgres.start()
        self.postgres.wait_until_ready()

    def switch_wal_files(self) -> None:
        """Make PostgreSQL begin new WAL files, for which a full disk has no room."""
        with suppress(psycopg2.Error):
            for _ in range(LOG_FILES):
                self.asked("SELECT pg_logical_emit_message(true, 'test', 'x'), pg_switch_wal()")

    @contextmanager
    def full_disk(self, part: str) -> Iterator[None]:
        """Fill the disk of one of ``places``; it must be a ``small_disk``."""
        self.report.faults[f"disk full: {part}"] += 1
        with full(self.places[part]):
            yield

    def delete_topic(self) -> None:
        """Delete the topic; the producer creates it again."""
        self.report.faults["topic deleted"] += 1
        with closing(KafkaAdminClient(bootstrap_servers=self._kafka.bootstrap)) as admin:
            admin.delete_topics([TOPIC])

    def grow_topic(self, partitions: int) -> None:
        """Increase the number of partitions; existing records stay in theirs."""
        self.report.faults["partitions added"] += 1
        grow(self._kafka.bootstrap, TOPIC, partitions)

    def recreate_topic(self) -> None:
        """Delete the topic, and wait until the new one is longer than what was merged of the old one."""
        bootstrap = self._kafka.bootstrap
        merged: int = self.asked("SELECT sum(next_offset)::bigint FROM topic_offsets")[0][0]
        old = topic_id(bootstrap, TOPIC)
        self.delete_topic()

        def is_longer() -> bool:
            with suppress(BrokerError):
                return topic_id(bootstrap, TOPIC) != old and sum(self._end_offsets().values()) > merged
            return False

        awaited(is_longer, FLOW_SECONDS, self.said)

    def delete_records(self) -> None:
        """Delete all records of the topic, as if their retention time had passed."""
        self.report.faults["retention passed"] += 1
        offsets = {TopicPartition(TOPIC, number): end for number, end in self._end_offsets().items()}
        with closing(KafkaAdminClient(bootstrap_servers=self._kafka.bootstrap)) as admin:
            admin.delete_records(offsets)

    def delete_kafka_folder(self) -> None:
        """Kill Kafka, delete its folder, and start it empty."""
        self.report.faults["Kafka's folder deleted"] += 1
        self.kafka.kill()
        shutil.rmtree(self._kafka.folder)
        self.kafka.start()
        self.kafka.wait_until_ready()

    def cut_topic(self, records: int) -> None:
        """Remove the last ``records`` merged records and all later ones, as by a power cut before a flush.

        Kafka is killed and its log is cut in the middle of a batch. Then wait until the topic is longer than
        what was merged.
        """
        self.report.faults["topic cut short"] += 1
        merged: int = self.asked("SELECT next_offset FROM topic_offsets")[0][0]
        self.kafka.kill()
        folder = self.cluster.brokers[0].data / f"{TOPIC}-0"
        for index in (*folder.glob("*.index"), *folder.glob("*.timeindex"), *folder.glob("*.snapshot")):
            index.unlink()
        (log,) = folder.glob("*.log")
        os.truncate(log, direct.end_in_log(log.read_bytes(), merged - records) + 7)
        self.kafka.start()
        self.kafka.wait_until_ready()
        awaited(lambda: self._end_offsets()[0] > merged, FLOW_SECONDS, self.said)

    def wait_for_refusal(self, *words: str) -> None:
        """Wait until the processor waits, with an error that has these words and the adopt command."""

        def is_refused() -> bool:
            last_line = self.processor.said().splitlines()[-1]
            return all(one in last_line for one in (*words, f"python -m candleflow {ADOPT}"))

        awaited(is_refused, FLOW_SECONDS, self.said)
        assert self.processor.is_up, self.processor.said()

    def adopt_topic(self) -> None:
        """Run the command that the error names."""
        done = subprocess.run(
            _candleflow(ADOPT), env=self.processor.variables, cwd=ROOT, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def gaps(self) -> dict[str, str]:
        """Return the trade ids missing between the first and the last candle, by symbol."""
        return dict(
            self.asked(
                "SELECT symbol, (range_merge(ids)::int8multirange - ids)::text FROM ("
                "    SELECT symbol, range_agg(held_ids(candles)) AS ids FROM candles"
                "    WHERE interval = '1d' GROUP BY 1"
                ") of_symbol WHERE ids <> range_merge(ids)::int8multirange"
            )
        )

    def wait_for_no_gaps(self) -> None:
        """Wait until the auditor has found every gap in the candles and the producer has filled it."""
        awaited(lambda: not self.gaps(), AUDIT_SECONDS, lambda: f"{self.gaps()}\n{self.said()}")

    @contextmanager
    def slow_merges(self, seconds: float) -> Iterator[None]:
        """Make each merge take ``seconds`` longer."""
        self.report.faults["merges slow"] += 1
        with closing(self.superuser()) as connection, connection.cursor() as cursor:
            cursor.execute(_SLOW, (seconds,))
            yield
            cursor.execute("DROP FUNCTION slow CASCADE")

    @contextmanager
    def faulty_link(self, fault: str) -> Iterator[Proxy]:
        """Yield the processor's link to PostgreSQL for a fault; repair it when the block ends."""
        self.report.faults[f"link {fault}"] += 1
        yield self.store_link
        self.store_link.heal()

    # Recovery and verdict -------------------------------------------------------------------------------

    def wait_for_trades(self, count: int) -> None:
        """Wait until ``count`` more records are in the candles."""
        awaited(lambda: self.received() >= 0, FLOW_SECONDS, self.said)
        reached = self.received() + count
        awaited(lambda: self.received() >= reached, FLOW_SECONDS, self.said)

    def lag(self) -> int:
        """Return how many records of the topic are not merged yet."""
        return sum(self._end_offsets().values()) - max(0, self.received())

    def wait_for_records(self, count: int) -> None:
        """Wait until ``count`` more records are in the topic."""
        reached = sum(self._end_offsets().values()) + count
        awaited(lambda: sum(self._end_offsets().values()) >= reached, FLOW_SECONDS, self.said)

    def heal(self) -> None:
        """Undo every fault, and start what doesn't run, as the supervisor would."""
        for link in (self.exchange_link, self.store_link):
            link.heal()
        for one in (self.kafka, self.postgres, self.exchange, self.producer, self.processor):
            one.resume()
            one.start()
        self.kafka.wait_until_ready()
        self.postgres.wait_until_ready()

    def supervise(self) -> None:
        """Restart programs that ended by themselves; those that the test killed stay down."""
        for one in (self.producer, self.processor, self.auditor):
            if one.process is not None:
                one.start()

    def supervise_servers(self) -> None:
        """Restart servers that are down; on a full disk the start may fail."""
        for one in (self.kafka, self.postgres):
            with suppress(StackError):
                one.start()

    def drain(self) -> Trades:
        """Undo faults, stop the producer, wait until the topic is merged, and return the topic's trades."""
        self.heal()
        awaited(self._has_filled, DRAIN_SECONDS, self.said)
        self.stop_producer()
        end = self._end_offsets()
        awaited(lambda: self._has_merged(end), DRAIN_SECONDS, self.said)
        self.report.records = sum(end.values()) - sum(self._begin_offsets().values())
        records = reading.read(self._kafka.bootstrap, TOPIC, self.report.records)
        refused = {place for place, one in self._put.items() if one.refusal is not None}
        sound = (record for record in records if (record.partition, record.offset) not in refused)
        return by_id(json.loads(record.value) for record in sound)

    def stop_producer(self) -> None:
        """Stop the producer with SIGTERM; check that it ends in time and that its counts add up."""
        awaited(lambda: self.producer.running.running_counts().get("published"), FLOW_SECONDS, self.said)
        status = self.producer.terminate(STOP_SECONDS)
        assert status == 0, f"the producer ended with {status}: {self.producer.said()}"
        self.report.check_producer(self.producer.said())

    def _has_filled(self) -> bool:
        """Whether the producer has seen each symbol since its start, and has no gap and no queue."""
        counts, beat = self.producer.running.running_counts(), self.producer.running.heartbeat()
        has_met = self._feed.file is not None or (
            beat is not None and all(beat.of("age_s", symbol) is not None for symbol in SYMBOLS)
        )
        return has_met and counts.get("missing") == 0 and counts.get("in_flight", 10**6) < 1_000

    def judge_where_topic_was_lost(self) -> None:
        """Like ``judge``, but compare with all trades of the exchange since the first candle."""
        in_topic, stored = self.drain(), self.stored()
        held: Trades = {(key[0], one): {} for key, candle in stored.items() for one in candle.trade_ids}
        had = self._feed.whole(self.rest_url, held | in_topic)
        known = {key: trade for key, trade in had.items() if key in held or key in in_topic}
        report = self.report
        report.judge(compare(had, in_topic, stored), known, had)
        report.check_counts(self.counts(), is_topic_whole=False)
        report.ended = [*self.producer.ended, *self.processor.ended]
        assert report.is_exact, report.words()

    def judge(self, *, whole: bool = False) -> Trades:
        """Drain, compare each candle with the oracle's, and return the topic's trades; or fail.

        By default the expected candles come from the trades in the topic: a trade that is not in it must show
        as a gap. With ``whole`` they come from all trades of the exchange, so such a trade is an error.
        """
        in_topic = self.drain()
        put = by_id(json.loads(one.value or b"") for one in self._put.values() if one.refusal is None)
        had = self._feed.whole(self.rest_url, in_topic) | put
        report = self.report
        report.judge(compare(had if whole else in_topic, in_topic, self.stored()), in_topic, had)
        expected = self._refused()
        report.check_counts(self.counts(), Counter(one.reason for one in expected))
        report.check_refused(expected, self._put_aside())
        report.ended = [*self.producer.ended, *self.processor.ended]
        assert report.is_exact, report.words()
        return in_topic

    def _refused(self) -> list[Refused]:
        """Return the records expected in the topic of rejected records."""
        return [
            one.refused_as(f"{TOPIC}/{partition}/{offset}")
            for (partition, offset), one in self._put.items()
            if one.refusal is not None
        ]

    def _put_aside(self) -> list[Refused]:
        """Return the records in the topic of rejected records, which are written before the merge."""
        return [Refused.of(one) for one in reading.read(self._kafka.bootstrap, REJECTED_TOPIC, 0)]

    def differs_from_twin(self, **settings: object) -> list[str]:
        """Return the rows that differ, byte for byte, from those of a processor without faults.

        That processor (the twin) reads the whole topic into another database. ``settings`` are for it.
        """
        name = f"{DATABASE}_twin"
        self._postgres.provide(DATABASE, name)
        data = self.folder / "twin"
        (data / "run").mkdir(parents=True)
        shutil.copy(self._run_dir / credentials.FILE_NAME, data / "run")
        url = f"postgresql://{DATABASE}@{LOOPBACK}:{self._postgres.port}/{name}"
        variables = self._variables(data_dir=data, postgres_url=url, **settings)
        variables |= {"TMPDIR": str(self.folder)}
        twin = Program("twin", _PROCESSOR, self.folder, Counter(), variables)
        self._programs.append(twin)
        twin.start()
        awaited(lambda: self._has_merged(self._end_offsets(), name), DRAIN_SECONDS, twin.said)
        ((until,),) = self.asked("SELECT now() - %s::interval", GRACE)
        found, expected = (set(self.asked(_ROWS, until, database=one)) for one in (DATABASE, name))
        return [str(row) for row in sorted(found ^ expected)]

    def said(self) -> str:
        """Return the last output of each of our programs."""
        return "\n".join(f"--- {one.name}: {one.said()}" for one in self._programs)

    def _variables(self, **settings: object) -> dict[str, str]:
        defaults: dict[str, object] = {
            "symbols": ",".join(SYMBOLS),
            "exchange_ws_url": f"ws://{LOOPBACK}:{self.exchange_link.port}",
            "exchange_rest_url": f"http://{LOOPBACK}:{self.exchange_link.port}",
            "kafka_bootstrap": self._kafka.bootstrap,
            "postgres_url": f"postgresql://{DATABASE}@{LOOPBACK}:{self.store_link.port}/{DATABASE}",
            "data_dir": self._data,
            "spark_memory": "500m",
            "history_hours": 0,  # the oracle has only live trades
        }
        return environment(**(defaults | self._settings | settings))

    def _begin_offsets(self) -> Mapping[int, int]:
        return bounds(self._kafka.bootstrap, TOPIC).begin

    def _end_offsets(self) -> Mapping[int, int]:
        return bounds(self._kafka.bootstrap, TOPIC).end

    def _has_merged(self, end: Mapping[int, int], database: str = DATABASE) -> bool:
        """Whether these offsets are merged and every candle that has ended is closed."""
        with suppress(psycopg2.Error):
            offsets = dict(self.asked("SELECT partition, next_offset FROM topic_offsets", database=database))
            ((open_candles,),) = self.asked(
                "SELECT count(*) FROM candles WHERE NOT is_closed AND end_time <= now() - %s::interval",
                GRACE,
                database=database,
            )
            return offsets == end and open_candles == 0
        return False


def _candleflow(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "candleflow", *arguments)


def _copy_owned(source: Path, target: Path) -> None:
    """Copy a folder and keep the owners of files, because PostgreSQL doesn't run as root."""
    shutil.copytree(source, target)
    for one in (source, *source.rglob("*")):
        state = one.stat()
        os.chown(target / one.relative_to(source), state.st_uid, state.st_gid)


def by_id(payloads: Iterable[dict[str, Any]]) -> Trades:
    return {(one["s"], one["t"]): one for one in payloads}
