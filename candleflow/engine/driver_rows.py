"""Make a DataFrame of rows that are on the driver."""

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
    """Return ``rows`` as a DataFrame with ``columns``, a SQL schema; fields that a row lacks are null.

    The rows go to Spark's JVM as JSON texts. As literals they would appear in every printout of the plan.
    pyspark's own ``createDataFrame`` would start a Python worker on each executor, and the executors of a
    cluster have neither Python nor Candleflow.
    """
    left = iter(rows)
    texts = []
    while some := list(islice(left, _ROWS_PER_TEXT)):
        texts.append(json.dumps(some))
    return texts_of(spark, texts).select(F.inline(F.from_json("value", f"array<struct<{columns}>>")))
