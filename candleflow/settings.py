"""Every setting, with its default, unit and range: the only reader of the environment.

A setting comes from the environment (``CANDLEFLOW_SYMBOLS=...``), else from a ``.env`` file in the working
folder, else from the default here. ``python -m candleflow settings`` prints those in force. A wrong one
raises SettingError before anything is opened.
"""

from __future__ import annotations

import codecs
import difflib
import os
import re
import ssl
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from candleflow.errors import MarketError, SettingError
from candleflow.market.shard import ALL, PRODUCER, Shard
from candleflow.market.symbol import SYMBOL_LENGTH, is_symbol, upper
from candleflow.market.window import WINDOW_SECONDS, Windows
from candleflow.proxies import is_loopback

PREFIX: Final = "CANDLEFLOW_"
ENV_FILE: Final = ".env"
SPARK_SUBMIT: Final = "spark-submit"
"""The master's place is taken by spark-submit: it started this program, and has told Spark all of that."""
_PROTOCOL: Final = f"{PREFIX}KAFKA_SECURITY_PROTOCOL"


class Exchange(StrEnum):
    """Where trades come from, as ``CANDLEFLOW_EXCHANGE`` names it."""

    AUTO = "auto"
    BINANCE = "binance"
    BINANCE_VISION = "binance-vision"
    BINANCE_US = "binance-us"
    SIMULATOR = "simulator"


class KafkaProtocol(StrEnum):
    """How Kafka is spoken to, as ``CANDLEFLOW_KAFKA_SECURITY_PROTOCOL`` and Kafka itself name it."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_SSL = "SASL_SSL"


class ScramMechanism(StrEnum):
    """How a password is proved to Kafka without being sent."""

    SHA_512 = "SCRAM-SHA-512"
    SHA_256 = "SCRAM-SHA-256"


class PostgresTls(StrEnum):
    """``CANDLEFLOW_POSTGRES_SSLMODE``, by libpq's names; those that fall back to plain text are not
    among them."""

    DISABLE = "disable"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """What every client of Kafka is told beside the address. No repr shows the password."""

    protocol: KafkaProtocol = KafkaProtocol.PLAINTEXT
    mechanism: ScramMechanism = ScramMechanism.SHA_512
    username: str = ""
    password: str = dataclass_field(default="", repr=False)
    authorities: str = ""
    """PEM certificates that the brokers' are signed by; empty: those that the system trusts."""


class KafkaAddress(str):
    """Kafka's host:port, several by commas, and how it is spoken to there.

    A text, so that it goes wherever an address does; and because the security is part of it, no client can be
    given the one and forget the other.
    """

    security: KafkaSecurity

    def __new__(cls, text: str, security: KafkaSecurity) -> Self:
        made = super().__new__(cls, text)
        made.security = security
        return made

    def __deepcopy__(self, _: object) -> Self:
        """Itself, as of any text: it never changes."""
        return self


class Venue(StrEnum):
    """A market with trade ids of its own. Each has its own topic and database: ids of two never mix.

    ``binance`` and ``binance-vision`` are two doors to one market. An exchange given by explicit addresses
    counts as the main one, as whoever names the addresses knows what is behind them.
    """

    MAIN = ""
    US = "binance-us"
    SIMULATED = "simulated"


EXCHANGE_URLS: Final[dict[Exchange, tuple[str, str]]] = {
    Exchange.BINANCE: ("wss://stream.binance.com:9443", "https://api.binance.com"),
    Exchange.BINANCE_VISION: ("wss://data-stream.binance.vision", "https://data-api.binance.vision"),
    Exchange.BINANCE_US: ("wss://stream.binance.us:9443", "https://api.binance.us"),
}
"""WebSocket base and REST base of each real exchange."""

METRICS_PORTS: Final = {
    "producer": 0, "processor": 1, "audit": 2, "alerts": 3, "forecaster": 4, "simulator": 5,
}  # fmt: skip
"""How far each process's port is above ``CANDLEFLOW_METRICS_PORT``. The page has Streamlit's own. The
producers of the second shard and the next ones have those above."""

Port = Annotated[int, Field(ge=1, le=65_535)]


class Settings(BaseSettings):
    """The settings in force. Frozen; ``load()`` is the way to get one."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=ENV_FILE, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    symbols: Annotated[tuple[str, ...], NoDecode] = Field(
        ("BTCUSDT",), description="The symbols to follow, separated by commas"
    )
    shard: Annotated[Shard, NoDecode] = Field(
        ALL, description="Which share of the symbols this producer takes: 2/4 is the second of four"
    )
    exchange: Exchange = Field(
        Exchange.AUTO,
        description="auto: whichever of Binance's hosts answers, else (in `make run`) the simulator",
    )
    exchange_ws_url: str | None = Field(
        None, description="WebSocket base address of another exchange, such as ws://127.0.0.1:9443"
    )
    exchange_rest_url: str | None = Field(
        None, description="REST base address of another exchange, such as http://127.0.0.1:9443"
    )
    exchange_silence_seconds: float = Field(
        30, ge=0.1, le=3_600, description="A connection that has brought nothing for so long is replaced"
    )
    exchange_lifetime_minutes: float = Field(
        23 * 60 + 30,
        gt=0,
        le=1_440,
        description="A connection is replaced after this; Binance ends it at 24 h",
    )
    exchange_max_streams: int = Field(
        1_024, ge=1, le=1_024, description="Streams on one connection; Binance's limit is 1,024"
    )
    max_future_seconds: float = Field(
        60, ge=1, le=86_400, description="A trade dated further ahead than this is rejected"
    )
    fill_hours: float = Field(
        6,
        ge=0,
        le=168,
        description="Missing trades are fetched from the exchange's history as far back as this; 0: none are",
    )
    history_hours: float = Field(
        6,
        ge=0,
        le=168,
        description="Candles before the first trade come from the exchange's klines, as far back; 0: none do",
    )
    archive_url: str = Field(
        "https://data.binance.vision",
        pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$",
        description="The exchange's public archive, which `backfill` brings a day's trades from",
    )
    max_in_flight: int = Field(
        50_000, ge=100, le=10_000_000, description="Trades that may wait for Kafka's acknowledgement"
    )

    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Kafka's host:port, several by commas")
    kafka_security_protocol: KafkaProtocol = Field(
        KafkaProtocol.PLAINTEXT, description="How Kafka is spoken to; never otherwise than said here"
    )
    kafka_sasl_mechanism: ScramMechanism = Field(
        ScramMechanism.SHA_512, description="With SASL_SSL: how the password is proved"
    )
    kafka_sasl_username: str | None = Field(None, description="With SASL_SSL: the name at Kafka")
    kafka_sasl_password: SecretStr | None = Field(None, description="With SASL_SSL: the password at Kafka")
    kafka_ssl_ca: str | None = Field(
        None,
        description="PEM certificates that sign Kafka's, as a file or as they are; the system's if not given",
    )
    kafka_partitions: int = Field(1, ge=1, le=1_024, description="Partitions of the topic, when it is made")
    kafka_replication: int = Field(1, ge=1, le=9, description="Copies of each record, when the topic is made")
    kafka_retention_hours: int = Field(
        168, ge=1, le=87_600, description="How long Kafka keeps trades, when the topic is made"
    )

    postgres_url: SecretStr = Field(
        SecretStr("postgresql://candleflow@127.0.0.1:5432/candleflow"),
        description="PostgreSQL, as the role that owns the schema",
    )
    postgres_password: SecretStr | None = Field(
        None, description="The owner's password, where the address has none"
    )
    postgres_sslmode: PostgresTls | None = Field(
        None, description="TLS to PostgreSQL; verify-full is the safe one. As the address says if not given"
    )
    postgres_sslrootcert: Path | None = Field(
        None, description="With verify-ca or verify-full: a file of PEM certificates that sign PostgreSQL's"
    )
    postgres_writer_password: SecretStr | None = Field(
        None, description="The processor's role's password; made at random where it isn't given"
    )
    postgres_reader_password: SecretStr | None = Field(
        None, description="The page's role's password; made at random where it isn't given"
    )
    postgres_auditor_password: SecretStr | None = Field(
        None, description="The auditor's role's password; made at random where it isn't given"
    )
    postgres_forecaster_password: SecretStr | None = Field(
        None, description="The forecaster's role's password; made at random where it isn't given"
    )
    postgres_alerter_password: SecretStr | None = Field(
        None, description="The alerter's role's password; made at random where it isn't given"
    )
    postgres_editor_password: SecretStr | None = Field(
        None,
        description="The rules' editor's role's password; made at random where it isn't given",
    )

    alert_channels: SecretStr = Field(
        SecretStr(""),
        description="Where alerts go, by commas: a name, =, and an address of apprise's that is a secret",
    )
    alert_pictures: bool = Field(
        default=True,
        description="Whether a picture of the chart follows an alert, where the channel takes files",
    )
    alert_telegram_url: str = Field(
        "https://api.telegram.org", description="Base address of Telegram's Bot API, or of one of your own"
    )
    alert_discord_url: str = Field("https://discord.com", description="Base address of Discord's webhooks")
    alert_page_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$",
        description="The page's address in alerts; if not given, the public one or http://localhost",
    )

    data_dir: Path = Field(Path(".data"), description="Where the local Kafka and PostgreSQL keep their data")
    cache_dir: Path = Field(
        Path("~/.cache/candleflow"),
        description="Where jars, archives of their classes and, if one had to be brought, Java are kept",
    )
    maven_url: str = Field(
        "https://repo1.maven.org/maven2",
        pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$",
        description="The repository that jars are fetched from, once",
    )
    dashboard_port: Port = Field(8_501, description="The page's port, on 127.0.0.1")
    dashboard_public_url: str | None = Field(
        None,
        description="The page's address behind a reverse proxy, such as https://candles.example.com",
    )

    window_seconds: int = Field(5, description="Length of the finest candles")
    slide_seconds: int | None = Field(
        None, description="A new window each so many seconds; the window's length (tumbling) if not given"
    )
    forecast_days: float = Field(
        7, gt=0, le=366, description="Forecasts of the next close are kept for so many days"
    )
    trigger_milliseconds: int = Field(
        20, ge=0, le=60_000, description="Spark begins a batch at most this often; 0: as soon as it can"
    )
    max_offsets_per_trigger: int = Field(
        500_000, ge=1_000, le=5_000_000, description="Records in a batch at most, while a backlog is read"
    )
    spark_master: str = Field(
        "local[*]",
        min_length=1,
        description="Spark's master; spark-submit: that of the command which started us",
    )
    spark_memory: str = Field(
        "1g", pattern=r"^[1-9][0-9]{0,5}[mg]$", description="The heap of Spark's driver, such as 900m or 2g"
    )
    kafka_memory: str = Field(
        "384m", pattern=r"^[1-9][0-9]{0,5}[mg]$", description="The heap of the local Kafka"
    )

    simulator_port: Port = Field(9_443, description="The simulator's port, on 127.0.0.1")
    simulator_rate: float = Field(
        40, gt=0, le=1_000_000, description="Simulated trades a second, over all symbols together"
    )
    simulator_seed: int = Field(1, ge=0, le=2**63 - 1, description="The simulated market's seed")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="How much is logged")
    log_format: Literal["text", "json"] = Field(
        "text", description="json: each line that we log is a JSON object, for log collectors"
    )
    metrics_port: int = Field(
        0,
        ge=0,
        le=65_535 - max(METRICS_PORTS.values()),
        description="Metrics and health: the producer's port, and the next ones are the others'; 0: none",
    )
    metrics_host: str = Field(
        "127.0.0.1",
        pattern=r"^[A-Za-z0-9.:-]{1,253}$",
        description="The address that metrics and health are served at; there is no log-in",
    )

    @field_validator("symbols", mode="before")
    @classmethod
    def _split_symbols(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        names = [upper(name) for name in value.split(",")]
        wrong = [name for name in names if not is_symbol(name)]
        if wrong:
            raise ValueError(
                f"must be names such as BTCUSDT, by commas: 1 to {SYMBOL_LENGTH} letters, digits, "
                "'.', '-', '_', none of them a small letter a-z"
            )
        return tuple(dict.fromkeys(names))

    @field_validator("shard", mode="before")
    @classmethod
    def _read_shard(cls, value: Any) -> Any:
        try:
            return Shard.of(value) if isinstance(value, str) else value
        except MarketError as error:
            raise ValueError(str(error)) from None

    @field_validator("exchange_ws_url", "exchange_rest_url")
    @classmethod
    def _check_url(cls, value: str | None, info: Any) -> str | None:
        if not value:
            return None
        schemes = ("ws", "wss") if info.field_name == "exchange_ws_url" else ("http", "https")
        url = urlsplit(value)
        if (
            url.scheme not in schemes
            or not _has_good_host(value)
            or url.query
            or url.fragment
            or url.username
        ):
            raise ValueError(
                f"must be an address such as {schemes[0]}://127.0.0.1:9443, without query or user"
            )
        if url.scheme in ("ws", "http") and not is_loopback(url.hostname or ""):
            raise ValueError(f"must be {schemes[1]}:// unless the host is this machine")
        return value.rstrip("/")

    @field_validator("alert_channels")
    @classmethod
    def _check_channels(cls, value: SecretStr) -> SecretStr:
        channels_of(value.get_secret_value())
        return value

    @field_validator("alert_telegram_url", "alert_discord_url")
    @classmethod
    def _check_alert_url(cls, value: str) -> str:
        """A token goes there: so in clear text to this machine only."""
        url = urlsplit(value)
        is_good = url.scheme in ("http", "https") and _has_good_host(value)
        if not is_good or url.query or url.fragment or url.username or url.path.strip("/"):
            raise ValueError("must be an address such as https://api.telegram.org, with no path")
        if url.scheme == "http" and not is_loopback(url.hostname or ""):
            raise ValueError("must be https:// unless the host is this machine")
        return value.rstrip("/")

    @field_validator("dashboard_public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        if not value:
            return None
        url = urlsplit(value)
        is_good = url.scheme in ("http", "https") and _has_good_host(value)
        # As browsers send it: a name of other letters comes as xn--..., and `*` would let in any host.
        is_good = is_good and re.fullmatch(r"[A-Za-z0-9.:_\[\]-]+", url.netloc) is not None
        if not is_good or url.query or url.fragment or url.path.strip("/"):
            raise ValueError(
                "must be an address such as https://candles.example.com, of ASCII letters, with no path"
            )
        return value.rstrip("/")

    @field_validator("kafka_bootstrap")
    @classmethod
    def _check_bootstrap(cls, value: str) -> str:
        servers = [server.strip() for server in value.split(",")]
        for server in servers:
            host, _, port = server.rpartition(":")
            if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65_535:
                raise ValueError("must be host:port, several separated by commas, ports 1 to 65535")
        return ",".join(servers)

    @field_validator("kafka_ssl_ca")
    @classmethod
    def _check_kafka_ca(cls, value: str | None) -> str | None:
        """The certificates themselves, whichever way they came: each client takes text, not each a file."""
        if not value:
            return None
        is_text = value.lstrip().startswith("-----BEGIN")
        text = value if is_text else _certificates_in(_expanded(Path(value)))
        _check_certificates(text, "the text" if is_text else "the file")
        return text

    @field_validator("postgres_sslrootcert")
    @classmethod
    def _check_root_certificates(cls, value: Path | None) -> Path | None:
        if value is None or value == Path():
            return None
        found = _expanded(value)
        _check_certificates(_certificates_in(found), "the file")
        return found

    @field_validator("postgres_url")
    @classmethod
    def _check_postgres_url(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        url = urlsplit(text)
        if url.scheme not in ("postgresql", "postgres") or not _has_good_host(text):
            raise ValueError("must be an address such as postgresql://user@127.0.0.1:5432/database")
        if not re.fullmatch(r"/[A-Za-z_][A-Za-z0-9_-]{0,40}", url.path):
            raise ValueError("must name a database of letters, digits, '_' and '-', 41 at most")
        if url.username is not None and not re.fullmatch(r"[a-z_][a-z0-9_]{0,40}", unquote(url.username)):
            raise ValueError("must name a user of small letters, digits and '_', 41 at most")
        return value

    @field_validator("window_seconds")
    @classmethod
    def _check_window(cls, value: int) -> int:
        if value not in WINDOW_SECONDS:
            raise ValueError(f"must be one of {', '.join(map(str, WINDOW_SECONDS))}: they divide a minute")
        return value

    @model_validator(mode="after")
    def _check_kafka_security(self) -> Self:
        """What belongs together is there, and nothing that would silently be left unused: above all no
        password beside a plain text connection.
        """
        protocol = self.kafka_security_protocol
        needs_user = protocol is KafkaProtocol.SASL_SSL
        for name in ("kafka_sasl_username", "kafka_sasl_password"):
            if bool(_plain(getattr(self, name))) is not needs_user:
                raise _NamedError(
                    name, None, f"must be {'set' if needs_user else 'unset'} with {_PROTOCOL}={protocol}"
                )
        if self.kafka_ssl_ca and protocol is KafkaProtocol.PLAINTEXT:
            raise _NamedError("kafka_ssl_ca", None, f"must be unset with {_PROTOCOL}={protocol}")
        security = KafkaSecurity(
            protocol,
            self.kafka_sasl_mechanism,
            self.kafka_sasl_username or "",
            _plain(self.kafka_sasl_password),
            self.kafka_ssl_ca or "",
        )
        # Frozen from here on; a plain text is only what came from outside.
        object.__setattr__(self, "kafka_bootstrap", KafkaAddress(self.kafka_bootstrap, security))
        return self

    @model_validator(mode="after")
    def _check_postgres_tls(self) -> Self:
        mode, certificates = self.postgres_sslmode, self.postgres_sslrootcert
        verifies = mode in (PostgresTls.VERIFY_CA, PostgresTls.VERIFY_FULL)
        if verifies is not (certificates is not None):
            needed = "must be set with" if verifies else "must be unset unless verify-ca or verify-full is"
            raise _NamedError(
                "postgres_sslrootcert", certificates, f"{needed} {PREFIX}POSTGRES_SSLMODE={mode or ''}"
            )
        return self

    @model_validator(mode="after")
    def _check_slide(self) -> Self:
        slide = self.slide_seconds
        if slide is not None and (slide < 1 or slide > self.window_seconds or self.window_seconds % slide):
            # Raised here, as the range depends on another setting; named as a field's error would be.
            raise _NamedError(
                "slide_seconds", slide, f"must divide CANDLEFLOW_WINDOW_SECONDS ({self.window_seconds})"
            )
        return self

    @model_validator(mode="after")
    def _check_metrics_port(self) -> Self:
        if self.metrics_port and self.metrics_port_of(PRODUCER) > 65_535:
            above = self.metrics_port_of(PRODUCER) - self.metrics_port
            raise _NamedError(
                "metrics_port",
                self.metrics_port,
                f"the producer of shard {self.shard} has the port {above} above it, which is at most 65,535",
            )
        return self

    @property
    def page_url(self) -> str:
        """Where a reader of an alert finds the page."""
        here = f"http://localhost:{self.dashboard_port}"
        return self.alert_page_url or self.dashboard_public_url or here

    @property
    def own_symbols(self) -> tuple[str, ...]:
        """Those of the symbols that fall to this producer's shard; there may be none."""
        return self.shard.among(self.symbols)

    @property
    def producer_name(self) -> str:
        """What this producer is called beside those of other shards: ``producer``, or ``producer-2-of-4``."""
        return self.shard.name_of(PRODUCER)

    def metrics_port_of(self, process: str) -> int:
        """The port of a process's metrics, where there are any. Producers on one machine have one each."""
        if process == PRODUCER and self.shard.number > 1:
            return self.metrics_port + max(METRICS_PORTS.values()) + self.shard.number - 1
        return self.metrics_port + METRICS_PORTS[process]

    @property
    def windows(self) -> Windows:
        """The finest candles' windows."""
        return Windows.of_seconds(self.window_seconds, self.slide_seconds)

    @property
    def venue(self) -> Venue:
        if self.exchange is Exchange.SIMULATOR:
            return Venue.SIMULATED
        if self.exchange is Exchange.BINANCE_US and self.exchange_ws_url is None:
            return Venue.US
        return Venue.MAIN

    @property
    def is_simulated(self) -> bool:
        return self.venue is Venue.SIMULATED

    @property
    def topic(self) -> str:
        """The topic of this venue's trades: ``trades``, or ``trades.simulated``."""
        return f"trades.{self.venue}" if self.venue else "trades"

    @property
    def rejected_topic(self) -> str:
        """``trades.rejected``, or ``trades.simulated.rejected``."""
        return f"{self.topic}.rejected"

    @property
    def gaps_topic(self) -> str:
        """``trades.gaps``, or ``trades.simulated.gaps``."""
        return f"{self.topic}.gaps"

    @property
    def venue_dir(self) -> Path:
        """Where this venue's Kafka and PostgreSQL keep their data."""
        return self.data_path / self.venue if self.venue else self.data_path

    @property
    def data_path(self) -> Path:
        return self._folder("data_dir")

    @property
    def run_dir(self) -> Path:
        """Where running processes say who and how they are, and the credentials file lies."""
        return self.data_path / "run"

    @property
    def cache_path(self) -> Path:
        """Its jars are on class paths, which have no way to write a colon in a name."""
        return self._folder("cache_dir", without=os.pathsep)

    def _folder(self, name: str, *, without: str = "") -> Path:
        try:
            return _named_folder(getattr(self, name), without)
        except ValueError as error:
            raise SettingError(f"{PREFIX}{name.upper()}={str(getattr(self, name))!r}: {error}") from None

    @cached_property
    def postgres(self) -> PostgresAddress:
        """The address without its secrets; the database's name carries the venue."""
        url = urlsplit(self.postgres_url.get_secret_value())
        suffix = f"_{self.venue}".replace("-", "_") if self.venue else ""
        return PostgresAddress(
            host=url.hostname or "127.0.0.1",
            port=url.port or 5432,
            database=url.path.lstrip("/") + suffix,
            owner=unquote(url.username) if url.username else "candleflow",
            parameters=self._with_tls(url.query),
        )

    def _with_tls(self, query: str) -> str:
        """The address's parameters, those of TLS as the settings have them where they have any."""
        if self.postgres_sslmode is None:
            return query
        tls = {"sslmode": str(self.postgres_sslmode)}
        if self.postgres_sslrootcert is not None:
            tls["sslrootcert"] = str(self.postgres_sslrootcert)
        return urlencode(dict(parse_qsl(query)) | tls)

    @property
    def owner_password(self) -> str | None:
        """The owner's password as set, or None: then ``store.credentials`` knows where else to look."""
        in_url = urlsplit(self.postgres_url.get_secret_value()).password
        if in_url is not None:
            return unquote(in_url)
        return self.postgres_password.get_secret_value() if self.postgres_password else None


class PostgresAddress:
    """Where PostgreSQL is, with no secret in it."""

    __slots__ = ("database", "host", "owner", "parameters", "port")

    def __init__(self, *, host: str, port: int, database: str, owner: str, parameters: str = "") -> None:
        self.host = host
        self.port = port
        self.database = database
        self.owner = owner
        self.parameters = parameters

    def __repr__(self) -> str:
        return f"postgresql://{self.owner}@{self.host}:{self.port}/{self.database}"


class _NamedError(ValueError):
    """A setting's error found while looking at several: carries what pydantic can't know."""

    def __init__(self, name: str, value: object, message: str) -> None:
        super().__init__(message)
        self.name = name
        self.value = value


def load(**overrides: Any) -> Settings:
    """The settings in force; ``overrides`` stand above the environment.

    Raises SettingError that names each wrong setting, its value unless it is a secret, and what is accepted.
    """
    try:
        return Settings(**{"_env_file_encoding": _env_encoding(), **overrides})
    except ValidationError as error:
        raise SettingError("\n".join(_explain(one, overrides) for one in error.errors())) from None


def unknown_names() -> list[str]:
    """A sentence for each ``CANDLEFLOW_*`` variable that is no setting, with the nearest name that is one."""
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    given = [name for name in (*os.environ, *_in_env_file()) if name.upper().startswith(PREFIX)]
    sentences = []
    for name in sorted(set(given)):
        if name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            sentences.append(f"{name} is not a setting{hint}")
    return sentences


def describe(settings: Settings) -> list[tuple[str, str, str]]:
    """Name, value and meaning of each setting in force, secrets hidden."""
    rows = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if name == "postgres_url":
            shown = repr(settings.postgres)
        elif isinstance(value, SecretStr):
            shown = "(hidden)" if value.get_secret_value() else ""
        elif isinstance(value, tuple):
            shown = ",".join(value)
        elif name == "kafka_ssl_ca" and value:
            shown = f"({value.count('-----BEGIN CERTIFICATE-----')} certificates)"
        else:
            shown = "" if value is None else str(value)
        rows.append((PREFIX + name.upper(), shown, field.description or ""))
    return rows


def _in_env_file() -> dict[str, str | None]:
    return dotenv_values(ENV_FILE, encoding=_env_encoding())


def _env_encoding() -> str:
    """What ``.env`` is written in: UTF-8, or UTF-16 with its mark, as PowerShell's ``>`` writes it."""
    file = Path(ENV_FILE)
    try:
        content = file.read_bytes() if file.is_file() else b""
    except OSError as error:
        raise SettingError(f"{file.absolute()} can't be read: {error.strerror}") from None
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_wide else "utf-8-sig"
    try:
        is_text = "\0" not in content.decode(encoding)
    except UnicodeDecodeError:
        is_text = False
    if not is_text:
        raise SettingError(f"{file.absolute()} is neither UTF-8 nor UTF-16 text: save it as UTF-8")
    return encoding


def _explain(error: Any, overrides: dict[str, Any]) -> str:
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, _NamedError):
        shown = "" if cause.value is None else f"={str(cause.value)!r}"
        return f"{PREFIX}{cause.name.upper()}{shown}: {cause}"
    name = str(error["loc"][0]) if error["loc"] else "settings"
    variable = PREFIX + name.upper()
    message = str(cause) if cause else error["msg"][:1].lower() + error["msg"][1:]
    field = Settings.model_fields.get(name)
    if field is not None and "SecretStr" in str(field.annotation):
        return f"{variable}: {message}"
    if name == "kafka_ssl_ca":  # whatever was put there, it may be a key
        return f"{variable}: {message}"
    value = overrides.get(name, os.environ.get(variable, _in_env_file().get(variable, "")))
    return f"{variable}={str(value)[:200]!r}: {message}{_accepted(field)}"


def _accepted(field: Any) -> str:
    """The range of a numeric setting, which pydantic's message gives only one end of."""
    bounds = [
        str(limit) for limit in getattr(field, "metadata", ()) if hasattr(limit, "ge") or hasattr(limit, "le")
    ]
    if not bounds:
        return ""
    lower = next((limit.ge for limit in field.metadata if hasattr(limit, "ge")), None)
    upper = next((limit.le for limit in field.metadata if hasattr(limit, "le")), None)
    lower_words = f"from {lower:,}" if lower is not None else "above 0"
    return f" (accepted: {lower_words} to {upper:,})"


def channels_of(text: str) -> dict[str, str]:
    """The channels of alerts: names and addresses. A comma ends an address where ``name=scheme://`` follows.

    Raises ValueError, without the text, as that is a secret.
    """
    found: dict[str, str] = {}
    for part in re.split(r",(?=\s*[A-Za-z0-9_-]+=[a-z0-9]+://)", text) if text.strip() else ():
        name, _, address = part.strip().partition("=")
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,30}", name) or not re.match(r"[a-z0-9]+://\S+$", address):
            raise ValueError(
                "must be such as phone=tgram://token/chat, several by commas; names of small letters"
            )
        if name in found:
            raise ValueError(f"must name each channel once, and names {name} twice")
        found[name] = address
    return found


def _has_good_host(url: str) -> bool:
    """Whether the address names a host, and a port in range if any: urlsplit finds out only when asked."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _plain(value: SecretStr | str | None) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value or ""


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise ValueError("there is no home folder here: set HOME, or name a full path") from None


def _named_folder(given: Path, without: str) -> Path:
    """The full path. Raises ValueError where not every program that is given it could take it."""
    path = _expanded(given)
    shown = str(path)
    if any(ord(one) < 32 or 0xD800 <= ord(one) < 0xE000 for one in shown):
        raise ValueError(f"the path {shown!r} has a control character, or is no UTF-8")
    if without and without in shown:
        raise ValueError(f"the path {shown!r} must have no {without!r}: name another folder")
    return path


def _certificates_in(file: Path) -> str:
    try:
        return file.read_text("ascii")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no PEM text"
        raise ValueError(f"can't be read: {reason}") from None


def _check_certificates(text: str, what: str) -> None:
    """Raise ValueError where there is no certificate in the text that can be read."""
    if "PRIVATE KEY-----" in text:
        raise ValueError(f"must be certificates only, and {what} has a private key")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise ValueError(f"must be PEM certificates, and {what} has none that can be read") from None
