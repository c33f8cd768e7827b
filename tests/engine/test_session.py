"""Start the session's JVM with a class archive, and for a user id without a name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from candleflow.engine.session import class_path_of
from candleflow.stack.class_archive import spark_archive
from candleflow.stack.postgres import Identity

CLASSES = ("java/lang/Object", "org/apache/spark/deploy/SparkSubmit", "org/apache/spark/SparkContext")

# Runs in its own process, because pyspark has one JVM per process. Prints nothing if all is well.
START = """
import sys
from pathlib import Path
from candleflow.engine.session import SparkFiles, start_session, stop_session
java_home, work_dir, jars, *options = sys.argv[1:]
files = SparkFiles(Path(work_dir), Path(java_home), [Path(jar) for jar in jars.split(":")], options)
spark = start_session(files, master="local[1]", memory="500m")
stop_session(spark)
"""
WRITES = START.replace(
    "stop_session(spark)",
    "spark.range(3).write.parquet(f'{work_dir}/out'); print(spark.sparkContext.sparkUser())",
)


@pytest.mark.skipif(sys.platform != "linux", reason="where a class came from is asked of a Linux JVM's log")
@pytest.mark.slow
def test_a_session_takes_its_classes_from_the_archive(
    spark: SparkSession, java_home: Path, spark_jars: list[Path], tmp_path: Path
) -> None:
    work_dir = tmp_path / "a folder"  # a path with a space must reach the JVM unbroken
    work_dir.mkdir()
    listing, loaded = work_dir / "classes.txt", work_dir / "loaded.txt"
    archive = spark_archive(work_dir, java_home, spark_jars)
    listing.write_text("".join(f"{one}\n" for one in CLASSES))
    assert archive.make(listing, class_path_of(spark))

    options = [*archive.java_options(listing), f"-Xlog:class+load:file={loaded}"]
    jars = os.pathsep.join(map(str, spark_jars))
    command = [sys.executable, "-c", START, str(java_home), str(work_dir), jars, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    sources = [line for line in loaded.read_text().splitlines() if "org.apache.spark.SparkContext " in line]
    assert [line.partition(" source: ")[2] for line in sources] == ["shared objects file"]
    assert "[cds" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="root takes another user id")
def test_a_session_comes_up_for_a_user_id_without_a_name(
    java_home: Path, spark_jars: list[Path], tmp_path: Path
) -> None:
    """OpenShift runs containers with such user ids: Ivy found no home folder, and Hadoop no user."""
    looks_everywhere = 1  # CAP_DAC_OVERRIDE, as the jars lie below root's home
    nameless = Identity("nameless", 54_321, 54_321, looks_everywhere)
    jars = os.pathsep.join(map(str, spark_jars))
    command = [sys.executable, "-c", WRITES, str(java_home), str(tmp_path), jars]
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    done = subprocess.run(
        command,
        env=environment,
        preexec_fn=nameless.become,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "candleflow"
