"""Every setting, with its default, unit and range. No other module reads settings from the environment.

A setting comes from the environment (``CANDLEFLOW_SYMBOLS=...``), else from a ``.env`` file in the working
folder, else from the default in its section: ``CANDLEFLOW_KAFKA_BOOTSTRAP`` is ``settings.kafka.bootstrap``.
``python -m candleflow settings`` prints those in force. A wrong setting raises SettingError before the
process opens any file or connection.
"""

from __future__ import annotations

import codecs
import difflib
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from candleflow.errors import MarketError, SettingError
from candleflow.market.shard import ALL, PRODUCER, Shard
from candleflow.market.symbol import SYMBOL_LENGTH, is_symbol, upper
from candleflow.market.window import WINDOW_SECONDS, Windows
from candleflow.settings.alert import AlertSettings, channels_of
from candleflow.settings.dashboard import DashboardSettings
from candleflow.settings.exchange import EXCHANGE_URLS, Exchange, ExchangeSettings, Venue
from candleflow.settings.kafka import (
    KafkaAddress,
    KafkaProtocol,
    KafkaSecurity,
    KafkaSettings,
    ScramMechanism,
)
from candleflow.settings.postgres import PostgresAddress, PostgresSettings, PostgresTls
from candleflow.settings.section import PREFIX, NamedError, Section
from candleflow.settings.simulator import SimulatorSettings
from candleflow.settings.spark import SPARK_SUBMIT, SparkSettings
from candleflow.settings.stack import StackSettings
from candleflow.settings.telemetry import METRICS_PORTS, LogSettings, MetricsSettings

__all__ = [
    "EXCHANGE_URLS",
    "FIELDS",
    "METRICS_PORTS",
    "PREFIX",
    "SPARK_SUBMIT",
    "Exchange",
    "KafkaAddress",
    "KafkaProtocol",
    "KafkaSecurity",
    "PostgresAddress",
    "PostgresTls",
    "ScramMechanism",
    "Settings",
    "Venue",
    "channels_of",
    "describe",
    "load",
    "unknown_names",
]

ENV_FILE: Final = ".env"


class Settings(Section):
    """The settings in force; ``load()`` makes one.

    Fields here are shared by several processes. Values that depend on more than one section are properties.
    """

    symbols: tuple[str, ...] = Field(("BTCUSDT",), description="Symbols to follow, separated by commas")
    shard: Shard = Field(
        ALL,
        description="Share of the symbols that this producer follows: 2/4 is the second of four shards. Set "
        "it to split the symbols among several producers",
    )
    window_seconds: int = Field(
        5,
        description="Length of the finest candles in seconds; must divide a minute. Longer ones are built "
        "from it",
    )
    slide_seconds: int | None = Field(
        None,
        description="Start a window every this many seconds. Unset: windows don't overlap (tumbling). Set a "
        "divisor of the window length for sliding windows",
    )
    max_future_seconds: float = Field(
        60,
        ge=1,
        le=86_400,
        description="Reject trades dated more than this many seconds ahead of this machine's clock. Raise "
        "it if that clock may be slow",
    )
    forecast_days: float = Field(
        7,
        gt=0,
        le=366,
        description="Days to keep forecasts. Raise it to judge forecasts over a longer time; the table "
        "grows with it",
    )
    exchange: ExchangeSettings
    kafka: KafkaSettings
    postgres: PostgresSettings
    spark: SparkSettings
    dashboard: DashboardSettings
    alert: AlertSettings
    stack: StackSettings
    simulator: SimulatorSettings
    log: LogSettings
    metrics: MetricsSettings

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

    @field_validator("window_seconds")
    @classmethod
    def _check_window(cls, value: int) -> int:
        if value not in WINDOW_SECONDS:
            raise ValueError(f"must be one of {', '.join(map(str, WINDOW_SECONDS))}, which divide a minute")
        return value

    @model_validator(mode="after")
    def _check_slide(self) -> Self:
        slide = self.slide_seconds
        if slide is not None and (slide < 1 or slide > self.window_seconds or self.window_seconds % slide):
            raise NamedError(
                "slide_seconds", slide, f"must divide CANDLEFLOW_WINDOW_SECONDS ({self.window_seconds})"
            )
        return self

    @model_validator(mode="after")
    def _check_metrics_port(self) -> Self:
        port = self.metrics_port_of(PRODUCER)
        if self.metrics.port and port > 65_535:
            raise NamedError(
                "metrics_port",
                self.metrics.port,
                f"too high: the producer of shard {self.shard} needs the port {port - self.metrics.port} "
                "above it, and ports end at 65,535",
            )
        return self

    @property
    def page_url(self) -> str:
        """The dashboard's address, as alerts link to it."""
        here = f"http://localhost:{self.dashboard.port}"
        return self.alert.page_url or self.dashboard.public_url or here

    @property
    def own_symbols(self) -> tuple[str, ...]:
        """The symbols of this producer's shard; may be empty."""
        return self.shard.among(self.symbols)

    @property
    def producer_name(self) -> str:
        """This producer's process name: ``producer``, or ``producer-2-of-4`` for one of several shards."""
        return self.shard.name_of(PRODUCER)

    def metrics_port_of(self, process: str) -> int:
        """Return the port of a process's metrics, if metrics are on. Each shard's producer has its own."""
        if process == PRODUCER and self.shard.number > 1:
            return self.metrics.port + max(METRICS_PORTS.values()) + self.shard.number - 1
        return self.metrics.port + METRICS_PORTS[process]

    @property
    def windows(self) -> Windows:
        """The finest candles' windows."""
        return Windows.of_seconds(self.window_seconds, self.slide_seconds)

    @property
    def topic(self) -> str:
        """The topic of this venue's trades: ``trades``, or ``trades.simulated``."""
        return f"trades.{self.exchange.venue}" if self.exchange.venue else "trades"

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
        return self.stack.data_path / self.exchange.venue

    @cached_property
    def database(self) -> PostgresAddress:
        """This venue's database, without passwords."""
        return self.postgres.address_at(self.exchange.venue)


def _fields() -> Iterator[tuple[str, tuple[str, ...], FieldInfo]]:
    """Yield each setting: its flat name, the attributes that lead to it from Settings, and its field."""
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            for inner, one in section.model_fields.items():
                yield one.alias or f"{name}_{inner}", (name, inner), one
        else:
            yield name, (name,), field


FIELDS: Final = {name: field for name, _, field in _fields()}
"""Every setting by its flat name: the variable's name in lower case, without the prefix."""
_PATHS: Final = {name: path for name, path, _ in _fields()}


def load(**overrides: Any) -> Settings:
    """Read the settings; ``overrides``, by flat names, take precedence over the environment.

    Raises SettingError that names each wrong setting, its value unless it is a secret, and what is accepted.
    """
    given = {
        variable.upper().removeprefix(PREFIX).lower(): value
        for variable, value in (_in_env_file() | os.environ).items()
        if variable.upper().startswith(PREFIX) and value is not None
    } | overrides
    tree: dict[str, Any] = {path[0]: {} for path in _PATHS.values() if len(path) > 1}
    for name in given.keys() & FIELDS.keys():
        *section, last = _PATHS[name]
        (tree[section[0]] if section else tree)[last] = given[name]
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise SettingError("\n".join(_explain(one, given) for one in error.errors())) from None


def unknown_names() -> list[str]:
    """Return a sentence for each ``CANDLEFLOW_*`` variable that is no setting, with the nearest name."""
    known = [PREFIX + name.upper() for name in FIELDS]
    given = [name for name in (*os.environ, *_in_env_file()) if name.upper().startswith(PREFIX)]
    sentences = []
    for name in sorted(set(given)):
        if name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            sentences.append(f"{name} is not a setting{hint}")
    return sentences


def describe(settings: Settings) -> list[tuple[str, str, str]]:
    """Return name, value and meaning of each setting in force, secrets hidden."""
    return [
        (PREFIX + name.upper(), _shown(name, settings), field.description or "")
        for name, field in FIELDS.items()
    ]


def _shown(name: str, settings: Settings) -> str:
    value: Any = settings
    for part in _PATHS[name]:
        value = getattr(value, part)
    if name == "postgres_url":
        return repr(settings.database)
    if isinstance(value, SecretStr):
        return "(hidden)" if value.get_secret_value() else ""
    if isinstance(value, tuple):
        return ",".join(value)
    if name == "kafka_ssl_ca" and value:
        return f"({value.count('-----BEGIN CERTIFICATE-----')} certificates)"
    return "" if value is None else str(value)


def _in_env_file() -> dict[str, str | None]:
    return dotenv_values(ENV_FILE, encoding=_env_encoding())


def _env_encoding() -> str:
    """Return the encoding of ``.env``: UTF-8, or UTF-16 with a byte order mark, as PowerShell writes it."""
    file = Path(ENV_FILE)
    try:
        content = file.read_bytes() if file.is_file() else b""
    except OSError as error:
        raise SettingError(
            f"{file.absolute()} can't be read: {error.strerror}; check its permissions"
        ) from None
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_wide else "utf-8-sig"
    try:
        is_text = "\0" not in content.decode(encoding)
    except UnicodeDecodeError:
        is_text = False
    if not is_text:
        raise SettingError(f"{file.absolute()} is neither UTF-8 nor UTF-16 text: save it as UTF-8")
    return encoding


def _explain(error: Any, given: Mapping[str, Any]) -> str:
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, NamedError):
        shown = "" if cause.value is None else f"={str(cause.value)!r}"
        return f"{PREFIX}{cause.name.upper()}{shown}: {cause}"
    name = next(one for one, path in _PATHS.items() if error["loc"][: len(path)] == path)
    variable, field = PREFIX + name.upper(), FIELDS[name]
    message = str(cause) if cause else error["msg"][:1].lower() + error["msg"][1:]
    if "SecretStr" in str(field.annotation) or name == "kafka_ssl_ca":  # may hold a private key by mistake
        return f"{variable}: {message}"
    return f"{variable}={str(given.get(name, ''))[:200]!r}: {message}{_accepted(field)}"


def _accepted(field: FieldInfo) -> str:
    """Return the range of a numeric setting; pydantic's message names only one of its ends."""
    lower = next((limit.ge for limit in field.metadata if hasattr(limit, "ge")), None)
    upper = next((limit.le for limit in field.metadata if hasattr(limit, "le")), None)
    if upper is None:
        return ""
    lower_words = f"from {lower:,}" if lower is not None else "above 0"
    return f" (accepted: {lower_words} to {upper:,})"
