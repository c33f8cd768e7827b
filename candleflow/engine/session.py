"""Start Spark: tuned for a stream of small batches on one machine; another master needs only one setting.

All values here were measured; see docs/explanation/decisions.md. Spark's configuration must not contain
secrets: it appears on the JVM's command line, in the event log and in the UI.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyspark
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from candleflow.engine import java_functions
from candleflow.errors import StackError

_LOG4J: Final = Path(__file__).with_name("log4j2.properties")
_LOOPBACK: Final = "127.0.0.1"
_STOP_SECONDS: Final = 2.0
_END_SECONDS: Final = 0.5
"""How long to wait for the end of a JVM that has closed its connections."""
_NAME: Final = "candleflow"
"""Spark's user name if the user id has none."""

_OTHER_SPARK: Final = (
    "SPARK_HOME",
    "SPARK_CONF_DIR",
    "PYSPARK_SUBMIT_ARGS",
    "PYSPARK_GATEWAY_PORT",
    "SPARK_REMOTE",
)
_OF_SPARK: Final = ("SPARK_", "PYSPARK_", "HADOOP_", "YARN_")

_IS_SPARK_4_0: Final = pyspark.__version__.startswith("4.0.")
"""Spark 4.0 is in EMR's newest release. Where it differs from 4.1, the code checks this."""

# Spark 4.1 moved this class.
_CHECKPOINT_FILES: Final = (
    "org.apache.spark.sql.execution.streaming."
    f"{'' if _IS_SPARK_4_0 else 'checkpointing.'}FileSystemBasedCheckpointFileManager"
)


@dataclass(frozen=True, slots=True)
class SparkFiles:
    """The files on this machine that Spark needs; ``stack.spark`` finds them."""

    work_dir: Path
    """The folder for Spark's temporary files."""
    java_home: Path = Path()
    """Unused with spark-submit, like the fields below, because spark-submit has already started the JVM."""
    jars: Sequence[Path] = ()
    """The Kafka connector, PostgreSQL's driver and their dependencies."""
    java_options: Sequence[str] = ()
    """Options for the JVM, in addition to those of every session."""
    archive_classes: Callable[[str], None] | None = None
    """Archives the classes of a JVM, given its class path, for a faster next start. Call it once the JVM is
    idle. It can raise StackError."""


FindSpark = Callable[[], AbstractContextManager[SparkFiles]]
"""Finds the files, and downloads them if needed. They exist until the context ends."""


def start_session(files: SparkFiles, *, master: str, memory: str, name: str = "candleflow") -> SparkSession:
    """Start a session in a new JVM. ``memory`` is the driver's heap, such as ``1g``.

    All times are UTC, in any time zone of the machine. Raises StackError if the JVM doesn't start.
    """
    _quieten()
    java_home, work_dir = files.java_home, files.work_dir
    _prepare_environment(java_home, master)
    java_options = files.java_options
    if not _has_account():
        java_options = [*java_options, f"-Duser.name={_NAME}", f"-Duser.home={work_dir}"]
    builder = SparkSession.builder.master(master).appName(name)
    configuration = _configuration(files.jars, master, memory, work_dir, java_options)
    for key, value in configuration.items():
        builder = builder.config(key, value)
    try:
        if not _has_account():
            _log_in({"spark.master": master, **configuration})
        spark = builder.getOrCreate()
    except Exception as error:
        raise StackError(
            f"Spark's JVM did not start with the Java in {java_home}; set JAVA_HOME to another: {error}"
        ) from error
    java_functions.register(spark, work_dir)
    return spark


def join_session(work_dir: Path, *, name: str = "candleflow") -> SparkSession:
    """Return a session in the JVM that spark-submit started, with spark-submit's jars, memory and master.

    Writes the executors' jar to ``work_dir``. Raises StackError if it can't join such a JVM.
    """
    _quieten()
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        raise StackError(
            "CANDLEFLOW_SPARK_MASTER=spark-submit, but spark-submit did not start this program: "
            "set a master, or start it with spark-submit"
        )
    builder = SparkSession.builder.appName(name)
    for key, value in _QUERIES.items():
        builder = builder.config(key, value)
    try:
        spark = builder.getOrCreate()
    except Exception as error:
        raise StackError(
            f"can't join spark-submit's session; start the processor with spark-submit again: {error}"
        ) from error
    java_functions.register(spark, work_dir)
    return spark


def _prepare_environment(java_home: Path, master: str) -> None:
    """Set the environment variables for Spark, and remove those that would select another Spark.

    With a local master, all SPARK_, PYSPARK_, HADOOP_ and YARN_ variables are removed first. A cluster may
    need some of them.
    """
    os.environ["JAVA_HOME"] = str(java_home)
    is_local = master.startswith("local")
    for name in [*os.environ]:
        # A cluster may need some of them: its address, Hadoop's folder of settings, a user name.
        if name in _OTHER_SPARK or (is_local and name.startswith(_OF_SPARK)):
            del os.environ[name]
    if is_local:
        os.environ["SPARK_LOCAL_IP"] = _LOOPBACK
        # Otherwise Spark would start the python3 on the PATH, possibly of another version.
        os.environ["PYSPARK_PYTHON"] = sys.executable


def _has_account() -> bool:
    """Return whether the system has a name for the user id. In a container (OpenShift) it may have none."""
    try:
        return bool(pwd.getpwuid(os.getuid()))
    except KeyError:
        return False


def _log_in(configuration: Mapping[str, str]) -> None:
    """Start the JVM and set Hadoop's user. Hadoop fails if the system has no name for the user id."""
    known = SparkConf(loadDefaults=False).setAll([*configuration.items()])
    SparkContext._ensure_initialized(conf=known)  # noqa: SLF001 - no public API for a JVM without a session
    jvm: Any = SparkContext._jvm  # noqa: SLF001
    users = jvm.org.apache.hadoop.security.UserGroupInformation
    users.setLoginUser(users.createRemoteUser(_NAME))


def _quieten() -> None:
    """Silence the logger with which pyspark logs each error that it raises, as JSON with the query plan."""
    logging.getLogger("DataFrameQueryContextLogger").setLevel(logging.CRITICAL)


_QUERIES: Final = {
    "spark.sql.session.timeZone": "UTC",
    # Binance's payload has both t and T, e and E, m and M.
    "spark.sql.caseSensitive": "true",
    # Exactness depends on this: an overflow and an invalid number are errors, not null.
    "spark.sql.ansi.enabled": "true",
    # Adaptive planning takes longer than a small batch, and improves nothing in a large one.
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.streaming.checkpointFileManagerClass": _CHECKPOINT_FILES,
    "spark.sql.streaming.minBatchesToRetain": "10",
    "spark.sql.streaming.numRecentProgressUpdates": "20",
    "spark.sql.streaming.stopTimeout": "2s",
    # Otherwise pyspark records the line of our source for each column, which takes most of its time.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    "spark.sql.maxMetadataStringLength": "100",
    "spark.sql.debug.maxToStringFields": "100",
    "spark.sql.shuffle.partitions": "1",
    # Kafka's password is in an option whose name doesn't contain "password": the JAAS configuration.
    "spark.sql.redaction.options.regex": "(?i)url|jaas|password|secret",
}
"""Settings that the queries rely on, also in a JVM that spark-submit started."""


def _configuration(
    jars: Sequence[Path], master: str, memory: str, work_dir: Path, more_java_options: Sequence[str]
) -> dict[str, str]:
    class_path = os.pathsep.join(map(str, jars))
    java_options = [
        "-Duser.timezone=UTC",
        # About 66 MB of the heap are live, and the default G1 competes for the same two cores. Latency to
        # the row was 108 ms with G1 and 91 with Serial, memory 686 and 661 MB, a backlog 12.3 and 11.5 s.
        "-XX:+UseSerialGC",
        # The C2 compiler slows a start on two cores, but later halves a batch's time. With its thresholds
        # times four, the first row took 23 s of CPU time (default 32, without C2 17), and a batch of 600
        # trades after two minutes 194 ms (default 149, without C2 289).
        "-XX:Tier4InvocationThreshold=20000",
        "-XX:Tier4MinInvocationThreshold=3000",
        "-XX:Tier4CompileThreshold=60000",
        "-XX:Tier4BackEdgeThreshold=200000",
        f"-Dlog4j2.configurationFile={_LOG4J.as_uri()}",
        f"-Djava.io.tmpdir={work_dir}",  # a killed JVM leaves folders and libraries behind here
        # When a query is stopped during a batch, Spark matches the error's text against a regular expression
        # that overflows a default stack. With 16 MB none of 37 stops did.
        "-Xss16m",
        *more_java_options,
    ]
    configuration = {
        "spark.driver.memory": memory,
        "spark.driver.extraJavaOptions": shlex.join(java_options),
        "spark.driver.extraClassPath": class_path,
        "spark.driver.host": _LOOPBACK,
        "spark.driver.bindAddress": _LOOPBACK,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.local.dir": str(work_dir),
        "spark.sql.warehouse.dir": str(work_dir / "warehouse"),
        # Hadoop's own local file system forks a process for each of the 60 file operations in a batch.
        "spark.hadoop.fs.file.impl": "com.globalmentor.apache.hadoop.fs.BareLocalFileSystem",
        "spark.cleaner.referenceTracking.blocking": "false",
        # Spark allocates a buffer of this size to broadcast each job's code. With the default of 4 MB, ten
        # batches a second allocated 40 MB/s in the old generation, and the heap grew to its limit.
        "spark.broadcast.blockSize": "64k",
        # Spark keeps the last 1,000 jobs for the UI, which is disabled. They would fill the old generation.
        "spark.ui.retainedJobs": "10",
        "spark.ui.retainedStages": "10",
        "spark.ui.retainedTasks": "100",
        "spark.sql.ui.retainedExecutions": "10",
        **_QUERIES,
    }
    if not master.startswith("local"):
        # On a cluster the executors fetch the jars, and connect to the driver from other machines.
        configuration["spark.jars"] = ",".join(path.as_uri() for path in jars)
        configuration["spark.executor.extraJavaOptions"] = "-Duser.timezone=UTC"
        for bound in ("spark.driver.host", "spark.driver.bindAddress"):
            del configuration[bound]
    return configuration


def class_path_of(spark: SparkSession) -> str:
    """Return the class path of the session's JVM, with each jar by name."""
    jvm: Any = spark._jvm  # noqa: SLF001 - no public API for the JVM's properties
    return str(jvm.java.lang.System.getProperty("java.class.path"))


def jvm_status() -> int | None:
    """Return the exit status of the JVM that this process started, negative for a signal.

    None if the JVM runs, or if spark-submit started it.
    """
    process: subprocess.Popen[bytes] | None = getattr(SparkContext._gateway, "proc", None)  # noqa: SLF001
    if process is None:
        return None
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    return process.returncode


def stop_session(spark: SparkSession) -> None:
    """Stop Spark and its JVM; kill the JVM if that takes more than a few seconds."""
    gateway: Any = SparkContext._gateway  # noqa: SLF001 - pyspark has no public API to end its JVM
    stopping = threading.Thread(target=_stop_quietly, args=(spark,), name="spark-stop", daemon=True)
    stopping.start()
    stopping.join(_STOP_SECONDS)
    process: subprocess.Popen[bytes] | None = getattr(gateway, "proc", None)
    if process is None:
        return
    if process.stdin is not None:
        process.stdin.close()  # pyspark's gateway server ends when its standard input is closed
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    SparkContext._gateway = None  # noqa: SLF001 - so that a later session starts a JVM of its own
    SparkContext._jvm = None  # noqa: SLF001


def _stop_quietly(spark: SparkSession) -> None:
    with contextlib.suppress(Exception):  # the JVM may be gone already
        spark.stop()
