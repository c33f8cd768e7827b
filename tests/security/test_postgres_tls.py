"""PostgreSQL by TLS: a real server with `ssl = on`, whose clients are refused without.

Right settings work; a wrong authority, name, certificate or password is refused with a line that names
the setting.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from candleflow.errors import StoreError
from candleflow.settings import Settings, load
from candleflow.stack.postgres import PostgresServer
from candleflow.stack.process import free_port, wait_for
from candleflow.store import credentials, schema
from candleflow.store.credentials import Role
from candleflow.store.reader import CandleReader
from tests.security.certificates import Authority, Certificate

HERE = "IP:127.0.0.1,DNS:localhost"
PASSWORD = 'canary "quoted\\'


class TlsServer(PostgresServer):
    """The local server, with a certificate, and no door without TLS."""

    def speak_tls(self, certificate: Certificate) -> None:
        """Takes effect at the next start, or the next reload."""
        for name, file in (("server.key", certificate.key), ("server.crt", certificate.certificate)):
            target = self.data / name
            target.write_text(file.read_text())
            target.chmod(0o600)
            self._who.own(target)

    def _configure(self) -> None:
        super()._configure()
        with (self.data / "postgresql.conf").open("a") as text:
            text.write("ssl = on\nssl_min_protocol_version = 'TLSv1.2'\n")
        (self.data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")


class Place:
    """The server, and the settings that lead to it."""

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
        """Show another certificate from now on: PostgreSQL reads it anew when told to."""
        self.server.speak_tls(certificate)
        with closing(psycopg2.connect(f"{self.server.url()}?sslmode=require")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_reload_conf()")
        expected = certificate.certificate.read_text()
        assert wait_for(lambda: shown(self.server.port) == expected, 60)


def shown(port: int) -> str:
    """The certificate that a new connection is shown, as PEM, as long as nobody verifies it."""
    asked = ["openssl", "s_client", "-starttls", "postgres", "-connect", f"127.0.0.1:{port}", "-showcerts"]
    said = subprocess.run(asked, input="", capture_output=True, text=True, check=False).stdout
    found = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", said, re.DOTALL)
    return found[0] if found else ""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("postgres-tls")
    authority = Authority(folder / "authority")
    server = TlsServer(folder, free_port(), credentials=folder / "credentials.json", fsync=False)
    server.prepare()
    server.speak_tls(authority.certificate("right", HERE))
    server.launch()
    try:
        server.wait_until_ready()
        server.provide("candleflow", "candleflow", PASSWORD)
        yield Place(server, authority, folder / "own")
    finally:
        server.stop()


def why(settings: Settings) -> str:
    """What the first thing that a process does with PostgreSQL says."""
    with pytest.raises(StoreError) as caught:
        schema.apply(settings)
    assert "canary" not in str(caught.value)
    return str(caught.value)


def test_right_settings_work_for_owner_reader_and_jdbc(place: Place) -> None:
    settings = place.settings()
    schema.apply(settings)
    assert CandleReader.from_settings(settings).symbols() == []
    with (
        closing(credentials.dsn(settings, Role.OWNER).connect()) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert cursor.fetchone() == (True,)
    properties = credentials.jdbc_properties(settings)
    assert (properties["sslmode"], properties["sslrootcert"]) == ("verify-full", str(place.authority.file))


def test_a_wrong_authority_is_refused(place: Place, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    assert "isn't signed by CANDLEFLOW_POSTGRES_SSLROOTCERT" in why(
        place.settings(postgres_sslrootcert=stranger.file)
    )


def test_another_host_name_is_refused(place: Place) -> None:
    place.show(place.authority.certificate("other", "DNS:database.example.org", common_name="database"))
    assert "does not match host name" in (said := why(place.settings()))
    assert "CANDLEFLOW_POSTGRES_URL" in said
    place.show(place.authority.certificate("right", HERE))


def test_an_expired_certificate_is_refused(place: Place) -> None:
    place.show(place.authority.certificate("expired", HERE, is_expired=True))
    assert "CANDLEFLOW_POSTGRES_SSLROOTCERT, or has expired" in why(place.settings())
    place.show(place.authority.certificate("right", HERE))


def test_a_wrong_password_is_refused(place: Place) -> None:
    said = why(place.settings(postgres_password="canary"))
    assert "password authentication failed" in said
    assert "CANDLEFLOW_POSTGRES_PASSWORD" in said


def test_plain_text_is_refused_by_such_a_server(place: Place) -> None:
    said = why(place.settings(postgres_sslmode="disable", postgres_sslrootcert=None))
    assert "CANDLEFLOW_POSTGRES_SSLMODE=verify-full encrypts" in said


def test_a_server_without_tls_is_not_spoken_to_in_plain_text(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        threading.Thread(target=refuse_tls, args=[plain], daemon=True).start()
        url = f"postgresql://candleflow@127.0.0.1:{plain.getsockname()[1]}/candleflow"
        assert "CANDLEFLOW_POSTGRES_SSLMODE asks for it" in why(place.settings(postgres_url=url))


def refuse_tls(server: socket.socket) -> None:
    """As a PostgreSQL with `ssl = off` answers a client's first eight bytes (SSLRequest): N."""
    with contextlib.suppress(OSError):  # once the test has closed it
        while True:
            connection, _ = server.accept()
            with connection:
                connection.recv(8)
                connection.sendall(b"N")
                assert connection.recv(1_024) == b""
