"""What processes tell of themselves: logs and metrics."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from candleflow.settings.section import Section

METRICS_PORTS: Final = {
    "producer": 0, "processor": 1, "audit": 2, "alerts": 3, "forecaster": 4, "simulator": 5,
}  # fmt: skip
"""How far each process's port is above ``CANDLEFLOW_METRICS_PORT``. The page has Streamlit's own. The
producers of the second shard and the next ones have those above."""


class LogSettings(Section):
    """``settings.log``."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="How much is logged")
    format: Literal["text", "json"] = Field(
        "text", description="json: each line that we log is a JSON object, for log collectors"
    )


class MetricsSettings(Section):
    """``settings.metrics``."""

    port: int = Field(
        0,
        ge=0,
        le=65_535 - max(METRICS_PORTS.values()),
        description="Metrics and health: the producer's port, and the next ones are the others'; 0: none",
    )
    host: str = Field(
        "127.0.0.1",
        pattern=r"^[A-Za-z0-9.:-]{1,253}$",
        description="The address that metrics and health are served at; there is no log-in",
    )
