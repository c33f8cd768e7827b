"""Passwords and connection parameters of each PostgreSQL role.

A password comes from the settings, else from ``<data_dir>/run/credentials.json``: a JSON object of role names
and passwords that only the file's owner may read. A missing password is generated at random and stored there,
except the owner's. The owner's default is the one in docker-compose.yml, whose server listens on the loopback
address only.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class by psycopg2's naming

from candleflow.errors import StoreError
from candleflow.settings import Settings
from candleflow.store.roles import Role as Role  # exported: callers pass a role

FILE_NAME: Final = "credentials.json"
DEVELOPMENT_PASSWORD: Final = "candleflow"  # noqa: S105 - documented in docker-compose.yml, loopback only
CONNECT_SECONDS: Final = 5
"""Connect timeout."""
_RANDOM_BYTES: Final = 24

# From libpq's parameter names to those of PostgreSQL's JDBC driver.
_JDBC_PARAMETERS: Final = {
    name: name for name in ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword")
} | {
    "application_name": "ApplicationName",
    "channel_binding": "channelBinding",
    "gssencmode": "gssEncMode",
    "options": "options",
}


@dataclass(frozen=True, slots=True)
class Dsn:
    """The data of a connection; ``parameters`` are libpq's. No repr shows the password."""

    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)
    parameters: tuple[tuple[str, str], ...] = ()

    def keywords(self) -> dict[str, Any]:
        """Return keyword arguments for ``psycopg2.connect``, with the password."""
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
        """Open a new connection; raises psycopg2's OperationalError if that fails."""
        connection: Connection = psycopg2.connect(**(self.keywords() | more))
        return connection

    def url(self) -> str:
        """Return ``postgresql://user:password@host:port/database``."""
        credentials = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        query = f"?{urlencode(self.parameters, quote_via=quote)}" if self.parameters else ""
        return f"postgresql://{credentials}@{self._address()}{query}"

    def jdbc_url(self) -> str:
        """Return the URL for PostgreSQL's JDBC driver; user and password are in ``jdbc_properties``."""
        return f"jdbc:postgresql://{self._address()}"

    def jdbc_properties(self) -> dict[str, str]:
        """Return user, password and parameters by the JDBC driver's names; times are in seconds."""
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
    "does not match host name": "check CANDLEFLOW_POSTGRES_URL, or the certificate",
    "root certificate file": "check CANDLEFLOW_POSTGRES_SSLROOTCERT",
    "server does not support SSL": "CANDLEFLOW_POSTGRES_SSLMODE asks for it",
    "no encryption": "CANDLEFLOW_POSTGRES_SSLMODE=verify-full encrypts",
    "password authentication failed": "check CANDLEFLOW_POSTGRES_PASSWORD, or the role's own",
}


def advised(error: psycopg2.Error) -> str | None:
    """Return PostgreSQL's line with the setting to check, if the error is a known configuration problem."""
    for line in str(error).strip().splitlines():
        for said, advice in _ADVICE.items():
            if said in line:
                return f"{line.strip()}: {advice}"
    return None


def role_name(settings: Settings, role: Role) -> str:
    """Return the role's name in PostgreSQL."""
    owner = settings.database.owner
    return owner if role is Role.OWNER else f"{owner}_{role}"


def dsn(settings: Settings, role: Role) -> Dsn:
    """Return the connection parameters of ``role``.

    Raises StoreError if the credentials file can't be read or written.
    """
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
    """Return the reader role's URL with its password, for psql and other tools."""
    return dsn(settings, Role.READER).url()


def password(settings: Settings, role: Role) -> str:
    """Return the role's password; generate and store it if there is none (except the owner's).

    Raises StoreError if the credentials file can't be read or written.
    """
    role = Role(role)
    given = settings.postgres.password_of(role)
    if given is not None:
        return given
    name = role_name(settings, role)
    kept = read(_file(settings)).get(name)
    if kept is not None:
        return kept
    if role is Role.OWNER:
        return DEVELOPMENT_PASSWORD
    return keep(settings, role, secrets.token_urlsafe(_RANDOM_BYTES), replace=False)


def keep(settings: Settings, role: Role, new_password: str, *, replace: bool = True) -> str:
    """Store a role's password in the file; without ``replace``, an existing one stays.

    Return the password that is now stored. Raises StoreError if the file can't be read or written.
    """
    return keep_in(_file(settings), role_name(settings, Role(role)), new_password, replace=replace)


def keep_in(file: Path, name: str, new_password: str, *, replace: bool = True) -> str:
    """Do as ``keep``, for any file and PostgreSQL role name."""
    with _locked(file):
        kept = read(file)
        if replace or name not in kept:
            kept[name] = new_password
            _write(file, kept)
        return kept[name]


def _file(settings: Settings) -> Path:
    return settings.stack.run_dir / FILE_NAME


def read(file: Path) -> dict[str, str]:
    """Return the file's passwords by role name; empty if there is no file.

    Raises StoreError if it can't be read or is not valid.
    """
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(
            f"can't read the passwords in {file}: {error.strerror}; check the file's owner and permissions"
        ) from None
    except ValueError:
        kept = None  # its text may hold passwords, so it goes into no message
    if not isinstance(kept, dict) or not all(isinstance(value, str) for value in kept.values()):
        raise StoreError(f"{file} is not a JSON object of roles and passwords: correct or delete it")
    return kept


def _write(file: Path, kept: dict[str, str]) -> None:
    """Replace the file atomically; the new one has mode 600 before anything is written to it."""
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
        raise StoreError(
            f"can't write the passwords to {file}: {error.strerror}; check the file's owner and permissions"
        ) from None


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold an exclusive lock across processes; the kernel releases it if the process dies."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(
            f"can't write the passwords to {file}: {error.strerror}; check the file's owner and permissions"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
