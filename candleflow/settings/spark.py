"""Where Spark runs, and how much it takes at once."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from candleflow.settings.checks import MEMORY
from candleflow.settings.section import Section

SPARK_SUBMIT: Final = "spark-submit"
"""The master's place is taken by spark-submit: it started this program, and has told Spark all of that."""


class SparkSettings(Section):
    """``settings.spark``."""

    trigger_milliseconds: int = Field(
        20,
        ge=0,
        le=60_000,
        alias="trigger_milliseconds",
        description="Spark begins a batch at most this often; 0: as soon as it can",
    )
    max_offsets_per_trigger: int = Field(
        500_000,
        ge=1_000,
        le=5_000_000,
        alias="max_offsets_per_trigger",
        description="Records in a batch at most, while a backlog is read",
    )
    master: str = Field(
        "local[*]",
        min_length=1,
        description="Spark's master; spark-submit: that of the command which started us",
    )
    memory: str = Field("1g", pattern=MEMORY, description="The heap of Spark's driver, such as 900m or 2g")
