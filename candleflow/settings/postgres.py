"""Where PostgreSQL is, as whom each process connects, and the roles' passwords."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from candleflow.settings.checks import certificates_in, check_certificates, expanded, has_good_host
from candleflow.settings.exchange import Venue
from candleflow.settings.section import PREFIX, NamedError, Section


class PostgresTls(StrEnum):
    """``CANDLEFLOW_POSTGRES_SSLMODE``, by libpq's names; those that fall back to plain text are not
    among them."""

    DISABLE = "disable"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


def _password_of(whose: str) -> Any:
    return Field(None, description=f"{whose} role's password; made at random where it isn't given")


class PostgresSettings(Section):
    """``settings.postgres``. Each of ``store.credentials``' roles but the owner has a ``<role>_password``."""

    url: SecretStr = Field(
        SecretStr("postgresql://candleflow@127.0.0.1:5432/candleflow"),
        description="PostgreSQL, as the role that owns the schema",
    )
    password: SecretStr | None = Field(None, description="The owner's password, where the address has none")
    sslmode: PostgresTls | None = Field(
        None, description="TLS to PostgreSQL; verify-full is the safe one. As the address says if not given"
    )
    sslrootcert: Path | None = Field(
        None, description="With verify-ca or verify-full: a file of PEM certificates that sign PostgreSQL's"
    )
    writer_password: SecretStr | None = _password_of("The processor's")
    reader_password: SecretStr | None = _password_of("The page's")
    auditor_password: SecretStr | None = _password_of("The auditor's")
    forecaster_password: SecretStr | None = _password_of("The forecaster's")
    alerter_password: SecretStr | None = _password_of("The alerter's")
    editor_password: SecretStr | None = _password_of("The rules' editor's")

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
            raise ValueError("must name a database of letters, digits, '_' and '-', 41 at most")
        if url.username is not None and not re.fullmatch(r"[a-z_][a-z0-9_]{0,40}", unquote(url.username)):
            raise ValueError("must name a user of small letters, digits and '_', 41 at most")
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
        """The role's password as set, or None: then ``store.credentials`` knows where else to look."""
        if role == "owner":
            return self.owner_password
        given: SecretStr | None = getattr(self, f"{role}_password")
        return given.get_secret_value() if given is not None else None

    def address_at(self, venue: Venue) -> PostgresAddress:
        """The address without its secrets; the database's name carries the venue."""
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
        """The address's parameters, those of TLS as the settings have them where they have any."""
        if self.sslmode is None:
            return query
        tls = {"sslmode": str(self.sslmode)}
        if self.sslrootcert is not None:
            tls["sslrootcert"] = str(self.sslrootcert)
        return urlencode(dict(parse_qsl(query)) | tls)


class PostgresAddress:
    """Where PostgreSQL is, with no secret in it."""

    __slots__ = ("host", "name", "owner", "parameters", "port")

    def __init__(self, *, host: str, port: int, name: str, owner: str, parameters: str = "") -> None:
        self.host = host
        self.port = port
        self.name = name
        self.owner = owner
        self.parameters = parameters

    @property
    def writer(self) -> str:
        """The role that the processor merges candles as."""
        return f"{self.owner}_writer"

    @property
    def reader(self) -> str:
        """The role that the page reads as."""
        return f"{self.owner}_reader"

    @property
    def auditor(self) -> str:
        """The role that the auditor reads as, and replaces candles as."""
        return f"{self.owner}_auditor"

    @property
    def forecaster(self) -> str:
        """The role that the forecaster reads as, and keeps forecasts as."""
        return f"{self.owner}_forecaster"

    @property
    def alerter(self) -> str:
        """The role that decides and sends alerts."""
        return f"{self.owner}_alerter"

    @property
    def editor(self) -> str:
        """The role that adds and removes alert rules."""
        return f"{self.owner}_editor"

    def __repr__(self) -> str:
        return f"postgresql://{self.owner}@{self.host}:{self.port}/{self.name}"
