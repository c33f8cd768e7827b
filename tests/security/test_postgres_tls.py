"""PostgreSQL with TLS: a real server with `ssl = on` that refuses clients without TLS.

Correct settings work. A wrong authority, host name, certificate or password gives an error that names the
setting.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from pyspark.sql import SparkSession

from candleflow.engine.ledger import Ledger, StoreAwayError
from candleflow.errors import StoreError
from candleflow.settings import Settings, load
from candleflow.stack import process
from candleflow.stack.postgres import find_identity
from candleflow.stack.process import free_port, wait_for
from candleflow.store import credentials, schema
from candleflow.store.credentials import Role
from candleflow.store.reader import CandleReader
from tests.security.certificates import Authority, Certificate
from tests.security.plain import plain_server

Why: TypeAlias = Callable[[Settings], str]

HERE = "IP:127.0.0.1,DNS:localhost"
PASSWORD = 'canary "quoted\\'


def programs() -> Path:
    """Return the newest PostgreSQL installed on this system; the embedded one is built without TLS."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda one: int(one.parts[4]))
    if not found:
        pytest.skip("no PostgreSQL with TLS is installed: run deploy/checkers on Debian")
    return found[-1].parent


class TlsServer:
    """A server of the system's PostgreSQL that accepts only TLS connections."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._bin = programs()
        self._data = folder / "data"
        self._log = folder / "postgres.log"
        self._run_as = find_identity(folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._data.mkdir(mode=0o700)
        self._run_as.own(self._data)

    def start(self, certificate: Certificate) -> None:
        password = self._data.with_name("password")
        password.write_text(PASSWORD)
        self._run_as.own(password)
        self._run(
            "initdb", "-D", self._data, "-U", "candleflow", f"--pwfile={password}", "-A", "scram-sha-256"
        )
        self._put("pg_hba.conf", "hostssl all all 127.0.0.1/32 scram-sha-256\n")
        self._put(
            "postgresql.conf",
            f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n"
            "fsync = off\nssl = on\npassword_encryption = 'scram-sha-256'\n",
        )
        self.speak_tls(certificate)
        self._process = process.spawn(
            [self._bin / "postgres", "-D", self._data],
            log=self._log,
            cwd=Path("/"),
            before_exec=self._run_as.become,
            signal_with_parent=signal.SIGINT,
        )
        assert wait_for(lambda: shown(self.port) != "", 60), self._log.read_text()

    def speak_tls(self, certificate: Certificate) -> None:
        """Install a certificate; if the server runs, make it reload it."""
        self._put("server.key", certificate.key.read_text())
        self._put("server.crt", certificate.certificate.read_text())
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        if self._process is not None:
            process.stop(self._process, signal.SIGINT, 10)

    def _put(self, name: str, content: str) -> None:
        file = self._data / name
        file.write_text(content)
        file.chmod(0o600)
        self._run_as.own(file)

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = process.run((self._bin / program, *arguments), before_exec=self._run_as.become, cwd="/")
        assert done.returncode == 0, done.stderr


class Place:
    """The server, and settings that connect to it."""

    def __init__(self, server: TlsServer, authority: Authority, data_dir: Path) -> None:
        self.server = server
        self.authority = authority
        self._data_dir = data_dir

    def settings(self, **changed: Any) -> Settings:
        given = {
            "postgres_url": f"postgresql://candleflow@127.0.0.1:{self.server.port}/candleflow",
            "postgres_password": PASSWORD,
            "postgres_sslmode": "verify-full",
            "postgres_sslrootcert": self.authority.file,
            "data_dir": self._data_dir,
        }
        return load(**(given | changed))

    def show(self, certificate: Certificate) -> None:
        """Change the server's certificate, and wait until new connections get it."""
        self.server.speak_tls(certificate)
        expected = certificate.certificate.read_text()
        assert wait_for(lambda: shown(self.server.port) == expected, 60)


def shown(port: int) -> str:
    """Return the certificate that a new connection gets, as PEM, without verifying it."""
    asked = ["openssl", "s_client", "-starttls", "postgres", "-connect", f"127.0.0.1:{port}", "-showcerts"]
    said = subprocess.run(asked, input="", capture_output=True, text=True, check=False).stdout
    found = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", said, re.DOTALL)
    return found[0] if found else ""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("postgres-tls")
    authority = Authority(folder / "authority")
    server = TlsServer(folder)
    server.start(authority.certificate("right", HERE))
    try:
        yield Place(server, authority, folder / "own")
    finally:
        server.stop()


def ledger_of(spark: SparkSession, settings: Settings) -> Ledger:
    dsn = credentials.dsn(settings, Role.WRITER)
    url, properties = dsn.jdbc_url(), dsn.jdbc_properties()
    return Ledger(spark, url, properties, settings.topic, settings.windows)


def claim(spark: SparkSession, settings: Settings) -> None:
    ledger_of(spark, settings).claim("a topic's id", "test")


@pytest.fixture(params=["psycopg2", "jdbc"])
def why(request: pytest.FixtureRequest) -> Why:
    """Return a function that connects and returns the error.

    It connects like a starting process: as the owner from Python, or as the processor's role from the JVM.
    """
    connect = (
        schema.apply if request.param == "psycopg2" else partial(claim, request.getfixturevalue("spark"))
    )

    def said(settings: Settings) -> str:
        with pytest.raises(StoreError) as caught:
            connect(settings)
        assert not isinstance(caught.value, StoreAwayError), "a permanent error must not be retried"
        assert "canary" not in str(caught.value)
        assert credentials.password(settings, Role.WRITER) not in str(caught.value)
        return str(caught.value)

    return said


def test_the_processors_connection_is_by_tls(place: Place, spark: SparkSession) -> None:
    settings = place.settings()
    schema.apply(settings)
    ledger = ledger_of(spark, settings)
    ledger.claim("a topic's id", "test")
    try:
        with (
            closing(credentials.dsn(settings, Role.OWNER).connect()) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(
                "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = %s",
                (credentials.role_name(settings, Role.WRITER),),
            )
            assert cursor.fetchall() == [(True,)]
    finally:
        ledger.close()


def test_right_settings_work_for_owner_and_reader(place: Place) -> None:
    settings = place.settings()
    schema.apply(settings)
    assert CandleReader.from_settings(settings).symbols() == []
    with (
        closing(credentials.dsn(settings, Role.OWNER).connect()) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert cursor.fetchone() == (True,)


def test_a_wrong_authority_is_refused(place: Place, why: Why, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    assert "isn't signed by CANDLEFLOW_POSTGRES_SSLROOTCERT" in why(
        place.settings(postgres_sslrootcert=stranger.file)
    )


def test_another_host_name_is_refused(place: Place, why: Why) -> None:
    place.show(place.authority.certificate("other", "DNS:database.example.org", common_name="database"))
    assert "check CANDLEFLOW_POSTGRES_URL, or the certificate" in why(place.settings())
    place.show(place.authority.certificate("right", HERE))


def test_an_expired_certificate_is_refused(place: Place, why: Why) -> None:
    place.show(place.authority.certificate("expired", HERE, is_expired=True))
    assert "has expired" in why(place.settings())
    place.show(place.authority.certificate("right", HERE))


def test_a_wrong_password_is_refused(place: Place, why: Why, tmp_path: Path) -> None:
    # A separate folder, because a process that finds the writer's password there doesn't need the owner's.
    said = why(
        place.settings(
            postgres_password="canary", postgres_writer_password="another canary", data_dir=tmp_path
        )
    )
    assert "password authentication failed" in said
    assert re.search(r"check CANDLEFLOW_POSTGRES_(WRITER_)?PASSWORD", said)


def test_plain_text_is_refused_by_such_a_server(place: Place, why: Why) -> None:
    said = why(place.settings(postgres_sslmode="disable", postgres_sslrootcert=None))
    assert "CANDLEFLOW_POSTGRES_SSLMODE=verify-full encrypts" in said


def test_a_server_without_tls_gets_nothing_in_plain_text(place: Place, why: Why) -> None:
    # PostgreSQL with `ssl = off` answers a client's first eight bytes (SSLRequest) with N.
    with plain_server(b"N") as server:
        url = f"postgresql://candleflow@127.0.0.1:{server.port}/candleflow"
        assert "CANDLEFLOW_POSTGRES_SSLMODE asks for it" in why(place.settings(postgres_url=url))
    assert server.heard
    assert {len(said) for said in server.heard} == {8}
