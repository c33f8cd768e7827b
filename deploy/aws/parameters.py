"""The parameters of the deployment, with types, defaults and meanings.

They come from CDK's context: ``make aws-deploy ARGUMENTS="-c size=large -c symbols=BTCUSDT,ETHUSDT"``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from candleflow.market.symbol import SYMBOL_PATTERN

ZONES: Final = 3
"""Availability zones, with one broker in each. If one is lost, the other two still acknowledge."""


class ParameterError(ValueError):
    """A parameter is wrong or missing. The message names it, its value, and what is accepted."""


@dataclass(frozen=True, slots=True)
class Size:
    """What differs between the sizes. Disks in GB, memory in MB, CPU in units of 1/1,024 vCPU."""

    broker_type: str
    broker_disk_gb: int
    broker_heap: str
    database_type: str
    database_disk_gb: int
    database_disk_most_gb: int
    is_multi_zone: bool
    spark_master_type: str
    spark_core_type: str
    spark_cores: int
    executors: int
    executor_cores: int
    executor_memory: str
    driver_memory: str
    nat_gateways: int
    dashboards: int
    partitions: int
    retention_hours: int
    backup_days: int
    fargate: Mapping[str, tuple[int, int]]
    """CPU units and memory of each service's task."""


_SMALL_TASKS: Final = {
    "producer": (512, 1_024),
    "dashboard": (512, 1_024),
    "alerts": (256, 512),
    "forecaster": (256, 512),
    "audit": (256, 1_024),
    "health": (256, 512),
}
_LARGE_TASKS: Final = {
    "producer": (2_048, 4_096),
    "dashboard": (2_048, 4_096),
    "alerts": (512, 1_024),
    "forecaster": (1_024, 2_048),
    "audit": (1_024, 2_048),
    "health": (256, 512),
}

SIZES: Final[Mapping[str, Size]] = {
    # A few symbols, 2,000 trades a second: twice the machine on which that rate was measured.
    "small": Size(
        broker_type="t4g.medium",
        broker_disk_gb=100,
        broker_heap="1g",
        database_type="t4g.medium",
        database_disk_gb=100,
        database_disk_most_gb=500,
        is_multi_zone=False,
        spark_master_type="m7g.xlarge",
        spark_core_type="m7g.xlarge",
        spark_cores=1,
        executors=1,
        executor_cores=2,
        executor_memory="4g",
        driver_memory="2g",
        nat_gateways=1,
        dashboards=1,
        partitions=3,
        retention_hours=168,
        backup_days=7,
        fargate=_SMALL_TASKS,
    ),
    # Every symbol of one exchange; docs/explanation/scaling.md has the arithmetic.
    "large": Size(
        broker_type="m7g.xlarge",
        broker_disk_gb=1_000,
        broker_heap="4g",
        database_type="r7g.xlarge",
        database_disk_gb=1_000,
        database_disk_most_gb=8_000,
        is_multi_zone=True,
        spark_master_type="m7g.xlarge",
        spark_core_type="m7g.2xlarge",
        spark_cores=2,
        executors=3,
        executor_cores=4,
        executor_memory="8g",
        driver_memory="4g",
        nat_gateways=3,
        dashboards=2,
        partitions=12,
        retention_hours=168,
        backup_days=14,
        fargate=_LARGE_TASKS,
    ),
}


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a deployment. Those without a default are required."""

    image: str
    """The image's address in ECR, with a tag or a digest. Set by `make aws-deploy`, which builds it."""
    certificate_arn: str
    """The page's certificate in AWS Certificate Manager, in the same region."""
    domain: str
    """The page's host name, such as candles.example.org. Point its DNS record to LoadBalancerOutput."""
    broker_ami: str
    """The brokers' machine image: Amazon Linux 2023 for arm64. `make aws-deploy` takes the newest one first
    and keeps it after that, because another image would replace all brokers at once."""
    size: str = "small"
    """small or large."""
    symbols: str = "BTCUSDT"
    """The symbols to follow, separated by commas."""
    exchange: str = "binance"
    """binance, binance-vision or binance-us. Binance's main host refuses some countries, such as the United
    States."""
    alarm_email: str = ""
    """Where alarms are sent; AWS first asks this address to confirm. Without it, no alarm is sent."""
    visitors: str = "0.0.0.0/0"
    """The range of IP addresses that may reach the page's log-in."""
    log_days: int = 30
    """How long logs are kept: 1, 3, 5, 7, 14, 30, 60 or 90 days."""
    multi_zone_database: bool | None = None
    """PostgreSQL with a standby in another zone; by default only in the size large."""
    keep_data: bool = True
    """Whether databases, disks, secrets and records outlive the stack."""

    @property
    def sizes(self) -> Size:
        return SIZES[self.size]

    @property
    def is_multi_zone(self) -> bool:
        given = self.multi_zone_database
        return self.sizes.is_multi_zone if given is None else given


LOG_DAYS: Final = (1, 3, 5, 7, 14, 30, 60, 90)

_PATTERNS: Final[Mapping[str, tuple[str, str]]] = {
    "image": (
        r"[0-9]{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com/[a-z0-9/_.-]+(:[\w.-]{1,128}|@sha256:[0-9a-f]{64})",
        "an address in ECR with a tag or digest",
    ),
    "certificate_arn": (r"arn:aws[a-z-]*:acm:[a-z0-9-]+:[0-9]{12}:certificate/[\w-]+", "a certificate's ARN"),
    "domain": (
        r"(?=.{4,253}\Z)([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}",
        "a name such as candles.example.org",
    ),
    "broker_ami": (r"ami-[0-9a-f]{8,17}", "such as ami-0123456789abcdef0"),
    "size": ("|".join(SIZES), " or ".join(SIZES)),
    "symbols": (f"{SYMBOL_PATTERN}(,{SYMBOL_PATTERN})*", "names such as BTCUSDT, by commas"),
    "exchange": (r"binance(-vision|-us)?", "binance, binance-vision or binance-us"),
    "alarm_email": (r"|[^@\s]+@[^@\s]+\.[a-z]+", "an address, or nothing"),
    "visitors": (r"[0-9.]{7,15}/[0-9]{1,2}", "a range such as 203.0.113.0/24"),
}


def parameters_of(context: Callable[[str], Any]) -> Parameters:
    """Read the parameters from CDK's context, with defaults for the rest. Raises ParameterError."""
    given = {}
    for one in fields(Parameters):
        value = context(one.name)
        if value is not None:
            given[one.name] = _typed(one.name, str(value))
    missing = sorted({"image", "certificate_arn", "domain", "broker_ami"} - given.keys())
    if missing:
        raise ParameterError(f"parameters are missing: {', '.join(missing)} (-c {missing[0]}=...)")
    return Parameters(**given)


def _typed(name: str, text: str) -> Any:
    if name in ("multi_zone_database", "keep_data"):
        if text.lower() not in ("true", "false"):
            raise ParameterError(f"{name}={text!r}: must be true or false")
        return text.lower() == "true"
    if name == "log_days":
        if text not in map(str, LOG_DAYS):
            raise ParameterError(f"{name}={text!r}: must be one of {', '.join(map(str, LOG_DAYS))}")
        return int(text)
    pattern, words = _PATTERNS[name]
    if not re.fullmatch(pattern, text):
        raise ParameterError(f"{name}={text!r}: must be {words}")
    return text
