"""docker-compose.yml and the settings: each one reaches the containers, or is named here with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from pydantic import SecretStr

from candleflow.settings import FIELDS, PREFIX

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"] == "candleflow")

NOT_FROM_ENV: Final = {
    # The file's own Kafka and PostgreSQL have no TLS: they are reached in the compose network only.
    "kafka_bootstrap": "the file's Kafka",
    "kafka_security_protocol": "the file's Kafka",
    "kafka_sasl_mechanism": "the file's Kafka",
    "kafka_sasl_username": "the file's Kafka",
    "kafka_sasl_password": "the file's Kafka",
    "kafka_ssl_ca": "the file's Kafka",
    "kafka_replication": "one broker",
    "postgres_url": "the file's PostgreSQL",
    "postgres_sslmode": "the file's PostgreSQL",
    "postgres_sslrootcert": "the file's PostgreSQL",
    "shard": "the file has one producer",
    "spark_master": "Spark runs in the processor's container",
    "data_dir": "the image's volume",
    "cache_dir": "the image's folder",
    "metrics_port": "not published, and prometheus.yml names it",
    "metrics_host": "not published",
    "simulator_host": "the file's simulator",
    "simulator_port": "not published",
}
"""Settings that .env does not change in a container, with the reason."""

ELSEWHERE: Final = {"kafka_memory": "kafka", "maven_url": "processor"}
"""Settings that another part of the file uses: Kafka's options, and the build."""

SECRETS: Final = {
    "processor": {
        f"postgres_{role}password"
        for role in ("", "writer_", "reader_", "auditor_", "forecaster_", "alerter_", "editor_")
    },
    "dashboard": {"postgres_reader_password", "postgres_editor_password", "alert_channels"},
    "alerts": {"postgres_alerter_password", "alert_channels"},
    "forecaster": {"postgres_forecaster_password"},
    "audit": {"postgres_auditor_password", "postgres_reader_password"},
}
"""The secrets of each service. The processor creates all roles; the others have those that they log in as."""


def is_secret(name: str) -> bool:
    return SecretStr.__name__ in str(FIELDS[name].annotation)


def passed_on(service: str) -> set[str]:
    """Return the settings that the service takes from .env."""
    return {
        variable.removeprefix(PREFIX).lower()
        for variable, value in SERVICES[service]["environment"].items()
        if variable.startswith(PREFIX) and (value is None or value.startswith("${"))
    }


@pytest.mark.parametrize("name", FIELDS)
def test_a_setting_reaches_the_containers_or_there_is_a_reason(name: str) -> None:
    given = {service for service in OURS if name in passed_on(service)}
    if name in NOT_FROM_ENV:
        assert not given
    elif name in ELSEWHERE:
        assert f"${{{PREFIX}{name.upper()}:-" in str(SERVICES[ELSEWHERE[name]])
    elif is_secret(name):
        assert given == {service for service, secrets in SECRETS.items() if name in secrets}
    elif name in {"simulator_rate", "simulator_seed"}:
        assert given == {"simulator"}
    elif name == "dashboard_port":  # published at that port; the alerts' links have it
        assert given == {*OURS} - {"dashboard"}
        assert SERVICES["dashboard"]["ports"] == ["127.0.0.1:${CANDLEFLOW_DASHBOARD_PORT:-8501}:8501"]
    else:
        assert given == {*OURS}


def test_only_settings_are_named() -> None:
    assert NOT_FROM_ENV.keys() | ELSEWHERE.keys() | set().union(*SECRETS.values()) <= FIELDS.keys()
