"""Settings of logs and metrics."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from candleflow.settings.section import Section

METRICS_PORTS: Final = {
    "producer": 0, "processor": 1, "audit": 2, "alerts": 3, "forecaster": 4, "simulator": 5,
}  # fmt: skip
"""Offset of each process's port from ``CANDLEFLOW_METRICS_PORT``. The producers of the second and later
shards use the ports after these. The dashboard has only Streamlit's own health page."""


class LogSettings(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Lowest level that is logged. DEBUG also shows tracebacks of expected errors"
    )
    format: Literal["text", "json"] = Field(
        "text", description="Format of log lines. Use json for log collectors: one JSON object per line"
    )


class MetricsSettings(Section):
    port: int = Field(
        0,
        ge=0,
        le=65_535 - max(METRICS_PORTS.values()),
        description="Port of the producer's metrics and health pages; the other processes use the next "
        "ones. Set it to monitor with Prometheus; 0: off",
    )
    host: str = Field(
        "127.0.0.1",
        pattern=r"^[A-Za-z0-9.:-]{1,253}$",
        description="Address to serve metrics and health on. Change it to reach them from other machines; "
        "there is no login",
    )
