"""The one function of Spark's that is ours and not made of its own: ``CutTrade.java`` beside this file.

It is compiled when a session comes up, by Janino, with which Spark compiles the code that it generates: so it
needs no compiler, no build and no jar that could be another than its source.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Final

from pyspark.sql import SparkSession
from pyspark.sql.types import BooleanType, LongType, StringType, StructField, StructType

CUT_TRADE: Final = "cut_trade"
"""A record (binary) into its fields, a struct of ``CUT_FIELDS``; null where it isn't in Binance's own layout.

``trade_time`` is in microseconds; ``_whole`` are the digits before a point, ``_fraction`` those after it in
steps of 10^-8."""

CUT_FIELDS: Final = StructType(
    [
        StructField("symbol", StringType()),
        StructField("trade_id", LongType()),
        StructField("trade_time", LongType()),
        StructField("is_taker_buy", BooleanType()),
        StructField("price_whole", LongType()),
        StructField("price_fraction", LongType()),
        StructField("quantity_whole", LongType()),
        StructField("quantity_fraction", LongType()),
    ]
)

_CLASS: Final = "candleflow.CutTrade"
_SOURCE: Final = Path(__file__).with_name("CutTrade.java")


def register(spark: SparkSession, work_dir: Path) -> None:
    """Have the session know ``CUT_TRADE``; the jar for its executors is made in ``work_dir``, and stays."""
    # pyspark has no public way to the classes of its JVM, nor one that takes an object of them.
    jvm: Any = spark._jvm  # noqa: SLF001
    context, session = spark._jsc, spark._jsparkSession  # noqa: SLF001
    compiler = jvm.org.codehaus.janino.SimpleCompiler()
    compiler.setParentClassLoader(jvm.Thread.currentThread().getContextClassLoader())
    compiler.cook(_SOURCE.read_text("utf-8"))
    jar = work_dir / f"{CUT_TRADE}.jar"
    with zipfile.ZipFile(jar, "w") as archive:
        for name, code in compiler.getBytecodes().items():
            archive.writestr(f"{name.replace('.', '/')}.class", bytes(code))
    context.addJar(jar.as_uri())
    # As an object: pyspark's registerJavaFunction asks for type parameters, which Janino doesn't write down.
    function = compiler.getClassLoader().loadClass(_CLASS).newInstance()
    fields = session.parseDataType(CUT_FIELDS.json())
    session.udf().register(CUT_TRADE, function, fields)
