"""Rows that the driver has, as a DataFrame."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name that every Spark programmer knows

from candleflow.engine.java_functions import texts_of

_ROWS_PER_TEXT: Final = 1_000


def rows_of(spark: SparkSession, rows: Iterable[Mapping[str, Any]], columns: str) -> DataFrame:
    """``rows`` with ``columns``, in SQL's words; what a row lacks is null.

    They go to Spark's JVM as JSON, in some texts: as literals they would be in each print of the plan.
    pyspark's own ``createDataFrame`` starts a Python worker on each executor to read them; the executors of
    a cluster need neither Python nor Candleflow.
    """
    left = iter(rows)
    texts = []
    while some := list(islice(left, _ROWS_PER_TEXT)):
        texts.append(json.dumps(some))
    return texts_of(spark, texts).select(F.inline(F.from_json("value", f"array<struct<{columns}>>")))
