"""What of Spark's work is Java of ours, and not made of Spark's own functions: ``java/candleflow``.

It is compiled when a session comes up, by Janino, with which Spark compiles the code that it generates: so it
needs no compiler, no build and no jar that could be another than its source.
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
"""A record (binary) into a struct of ``CUT_FIELDS``; null where ``LayoutReader.java`` leaves it unread."""

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
"""All of a trade, in the order in which ``Trade.java`` reads and writes it; the units of its amounts are at
``trades.TRADE_COLUMNS``."""

_PACKAGE: Final = "candleflow"
_SOURCES: Final = Path(__file__).with_name("java") / _PACKAGE
_class_loaders: Final[WeakKeyDictionary[SparkContext, Any]] = WeakKeyDictionary()


def register(spark: SparkSession, work_dir: Path) -> None:
    """Have the session know ``CUT_TRADE`` and what ``map_partitions`` is given.

    The jar for its executors is made in ``work_dir``, and stays. Raises py4j's error where a source doesn't
    compile.
    """
    # pyspark has no public way to the classes of its JVM, nor one that takes an object of them.
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
    # As an object: pyspark's registerJavaFunction asks for type parameters, which Janino doesn't write down.
    cut_trade = _made(spark, "CutTrade", SYMBOL_PATTERN)
    session.udf().register(CUT_TRADE, cut_trade, session.parseDataType(CUT_FIELDS.json()))


def map_partitions(rows: DataFrame, schema: StructType, name: str, *arguments: object) -> DataFrame:
    """What an object of the class ``name``, a MapPartitionsFunction with ``arguments``, makes of ``rows``.

    For a stream as well, as it keeps nothing from one batch to the next.
    """
    spark = rows.sparkSession
    jvm: Any = spark._jvm  # noqa: SLF001
    encoder = jvm.org.apache.spark.sql.Encoders.row(
        spark._jsparkSession.parseDataType(schema.json())  # noqa: SLF001
    )
    made: Any = rows._jdf.mapPartitions(_made(spark, name, *arguments), encoder)  # noqa: SLF001
    return DataFrame(made, spark)


def _compiled(jvm: Any, parent: Any) -> Any:
    """The classes' code by their files' names, as a map of the JVM's."""
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
    """The values as an array of the JVM's, of its class ``kind``."""
    gateway: Any = SparkContext._gateway  # noqa: SLF001
    array = gateway.new_array(kind, len(values))
    for at, value in enumerate(values):
        array[at] = value
    return array


def texts_of(spark: SparkSession, texts: Sequence[str]) -> DataFrame:
    """``texts`` as rows with the column ``value``, which no plan's print shows."""
    jvm: Any = spark._jvm  # noqa: SLF001
    rows = jvm.java.util.ArrayList()
    for text in texts:
        rows.add(text)
    dataset: Any = spark._jsparkSession.createDataset(rows, jvm.org.apache.spark.sql.Encoders.STRING())  # noqa: SLF001
    return DataFrame(dataset.toDF(), spark)
