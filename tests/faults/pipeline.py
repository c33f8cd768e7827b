"""The whole way as real processes that a test may kill, stop and start again: exchange to PostgreSQL.

    simulator -- link -- producer -- Kafka -- processor -- link -- PostgreSQL

The links are proxies. Kafka's are not: a broker tells its clients an address of its own, so a proxy before it
would be passed by after the first request.
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
"""After a start, and after a fault is over, trades must be in the candles again within so long."""
DRAIN_SECONDS: Final = 180.0
"""After the last fault: to flush what is in flight, and then to merge what is in the topic."""
STOP_SECONDS: Final = 15.0
AUDIT_SECONDS: Final = 240.0
"""The auditor looks at what is half a minute old, where nothing was noted for half a minute."""
ADOPT: Final = "adopt-topic"
LOG_FILES: Final = 40
"""Of 16 MB each: more than PostgreSQL keeps ready."""
GRACE: Final = "10 seconds"
"""A candle that ended so long ago has been closed by a processor that has caught up."""

_PROCESSOR: Final = (sys.executable, ROOT / "processor.py")
_ROWS: Final = """
    SELECT symbol, interval, open_time::text, end_time::text, open::text, high::text, low::text, close::text,
        volume::text, quote_volume::text, taker_buy_volume::text, taker_buy_quote_volume::text,
        trade_count, first_trade_id, last_trade_id, held_ids(candles)::text, is_complete,
        CASE WHEN end_time <= %s THEN is_closed END
    FROM candles ORDER BY 1, 2, 3
"""
"""Every column but those that tell of how it came about: ``revision``, ``source`` and ``updated_at``. Whether
a candle is closed is a matter of the clock where it has only just ended."""


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
"""One statement sees one moment."""


class Pipeline:
    """All of it, in a folder of its own; a context manager. Begun by ``start``, ended by ``judge``.

    ``settings`` are the producer's and the processor's (``kafka_partitions=4``); Kafka has so many
    ``brokers``.
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
        """The folder that each part writes to."""
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
        """Nobody is asked to stop: the folder goes too."""
        for program in self._programs:
            program.faults = Counter()
            program.resume()
            program.kill(with_children=True)
        self._kafka.kill()
        self.postgres.resume()
        self._postgres.kill()
        self._parts.close()

    def start(self) -> None:
        """Start everything; returns when trades flow into the candles."""
        self._postgres.start()
        self._kafka.start()
        self.exchange.start()
        self.postgres.wait_until_ready()
        self._postgres.provide(DATABASE, DATABASE)
        self.processor.start()  # it waits for Kafka while its JVM comes up
        self.kafka.wait_until_ready()
        awaited(lambda: answers(f"{self.rest_url}/api/v3/ping"), 30, self.exchange.said)
        for program in self._programs:
            if program is not self.auditor:  # few faults need one
                program.start()
        self.wait_for_trades(1)

    def start_programs_first(self, wait_seconds: float) -> None:
        """Start the programs, and so much later each of what they need; returns when trades flow."""
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

    def add_rival(self) -> Program:
        """Start a second processor, on the same topic and database."""
        rival = self.add("rival", self.processor.command)
        rival.start()
        return rival

    def add(self, name: str, command: Sequence[str | Path]) -> Program:
        """A program more, with the processor's settings; ``start`` starts it last, unless that is done."""
        made = Program(name, command, self.folder, Counter(), self.processor.variables)
        self._programs.append(made)
        return made

    def pids(self) -> dict[str, int]:
        """Of all that runs, by name."""
        servers = {one.name: one.server.process for one in (self.kafka, self.postgres)}
        found = {one.name: one.process for one in self._programs} | servers
        return {name: process.pid for name, process in found.items() if process is not None}

    def put(self, records: Sequence[Record]) -> None:
        """Write records into Kafka past the producer."""
        places = direct.put(self._kafka.bootstrap, TOPIC, records)
        self._put |= dict(zip(places, records, strict=True))

    # PostgreSQL, asked past the link --------------------------------------------------------------------

    def superuser(self, database: str = DATABASE) -> Connection:
        """A connection in autocommit."""
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
        """How many records are in the candles; less than none while PostgreSQL can't be asked.

        Fails where part of a batch shows: trades that are in the counts and not in each interval's candles.
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
        """kill -9 of the processor's backend: PostgreSQL then ends every session, and recovers."""
        found = self.asked("SELECT pid FROM pg_stat_activity WHERE usename = %s LIMIT 1", WRITER)
        for (pid,) in found:
            self.report.faults["kill -9 a backend of PostgreSQL"] += 1
            os.kill(pid, signal.SIGKILL)

    def end_sessions(self) -> None:
        """End the processor's sessions, as an administrator may."""
        self.report.faults["sessions ended"] += 1
        self.asked("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", WRITER)

    @contextmanager
    def refused_merges(self) -> Iterator[None]:
        """PostgreSQL refuses to merge, by an error that no waiting mends."""
        self.report.faults["merges refused"] += 1
        with closing(self.superuser()) as connection, connection.cursor() as cursor:
            writer = sql.Identifier(WRITER)
            cursor.execute(sql.SQL("REVOKE EXECUTE ON FUNCTION merge_batch FROM {}").format(writer))
            yield
            cursor.execute(sql.SQL("GRANT EXECUTE ON FUNCTION merge_batch TO {}").format(writer))

    # PostgreSQL's and Kafka's own state ------------------------------------------------------------------

    def copy_database(self) -> Path:
        """A copy of PostgreSQL's folder, taken while it is stopped; it runs again afterwards."""
        copy = self.folder / "postgres.copy"
        self._postgres.stop()
        _copy_owned(self._postgres.folder, copy)
        self.postgres.start()
        self.postgres.wait_until_ready()
        return copy

    def put_back_database(self, copy: Path) -> None:
        """PostgreSQL as it was when the copy was taken, and started."""
        self.report.faults["earlier database put back"] += 1
        self._postgres.stop()
        shutil.rmtree(self._postgres.folder)
        _copy_owned(copy, self._postgres.folder)
        self.postgres.start()
        self.postgres.wait_until_ready()

    def need_more_of_the_log(self) -> None:
        """Have PostgreSQL begin new files of its log, for which there may be no room."""
        with suppress(psycopg2.Error):
            for _ in range(LOG_FILES):
                self.asked("SELECT pg_logical_emit_message(true, 'test', 'x'), pg_switch_wal()")

    @contextmanager
    def full_disk(self, part: str) -> Iterator[None]:
        """The disk of one of ``places`` is full, which has to be a small one."""
        self.report.faults[f"disk full: {part}"] += 1
        with full(self.places[part]):
            yield

    def delete_topic(self) -> None:
        """Whoever writes to it makes it anew."""
        self.report.faults["topic deleted"] += 1
        with closing(KafkaAdminClient(bootstrap_servers=self._kafka.bootstrap)) as admin:
            admin.delete_topics([TOPIC])

    def grow_topic(self, partitions: int) -> None:
        """The topic has so many partitions from now on; its records stay where they are."""
        self.report.faults["partitions added"] += 1
        grow(self._kafka.bootstrap, TOPIC, partitions)

    def outgrow_topic(self) -> None:
        """The topic is deleted, and made anew by the producer: it soon is longer than what was merged."""
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
        """As when the retention of all that is in the topic is over."""
        self.report.faults["retention passed"] += 1
        offsets = {TopicPartition(TOPIC, number): end for number, end in self._end_offsets().items()}
        with closing(KafkaAdminClient(bootstrap_servers=self._kafka.bootstrap)) as admin:
            admin.delete_records(offsets)

    def delete_kafka_folder(self) -> None:
        """Kafka is killed, and begins again with nothing."""
        self.report.faults["Kafka's folder deleted"] += 1
        self.kafka.kill()
        shutil.rmtree(self._kafka.folder)
        self.kafka.start()
        self.kafka.wait_until_ready()

    def cut_topic(self, records: int) -> None:
        """The topic loses its last ``records`` merged ones and all later, as by a power cut before they were
        flushed: Kafka is killed, and its log cut within a batch. Then it grows past what was merged.
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
        """Until the processor has ended with these words and the command that mends."""
        awaited(lambda: not self.processor.is_up, FLOW_SECONDS, self.said)
        last_line = self.processor.said().splitlines()[-1]
        for one in (*words, f"python -m candleflow {ADOPT}"):
            assert one in last_line, self.processor.said()

    def adopt_topic(self) -> None:
        """What the refusal asks for; then the processor is started, as the supervisor would."""
        done = subprocess.run(
            _candleflow(ADOPT), env=self.processor.variables, cwd=ROOT, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        self.processor.start()

    def holes(self) -> dict[str, str]:
        """The ids that the candles lack between their first and last, by symbol."""
        return dict(
            self.asked(
                "SELECT symbol, (range_merge(ids)::int8multirange - ids)::text FROM ("
                "    SELECT symbol, range_agg(held_ids(candles)) AS ids FROM candles"
                "    WHERE interval = '1d' GROUP BY 1"
                ") of_symbol WHERE ids <> range_merge(ids)::int8multirange"
            )
        )

    def wait_for_no_holes(self) -> None:
        """Until the auditor has found every hole of the candles, and the producer filled it."""
        awaited(lambda: not self.holes(), AUDIT_SECONDS, lambda: f"{self.holes()}\n{self.said()}")

    @contextmanager
    def slow_merges(self, seconds: float) -> Iterator[None]:
        """Each merge takes so much longer."""
        self.report.faults["merges slow"] += 1
        with closing(self.superuser()) as connection, connection.cursor() as cursor:
            cursor.execute(_SLOW, (seconds,))
            yield
            cursor.execute("DROP FUNCTION slow CASCADE")

    @contextmanager
    def harmed_link(self, fault: str) -> Iterator[Proxy]:
        """The processor's link to PostgreSQL, healed in the end."""
        self.report.faults[f"link {fault}"] += 1
        yield self.store_link
        self.store_link.heal()

    # Going on, and the end ------------------------------------------------------------------------------

    def wait_for_trades(self, count: int) -> None:
        """Until so many more records are in the candles."""
        awaited(lambda: self.received() >= 0, FLOW_SECONDS, self.said)
        reached = self.received() + count
        awaited(lambda: self.received() >= reached, FLOW_SECONDS, self.said)

    def lag(self) -> int:
        """How many records of the topic are in no candle yet."""
        return sum(self._end_offsets().values()) - max(0, self.received())

    def wait_for_records(self, count: int) -> None:
        """Until so many more records are in the topic."""
        reached = sum(self._end_offsets().values()) + count
        awaited(lambda: sum(self._end_offsets().values()) >= reached, FLOW_SECONDS, self.said)

    def heal(self) -> None:
        """Undo every fault; what doesn't run is started, as the supervisor would."""
        for link in (self.exchange_link, self.store_link):
            link.heal()
        for one in (self.kafka, self.postgres, self.exchange, self.producer, self.processor):
            one.resume()
            one.start()
        self.kafka.wait_until_ready()
        self.postgres.wait_until_ready()

    def supervise(self) -> None:
        """Start again what ended of itself; what was killed stays down."""
        for one in (self.producer, self.processor, self.auditor):
            if one.process is not None:
                one.start()

    def supervise_servers(self) -> None:
        """Start again the servers that ended of themselves; on a full disk that may do nothing."""
        for one in (self.kafka, self.postgres):
            with suppress(StackError):
                one.start()

    def drain(self) -> Trades:
        """Heal, end the flow, and wait until all that is in the topic is in the candles: its trades."""
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
        """SIGTERM, once it publishes: it ends in time, with nothing in flight, and its books balance."""
        awaited(lambda: self.producer.running.running_counts().get("published"), FLOW_SECONDS, self.said)
        status = self.producer.terminate(STOP_SECONDS)
        assert status == 0, f"the producer ended with {status}: {self.producer.said()}"
        self.report.check_producer(self.producer.said())

    def _has_filled(self) -> bool:
        """Whether the producer has met each symbol since it began, and nothing is missing or piled up."""
        counts, beat = self.producer.running.running_counts(), self.producer.running.heartbeat()
        has_met = self._feed.file is not None or (
            beat is not None and all(beat.of("age_s", symbol) is not None for symbol in SYMBOLS)
        )
        return has_met and counts.get("missing") == 0 and counts.get("in_flight", 10**6) < 1_000

    def judge_where_topic_was_lost(self) -> None:
        """As ``judge``, against all that the exchange had to give since the first candle."""
        in_topic, stored = self.drain(), self.stored()
        held: Trades = {(key[0], one): {} for key, candle in stored.items() for one in candle.trade_ids}
        had = self._feed.whole(self.rest_url, held | in_topic)
        known = {key: trade for key, trade in had.items() if key in held or key in in_topic}
        report = self.report
        report.judge(compare(had, in_topic, stored), known, had)
        report.check_books(self.counts(), is_topic_whole=False)
        report.ended = [*self.producer.ended, *self.processor.ended]
        assert report.is_exact, report.words()

    def judge(self, *, whole: bool = False) -> Trades:
        """Drain, and hold each candle against the oracle's; fails with the verdicts.

        By default against what is in the topic: a trade that never came there must be a hole that shows. With
        ``whole`` against all that the exchange had to give: then such a trade is a fault. The topic's trades.
        """
        in_topic = self.drain()
        put = by_id(json.loads(one.value or b"") for one in self._put.values() if one.refusal is None)
        had = self._feed.whole(self.rest_url, in_topic) | put
        report = self.report
        report.judge(compare(had if whole else in_topic, in_topic, self.stored()), in_topic, had)
        expected = self._refused()
        report.check_books(self.counts(), Counter(one.reason for one in expected))
        report.check_refused(expected, self._put_aside())
        report.ended = [*self.producer.ended, *self.processor.ended]
        assert report.is_exact, report.words()
        return in_topic

    def _refused(self) -> list[Refused]:
        """What must be in the topic of refused records."""
        return [
            one.refused_as(f"{TOPIC}/{partition}/{offset}")
            for (partition, offset), one in self._put.items()
            if one.refusal is not None
        ]

    def _put_aside(self) -> list[Refused]:
        """What is in it: a batch's are there before the batch is merged."""
        return [Refused.of(one) for one in reading.read(self._kafka.bootstrap, REJECTED_TOPIC, 0)]

    def differs_from_twin(self, **settings: object) -> list[str]:
        """What differs from the table of a processor that meets no fault, byte for byte.

        The twin reads the whole topic from its beginning into a database of its own; it may have ``settings``
        of its own too.
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
        """What each of ours said last."""
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
            "history_hours": 0,  # the oracle knows only what came live
        }
        return environment(**(defaults | self._settings | settings))

    def _begin_offsets(self) -> Mapping[int, int]:
        return bounds(self._kafka.bootstrap, TOPIC).begin

    def _end_offsets(self) -> Mapping[int, int]:
        return bounds(self._kafka.bootstrap, TOPIC).end

    def _has_merged(self, end: Mapping[int, int], database: str = DATABASE) -> bool:
        """Whether the candles stand at these offsets, and those that ended are closed."""
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
    """A folder with all in it, each file its owner's still: PostgreSQL doesn't run as root."""
    shutil.copytree(source, target)
    for one in (source, *source.rglob("*")):
        state = one.stat()
        os.chown(target / one.relative_to(source), state.st_uid, state.st_gid)


def by_id(payloads: Iterable[dict[str, Any]]) -> Trades:
    return {(one["s"], one["t"]): one for one in payloads}
