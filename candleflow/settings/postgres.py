"""Settings of PostgreSQL: address, TLS, and the passwords of the roles."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from candleflow.settings.checks import certificates_in, check_certificates, expanded, has_good_host
from candleflow.settings.exchange import Venue
from candleflow.settings.section import PREFIX, NamedError, Section


class PostgresTls(StrEnum):
    """The values of ``CANDLEFLOW_POSTGRES_SSLMODE``: libpq's, without those that fall back to plain text."""

    DISABLE = "disable"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


def _password_of(whose: str) -> Any:
    return Field(
        None,
        description=f"Password of {whose} role. Unset: a random one is generated and kept in the data "
        "folder. Set it if processes run on several machines",
    )


class PostgresSettings(Section):
    """Every role in ``store.roles`` except the owner has a field ``<role>_password``."""

    url: SecretStr = Field(
        SecretStr("postgresql://candleflow@127.0.0.1:5432/candleflow"),
        description="Address of PostgreSQL, with the role that owns the schema. Change it to use your own "
        "PostgreSQL",
    )
    password: SecretStr | None = Field(
        None, description="Password of the owner role. Set it if CANDLEFLOW_POSTGRES_URL has no password"
    )
    sslmode: PostgresTls | None = Field(
        None,
        description="TLS mode. Use verify-full for a PostgreSQL on another machine: it also checks the "
        "server's name. Unset: as in the address",
    )
    sslrootcert: Path | None = Field(
        None,
        description="With verify-ca or verify-full: file of PEM certificates of the authority that signs "
        "PostgreSQL's certificate",
    )
    writer_password: SecretStr | None = _password_of("the processor's")
    reader_password: SecretStr | None = _password_of("the dashboard's")
    auditor_password: SecretStr | None = _password_of("the auditor's")
    forecaster_password: SecretStr | None = _password_of("the forecaster's")
    alerter_password: SecretStr | None = _password_of("the alerter's")
    editor_password: SecretStr | None = _password_of("the alert rules editor's")

    @field_validator("sslrootcert")
    @classmethod
    def _check_root_certificates(cls, value: Path | None) -> Path | None:
        if value is None or value == Path():
            return None
        found = expanded(value)
        check_certificates(certificates_in(found), "the file")
        return found

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        url = urlsplit(text)
        if url.scheme not in ("postgresql", "postgres") or not has_good_host(text):
            raise ValueError("must be an address such as postgresql://user@127.0.0.1:5432/database")
        if not re.fullmatch(r"/[A-Za-z_][A-Za-z0-9_-]{0,40}", url.path):
            raise ValueError("must name a database with at most 41 letters, digits, '_' and '-'")
        if url.username is not None and not re.fullmatch(r"[a-z_][a-z0-9_]{0,40}", unquote(url.username)):
            raise ValueError("must name a user with at most 41 lower-case letters, digits and '_'")
        return value

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        mode, certificates = self.sslmode, self.sslrootcert
        verifies = mode in (PostgresTls.VERIFY_CA, PostgresTls.VERIFY_FULL)
        if verifies is not (certificates is not None):
            needed = "must be set with" if verifies else "must be unset unless verify-ca or verify-full is"
            raise NamedError(
                "postgres_sslrootcert", certificates, f"{needed} {PREFIX}POSTGRES_SSLMODE={mode or ''}"
            )
        return self

    @property
    def owner_password(self) -> str | None:
        in_url = urlsplit(self.url.get_secret_value()).password
        if in_url is not None:
            return unquote(in_url)
        return self.password.get_secret_value() if self.password else None

    def password_of(self, role: str) -> str | None:
        """Return the role's password as set, else None: ``store.credentials`` then reads or generates one."""
        if role == "owner":
            return self.owner_password
        given: SecretStr | None = getattr(self, f"{role}_password")
        return given.get_secret_value() if given is not None else None

    def address_at(self, venue: Venue) -> PostgresAddress:
        """Return the address without passwords; the venue is appended to the database's name."""
        url = urlsplit(self.url.get_secret_value())
        suffix = f"_{venue}".replace("-", "_") if venue else ""
        return PostgresAddress(
            host=url.hostname or "127.0.0.1",
            port=url.port or 5432,
            name=url.path.lstrip("/") + suffix,
            owner=unquote(url.username) if url.username else "candleflow",
            parameters=self._with_tls(url.query),
        )

    def _with_tls(self, query: str) -> str:
        """Return the address's parameters; TLS settings that are set replace those of the address."""
        if self.sslmode is None:
            return query
        tls = {"sslmode": str(self.sslmode)}
        if self.sslrootcert is not None:
            tls["sslrootcert"] = str(self.sslrootcert)
        return urlencode(dict(parse_qsl(query)) | tls)


@dataclass(frozen=True, slots=True, repr=False)
class PostgresAddress:
    """Address of a PostgreSQL database, without passwords."""

    host: str
    port: int
    name: str
    """Name of the database."""
    owner: str
    parameters: str = ""

    def __repr__(self) -> str:
        return f"postgresql://{self.owner}@{self.host}:{self.port}/{self.name}"
