"""Compile and register our Java functions for Spark, whose sources are in ``java/candleflow``.

They are compiled when a session starts, by Janino, which Spark ships to compile its generated code. So no JDK
and no build step are needed, and there is no jar that could differ from the source.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

from pyspark import SparkContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import BooleanType, LongType, StringType, StructField, StructType

from candleflow.market.symbol import SYMBOL_PATTERN

CUT_TRADE: Final = "cut_trade"
"""The SQL function that decodes a record (binary) into a struct of ``CUT_FIELDS``; null if
``LayoutReader.java`` can't read it."""

CUT_FIELDS: Final = StructType(
    [
        StructField("symbol", StringType()),
        StructField("trade_id", LongType()),
        StructField("trade_time", LongType()),
        StructField("is_taker_buy", BooleanType()),
        *(
            StructField(name, LongType())
            for name in (
                "price", "quantity_whole", "quantity_fraction",
                "notional_high", "notional_whole", "notional_fraction", "notional_rest",
            )
        ),
    ]
)  # fmt: skip
"""The fields of a trade, in the order that ``Trade.java`` uses; the units are those of
``trades.TRADE_COLUMNS``."""

_PACKAGE: Final = "candleflow"
_SOURCES: Final = Path(__file__).with_name("java") / _PACKAGE
_class_loaders: Final[WeakKeyDictionary[SparkContext, Any]] = WeakKeyDictionary()


def register(spark: SparkSession, work_dir: Path) -> None:
    """Compile the Java sources, and register ``CUT_TRADE`` and the classes for ``map_partitions``.

    The jar for the executors is written to ``work_dir`` and must stay there. Raises py4j's error if a source
    doesn't compile.
    """
    # pyspark has no public API to load classes in its JVM, or to register an object of one.
    jvm: Any = spark._jvm  # noqa: SLF001
    context, session = spark._jsc, spark._jsparkSession  # noqa: SLF001
    parent = jvm.Thread.currentThread().getContextClassLoader()
    codes = _compiled(jvm, parent)
    jar = work_dir / f"{_PACKAGE}.jar"
    with zipfile.ZipFile(jar, "w") as archive:
        for name, code in codes.items():
            archive.writestr(name, bytes(code))
    context.addJar(jar.as_uri())
    loader = jvm.org.codehaus.commons.compiler.util.reflect.ByteArrayClassLoader(codes, parent)
    _class_loaders[spark.sparkContext] = loader
    # Not pyspark's registerJavaFunction: it reads type parameters, which Janino's class files don't have.
    cut_trade = _made(spark, "CutTrade", SYMBOL_PATTERN)
    session.udf().register(CUT_TRADE, cut_trade, session.parseDataType(CUT_FIELDS.json()))


def map_partitions(rows: DataFrame, schema: StructType, name: str, *arguments: object) -> DataFrame:
    """Apply our Java class ``name``, a MapPartitionsFunction created with ``arguments``, to ``rows``.

    Works on a stream too, because it keeps no state between batches.
    """
    spark = rows.sparkSession
    jvm: Any = spark._jvm  # noqa: SLF001
    encoder = jvm.org.apache.spark.sql.Encoders.row(
        spark._jsparkSession.parseDataType(schema.json())  # noqa: SLF001
    )
    made: Any = rows._jdf.mapPartitions(_made(spark, name, *arguments), encoder)  # noqa: SLF001
    return DataFrame(made, spark)


def _compiled(jvm: Any, parent: Any) -> Any:
    """Compile the sources; return a Java map from class file names to bytecode."""
    resources = jvm.org.codehaus.commons.compiler.util.resource
    files = sorted(_SOURCES.glob("*.java"))
    sources = [resources.FileResource(jvm.java.io.File(str(file))) for file in files]
    made = resources.MapResourceCreator()
    compiler = jvm.org.codehaus.janino.Compiler()
    compiler.setIClassLoader(jvm.org.codehaus.janino.ClassLoaderIClassLoader(parent))
    compiler.setClassFileCreator(made)
    compiler.compile(_array(resources.Resource, sources))
    return made.getMap()


def _made(spark: SparkSession, name: str, *arguments: object) -> Any:
    jvm: Any = spark._jvm  # noqa: SLF001
    found = _class_loaders[spark.sparkContext].loadClass(f"{_PACKAGE}.{name}")
    return found.getConstructors()[0].newInstance(_array(jvm.Object, arguments))


def _array(kind: Any, values: Sequence[object]) -> Any:
    """Copy the values to a Java array of the class ``kind``."""
    gateway: Any = SparkContext._gateway  # noqa: SLF001
    array = gateway.new_array(kind, len(values))
    for at, value in enumerate(values):
        array[at] = value
    return array


def texts_of(spark: SparkSession, texts: Sequence[str]) -> DataFrame:
    """Return ``texts`` as rows with the column ``value``. Their content does not appear in query plans."""
    jvm: Any = spark._jvm  # noqa: SLF001
    rows = jvm.java.util.ArrayList()
    for text in texts:
        rows.add(text)
    dataset: Any = spark._jsparkSession.createDataset(rows, jvm.org.apache.spark.sql.Encoders.STRING())  # noqa: SLF001
    return DataFrame(dataset.toDF(), spark)
