"""Where PostgreSQL is and as whom: addresses with passwords that no repr shows.

A password comes from the settings, else from ``<data_dir>/run/credentials.json``, a JSON object of role names
and passwords that only its owner may read. All but the owner's are made at random and kept
there the first time they are asked for; the owner's default is the one that docker-compose.yml documents, as
that server listens on the loopback only.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class by psycopg2's naming

from candleflow.errors import StoreError
from candleflow.settings import Settings

FILE_NAME: Final = "credentials.json"
DEVELOPMENT_PASSWORD: Final = "candleflow"  # noqa: S105 - documented in docker-compose.yml, loopback only
CONNECT_SECONDS: Final = 5
"""How long a server that says nothing is waited for."""
_RANDOM_BYTES: Final = 24

# libpq's names for what PostgreSQL's JDBC driver calls otherwise, or the same.
_JDBC_PARAMETERS: Final = {
    name: name for name in ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword")
} | {
    "application_name": "ApplicationName",
    "channel_binding": "channelBinding",
    "gssencmode": "gssEncMode",
    "options": "options",
}


class Role(StrEnum):
    """Who asks: the schema's owner, the processor (may call its functions), the page (may read), the auditor
    the forecaster and the alerter (may read, and call functions of their own), the editor of alert rules (may
    add and remove them)."""

    OWNER = "owner"
    WRITER = "writer"
    READER = "reader"
    AUDITOR = "auditor"
    FORECASTER = "forecaster"
    ALERTER = "alerter"
    EDITOR = "editor"


@dataclass(frozen=True, slots=True)
class Dsn:
    """All that a connection needs, the password in no repr; ``parameters`` are libpq's, from the address."""

    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)
    parameters: tuple[tuple[str, str], ...] = ()

    def keywords(self) -> dict[str, Any]:
        """For ``psycopg2.connect``; holds the password."""
        return {
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "candleflow",
            **dict(self.parameters),
            "host": self.host,
            "port": self.port,
            "dbname": self.database,
            "user": self.user,
            "password": self.password,
        }

    def connect(self, **more: Any) -> Connection:
        """A new connection; raises psycopg2's OperationalError while there is none to be had."""
        connection: Connection = psycopg2.connect(**(self.keywords() | more))
        return connection

    def url(self) -> str:
        """As ``postgresql://user:password@host:port/database``, ready to connect with."""
        credentials = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        query = f"?{urlencode(self.parameters, quote_via=quote)}" if self.parameters else ""
        return f"postgresql://{credentials}@{self._address()}{query}"

    def jdbc_url(self) -> str:
        """For PostgreSQL's JDBC driver, without user and password: those are in ``jdbc_properties``."""
        return f"jdbc:postgresql://{self._address()}"

    def jdbc_properties(self) -> dict[str, str]:
        """User, password and the address's parameters as the JDBC driver names them; times in seconds."""
        known = {_JDBC_PARAMETERS[name]: value for name, value in self.parameters if name in _JDBC_PARAMETERS}
        return {
            "ApplicationName": "candleflow",
            "connectTimeout": str(CONNECT_SECONDS),
            "loginTimeout": str(2 * CONNECT_SECONDS),
            "socketTimeout": "60",
            "tcpKeepAlive": "true",
            **known,
            "user": self.user,
            "password": self.password,
        }

    def _address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{quote(self.database, safe='')}"


_ADVICE: Final = {
    "certificate verify failed": "it isn't signed by CANDLEFLOW_POSTGRES_SSLROOTCERT, or has expired",
    "does not match host name": "look at CANDLEFLOW_POSTGRES_URL, or at the certificate",
    "root certificate file": "look at CANDLEFLOW_POSTGRES_SSLROOTCERT",
    "server does not support SSL": "CANDLEFLOW_POSTGRES_SSLMODE asks for it",
    "no encryption": "CANDLEFLOW_POSTGRES_SSLMODE=verify-full encrypts",
    "password authentication failed": "look at CANDLEFLOW_POSTGRES_PASSWORD, or the role's own",
}


def advised(error: psycopg2.Error) -> str | None:
    """Where a setting is to blame for an error: PostgreSQL's line, and the setting to look at."""
    for line in str(error).strip().splitlines():
        for said, advice in _ADVICE.items():
            if said in line:
                return f"{line.strip()}: {advice}"
    return None


def role_name(settings: Settings, role: Role) -> str:
    """What PostgreSQL calls the role."""
    address = settings.database
    return {
        Role.OWNER: address.owner,
        Role.WRITER: address.writer,
        Role.READER: address.reader,
        Role.AUDITOR: address.auditor,
        Role.FORECASTER: address.forecaster,
        Role.ALERTER: address.alerter,
        Role.EDITOR: address.editor,
    }[role]


def dsn(settings: Settings, role: Role) -> Dsn:
    """How ``role`` connects; raises StoreError if the file of credentials can't be read or written."""
    address = settings.database
    return Dsn(
        host=address.host,
        port=address.port,
        database=address.name,
        user=role_name(settings, role),
        password=password(settings, role),
        parameters=tuple(parse_qsl(address.parameters)),
    )


def reader_url(settings: Settings) -> str:
    """The page's address of PostgreSQL, with its password: ready to connect with, for people and tools."""
    return dsn(settings, Role.READER).url()


def jdbc_url(settings: Settings) -> str:
    """Where the processor connects, without secrets; ``jdbc_properties`` has the rest."""
    return dsn(settings, Role.WRITER).jdbc_url()


def jdbc_properties(settings: Settings) -> dict[str, str]:
    """The processor's user, password and connection properties for the JDBC driver."""
    return dsn(settings, Role.WRITER).jdbc_properties()


def password(settings: Settings, role: Role) -> str:
    """The role's password; any but the owner's is made and kept if there is none yet.

    Raises StoreError if the file of credentials can't be read or written.
    """
    role = Role(role)
    given = settings.postgres.password_of(role)
    if given is not None:
        return given
    name = role_name(settings, role)
    kept = _read(_file(settings)).get(name)
    if kept is not None:
        return kept
    if role is Role.OWNER:
        return DEVELOPMENT_PASSWORD
    return keep(settings, role, secrets.token_urlsafe(_RANDOM_BYTES), replace=False)


def keep(settings: Settings, role: Role, new_password: str, *, replace: bool = True) -> str:
    """Keep a role's password in the file; without ``replace``, one that is there already stays.

    Returns the password now kept. Raises StoreError if the file can't be read or written.
    """
    name, file = role_name(settings, Role(role)), _file(settings)
    with _locked(file):
        kept = _read(file)
        if replace or name not in kept:
            kept[name] = new_password
            _write(file, kept)
        return kept[name]


def _file(settings: Settings) -> Path:
    return settings.stack.run_dir / FILE_NAME


def _read(file: Path) -> dict[str, str]:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"the passwords in {file} can't be read: {error.strerror}") from None
    except ValueError:
        kept = None  # its text may hold passwords, so it goes into no message
    if not isinstance(kept, dict) or not all(isinstance(value, str) for value in kept.values()):
        raise StoreError(f"{file} is not a JSON object of roles and passwords: mend it or delete it")
    return kept


def _write(file: Path, kept: dict[str, str]) -> None:
    """Replace the file in one step; the new one is private from its first byte."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        beside.unlink(missing_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as text:
            json.dump(kept, text, indent=1)
            text.flush()
            os.fsync(text.fileno())
        beside.replace(file)
    except OSError as error:
        raise StoreError(f"the passwords can't be written to {file}: {error.strerror}") from None


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One writer at a time, over all processes; the kernel frees the lock of one that dies."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(f"the passwords can't be written to {file}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
