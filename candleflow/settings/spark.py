"""Settings of Spark: where it runs, and the size of its batches."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from candleflow.settings.checks import MEMORY
from candleflow.settings.section import Section

SPARK_SUBMIT: Final = "spark-submit"
"""Value of the master if spark-submit started this program: Spark then already has its configuration."""


class SparkSettings(Section):
    trigger_milliseconds: int = Field(
        20,
        ge=0,
        le=60_000,
        alias="trigger_milliseconds",
        description="Minimum time between the starts of two batches. Raise it to save CPU, with later "
        "candles; 0: no pause",
    )
    max_offsets_per_trigger: int = Field(
        500_000,
        ge=1_000,
        le=5_000_000,
        alias="max_offsets_per_trigger",
        description="Maximum records in a batch while Spark reads a backlog. Lower it if the driver runs "
        "out of memory",
    )
    master: str = Field(
        "local[*]",
        min_length=1,
        description="Spark's master, such as spark://host:7077 for a cluster. spark-submit: the master of "
        "the command that started the processor",
    )
    memory: str = Field(
        "1g",
        pattern=MEMORY,
        description="Heap of Spark's driver, such as 900m or 2g. Raise it for many symbols",
    )
