"""The local Kafka and PostgreSQL that the settings describe, and the ports that ``up`` needs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from candleflow.errors import SettingError, StackError
from candleflow.settings import KafkaProtocol, Settings
from candleflow.stack import process
from candleflow.stack.class_archive import kafka_archive
from candleflow.stack.kafka import KafkaServer
from candleflow.stack.postgres import PostgresServer

_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class NeededPort:
    """A port that one of our processes will listen on, and the setting that changes it."""

    what: str
    setting: str
    port: int
    host: str = process.LOOPBACK


def server_ports(settings: Settings) -> list[NeededPort]:
    """Return the ports in CANDLEFLOW_KAFKA_BOOTSTRAP and CANDLEFLOW_POSTGRES_URL.

    Raises SettingError if one of them isn't a single address of this machine.
    """
    host, _, port = settings.kafka.bootstrap.rpartition(":")
    if "," in settings.kafka.bootstrap or host.strip("[]") not in _LOOPBACK_NAMES:
        raise SettingError(
            f"CANDLEFLOW_KAFKA_BOOTSTRAP={settings.kafka.bootstrap!r}: this command starts Kafka on this "
            "machine, so it must be one address such as 127.0.0.1:9092"
        )
    if settings.kafka.security_protocol is not KafkaProtocol.PLAINTEXT:
        raise SettingError(
            f"CANDLEFLOW_KAFKA_SECURITY_PROTOCOL={str(settings.kafka.security_protocol)!r}: the Kafka "
            "that this command starts accepts only plain text, from this machine; use PLAINTEXT"
        )
    address = settings.database
    if address.host not in _LOOPBACK_NAMES:
        raise SettingError(
            f"CANDLEFLOW_POSTGRES_URL names the host {address.host}: this command starts PostgreSQL on this "
            "machine, so the address must be one such as 127.0.0.1:5432"
        )
    return [
        NeededPort("Kafka", "CANDLEFLOW_KAFKA_BOOTSTRAP", int(port), _ip(host.strip("[]"))),
        NeededPort("PostgreSQL", "CANDLEFLOW_POSTGRES_URL", address.port, _ip(address.host)),
    ]


def dashboard_port(settings: Settings) -> NeededPort:
    return NeededPort("the page", "CANDLEFLOW_DASHBOARD_PORT", settings.dashboard.port)


def simulator_port(settings: Settings) -> NeededPort:
    return NeededPort("the simulator", "CANDLEFLOW_SIMULATOR_PORT", settings.simulator.port)


def check_ports(needed: Sequence[NeededPort]) -> None:
    """Raise StackError if a port is taken. It names the port, its process and the setting to change."""
    problems = []
    seen: dict[int, NeededPort] = {}
    for one in needed:
        if one.port in seen:
            other = seen[one.port]
            problems.append(
                f"{one.what} and {other.what} can't share port {one.port}: "
                f"change {one.setting} or {other.setting}"
            )
        elif not process.is_free(one.port, one.host):
            problems.append(
                f"port {one.port} is taken{_holder_of(one.port)}: "
                f"set {one.setting} to move {one.what} to another"
            )
        seen[one.port] = one
    if problems:
        raise StackError("\n".join(problems))


def kafka_server(settings: Settings, java_home: Path, jars: Sequence[Path]) -> KafkaServer:
    """Return the Kafka server of these settings; its folder is in ``venue_dir``."""
    port = server_ports(settings)[0]
    folder = settings.venue_dir / "kafka"
    archive = kafka_archive(settings.stack.cache_path, java_home, jars)
    return KafkaServer(
        folder, port.port, java_home, jars, settings.kafka.memory, host=port.host, archive=archive
    )


def postgres_server(settings: Settings) -> PostgresServer:
    """Return the PostgreSQL server of these settings; its folder is in ``venue_dir``."""
    port = server_ports(settings)[1]
    credentials = settings.stack.run_dir / "credentials.json"
    return PostgresServer(settings.venue_dir / "postgres", port.port, credentials=credentials, host=port.host)


def _ip(host: str) -> str:
    return process.LOOPBACK if host == "localhost" else host


def _holder_of(port: int) -> str:
    """Return text such as `` by postgres (pid 812)``, or "" if this user may not see the process."""
    with contextlib.suppress(psutil.Error, OSError):
        for one in psutil.net_connections("tcp"):
            if one.laddr and one.laddr.port == port and one.status == psutil.CONN_LISTEN and one.pid:
                return f" by {psutil.Process(one.pid).name()} (pid {one.pid})"
    return ""
