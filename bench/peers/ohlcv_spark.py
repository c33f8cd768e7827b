"""Make the candles with Spark as in tutorials.

It uses from_json, withWatermark, window, groupBy, and foreachBatch to JDBC.

Spark's settings are the defaults except two. Names are case-sensitive, because ``t`` and ``T`` are different
fields. The jars are local files that are already there, instead of ``spark.jars.packages``.
"""

from __future__ import annotations

import os

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import col, count, first, from_json, last, window
from pyspark.sql.functions import max as max_
from pyspark.sql.functions import min as min_
from pyspark.sql.functions import sum as sum_
from pyspark.sql.types import BooleanType, LongType, StringType, StructField, StructType

SCHEMA = StructType(
    [
        StructField("e", StringType()),
        StructField("E", LongType()),
        StructField("s", StringType()),
        StructField("t", LongType()),
        StructField("p", StringType()),
        StructField("q", StringType()),
        StructField("T", LongType()),
        StructField("m", BooleanType()),
        StructField("M", BooleanType()),
    ]
)
URL = f"jdbc:postgresql://{os.environ['PGHOST']}:{os.environ['PGPORT']}/{os.environ['PGDATABASE']}"
PROPERTIES = {
    "user": os.environ["PGUSER"],
    "password": os.environ["PGPASSWORD"],
    "driver": "org.postgresql.Driver",
}


def write(batch: DataFrame, batch_id: int) -> None:
    batch.write.jdbc(URL, "candles", mode="append", properties=PROPERTIES)


def main() -> None:
    spark = (
        SparkSession.builder.appName("ohlcv")
        .config("spark.jars", os.environ["SPARK_JARS"])
        .config("spark.sql.caseSensitive", "true")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("WARN")
    records = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", os.environ["KAFKA_BOOTSTRAP"])
        .option("subscribe", os.environ["KAFKA_TOPIC"])
        .option("startingOffsets", "earliest")
        .load()
    )
    trades = (
        records.select(from_json(col("value").cast("string"), SCHEMA).alias("trade"))
        .select("trade.*")
        .withColumn("price", col("p").cast("double"))
        .withColumn("quantity", col("q").cast("double"))
        .withColumn("time", (col("T") / 1000).cast("timestamp"))
    )
    candles = (
        trades.withWatermark("time", "10 seconds")
        .groupBy(window(col("time"), "5 seconds"), col("s"))
        .agg(
            first("price").alias("open"),
            max_("price").alias("high"),
            min_("price").alias("low"),
            last("price").alias("close"),
            sum_("quantity").alias("volume"),
            count("*").alias("trade_count"),
        )
        .select(
            col("s").alias("symbol"),
            col("window.start").alias("open_time"),
            "open",
            "high",
            "low",
            "close",
            "volume",
            "trade_count",
        )
    )
    query = (
        candles.writeStream.outputMode("append")
        .foreachBatch(write)
        .option("checkpointLocation", "checkpoint")
        .start()
    )
    print("about to read", flush=True)
    query.awaitTermination()


if __name__ == "__main__":
    main()
