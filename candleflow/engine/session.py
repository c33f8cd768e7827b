"""Spark's session, for a stream of small batches on one machine, or for any master by one setting.

Everything here was measured; see ARCHITECTURE.md, "Decisions". No secret may come into Spark's
configuration: it is on the JVM's command line, in the event log and on the page of the UI.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import shlex
import subprocess
import threading
from collections.abc import Mapping, Sequence
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
_NAME: Final = "candleflow"
"""Spark's user, where the user id has no name."""

_OTHER_SPARK: Final = (
    "SPARK_HOME",
    "SPARK_CONF_DIR",
    "PYSPARK_SUBMIT_ARGS",
    "PYSPARK_GATEWAY_PORT",
    "SPARK_REMOTE",
)
_OF_SPARK: Final = ("SPARK_", "PYSPARK_", "HADOOP_", "YARN_")

_IS_SPARK_4_0: Final = pyspark.__version__.startswith("4.0.")
"""As EMR's newest release has it: what it has otherwise than ours is told where it matters."""

# Spark 4.1 moved it.
_CHECKPOINT_FILES: Final = (
    "org.apache.spark.sql.execution.streaming."
    f"{'' if _IS_SPARK_4_0 else 'checkpointing.'}FileSystemBasedCheckpointFileManager"
)

# Spark 4.0 pushes a filter below all the columns that it is of, each written out wherever it is named: the
# plan of an archive's refused lines was not made in four minutes. 4.2 doesn't where that computes one twice.
_PUSHES: Final = ("PushDownPredicates", "PushPredicateThroughNonJoin")
_OF_SPARK_4_0: Final = (
    {
        "spark.sql.optimizer.excludedRules": ",".join(
            f"org.apache.spark.sql.catalyst.optimizer.{rule}" for rule in _PUSHES
        )
    }
    if _IS_SPARK_4_0
    else {}
)


def start_session(
    *,
    java_home: Path,
    jars: Sequence[Path],
    master: str,
    memory: str,
    work_dir: Path,
    name: str = "candleflow",
    java_options: Sequence[str] = (),
) -> SparkSession:
    """A session in a JVM of its own; ``memory`` is the driver's heap, such as ``1g``.

    ``jars`` are the Kafka connector, PostgreSQL's driver and what they need; ``work_dir`` takes what Spark
    writes for itself; ``java_options`` are added to those of every session. Raises StackError where the JVM
    doesn't come up. Times are UTC throughout, whatever the machine's zone.
    """
    _quieten()
    _prepare_environment(java_home, master)
    if not _has_account():
        java_options = [*java_options, f"-Duser.name={_NAME}", f"-Duser.home={work_dir}"]
    builder = SparkSession.builder.master(master).appName(name)
    configuration = _configuration(jars, master, memory, work_dir, java_options)
    for key, value in configuration.items():
        builder = builder.config(key, value)
    try:
        if not _has_account():
            _log_in({"spark.master": master, **configuration})
        spark = builder.getOrCreate()
    except Exception as error:
        raise StackError(f"Spark's JVM did not start with {java_home}: {error}") from error
    java_functions.register(spark, work_dir)
    return spark


def join_session(work_dir: Path, *, name: str = "candleflow") -> SparkSession:
    """The session of the JVM that spark-submit started for this program, with its jars, memory and master.

    ``work_dir`` as for ``start_session``. Raises StackError where no spark-submit did.
    """
    _quieten()
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        raise StackError(
            "CANDLEFLOW_SPARK_MASTER=spark-submit, and no spark-submit started this program: "
            "name a master, or start it by spark-submit"
        )
    builder = SparkSession.builder.appName(name)
    for key, value in _QUERIES.items():
        builder = builder.config(key, value)
    try:
        spark = builder.getOrCreate()
    except Exception as error:
        raise StackError(f"spark-submit's session can't be joined: {error}") from error
    java_functions.register(spark, work_dir)
    return spark


def _prepare_environment(java_home: Path, master: str) -> None:
    """Take out what would lead Spark's scripts and Hadoop to another Spark, or to settings not ours."""
    os.environ["JAVA_HOME"] = str(java_home)
    is_local = master.startswith("local")
    for name in [*os.environ]:
        # A cluster may need its own: the address to be found by, Hadoop's folder of settings, a user's name.
        if name in _OTHER_SPARK or (is_local and name.startswith(_OF_SPARK)):
            del os.environ[name]
    if is_local:
        os.environ["SPARK_LOCAL_IP"] = _LOOPBACK


def _has_account() -> bool:
    """Whether this process's user id has a name: in a container it may be any number (OpenShift)."""
    try:
        return bool(pwd.getpwuid(os.getuid()))
    except KeyError:
        return False


def _log_in(configuration: Mapping[str, str]) -> None:
    """Start the JVM and give Hadoop a user: it ends where the system has no name for the user id."""
    known = SparkConf(loadDefaults=False).setAll([*configuration.items()])
    SparkContext._ensure_initialized(conf=known)  # noqa: SLF001 - no public way: a JVM without a session
    jvm: Any = SparkContext._jvm  # noqa: SLF001
    users = jvm.org.apache.hadoop.security.UserGroupInformation
    users.setLoginUser(users.createRemoteUser(_NAME))


def _quieten() -> None:
    """pyspark logs each error that it raises on its own, as JSON and with the plan."""
    logging.getLogger("DataFrameQueryContextLogger").setLevel(logging.CRITICAL)


_QUERIES: Final = {
    "spark.sql.session.timeZone": "UTC",
    # Binance's payload has both t and T, e and E, m and M.
    "spark.sql.caseSensitive": "true",
    # On both, the exactness rests: an overflow is an error, and a text that is no number is too.
    "spark.sql.ansi.enabled": "true",
    "spark.sql.variant.allowDuplicateKeys": "false",
    # Replanning by statistics takes longer than a small batch, and finds nothing in a large one.
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.streaming.checkpointFileManagerClass": _CHECKPOINT_FILES,
    "spark.sql.streaming.minBatchesToRetain": "10",
    "spark.sql.streaming.numRecentProgressUpdates": "20",
    "spark.sql.streaming.stopTimeout": "2s",
    # Else pyspark notes the place in our source of each column that is made: most of its time.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    "spark.sql.maxMetadataStringLength": "100",
    "spark.sql.debug.maxToStringFields": "100",
    "spark.sql.shuffle.partitions": "1",
    # Kafka's password is among a query's options, in one that isn't named so.
    "spark.sql.redaction.options.regex": "(?i)url|jaas|password|secret",
    **_OF_SPARK_4_0,
}
"""What the queries count on, whoever started the JVM."""


def _configuration(
    jars: Sequence[Path], master: str, memory: str, work_dir: Path, more_java_options: Sequence[str]
) -> dict[str, str]:
    class_path = os.pathsep.join(map(str, jars))
    java_options = [
        "-Duser.timezone=UTC",
        # Some 66 MB of the heap live. The JVM's own choice, G1, wants the same two cores: with it a trade
        # took 108 ms to its row and the JVM 686 MB; with this one 91 and 661, and a backlog 11.5 s for 12.3.
        "-XX:+UseSerialGC",
        # On two cores the second compiler takes what a start needs, and makes a batch twice as quick later:
        # with four times its thresholds the first row took 23 s of processor time in place of 32 (17 without
        # it), and a batch of 600 trades after two minutes 194 ms in place of 149 (289).
        "-XX:Tier4InvocationThreshold=20000",
        "-XX:Tier4MinInvocationThreshold=3000",
        "-XX:Tier4CompileThreshold=60000",
        "-XX:Tier4BackEdgeThreshold=200000",
        f"-Dlog4j2.configurationFile={_LOG4J.as_uri()}",
        f"-Djava.io.tmpdir={work_dir}",  # a killed JVM leaves folders and libraries there
        # Stopping a query during a batch matches the error's text against a regular expression that
        # overflows a common stack: with 16 MB none of 37 stops did.
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
        # Hadoop's local file system forks a process for each of a batch's 60 file operations.
        "spark.hadoop.fs.file.impl": "com.globalmentor.apache.hadoop.fs.BareLocalFileSystem",
        "spark.cleaner.referenceTracking.blocking": "false",
        # A job's code is broadcast from a buffer of this size, however small it is: at Spark's 4 MB ten
        # batches a second were 40 MB/s that no young collection takes, and the heap grew to its bound.
        "spark.broadcast.blockSize": "64k",
        # For the UI, which there is none of, Spark keeps the last 1,000: 100 s of batches, which grow old.
        "spark.ui.retainedJobs": "10",
        "spark.ui.retainedStages": "10",
        "spark.ui.retainedTasks": "100",
        "spark.sql.ui.retainedExecutions": "10",
        **_QUERIES,
    }
    if not master.startswith("local"):
        # On a cluster the executors fetch the jars, and the driver must be reached from outside this machine.
        configuration["spark.jars"] = ",".join(path.as_uri() for path in jars)
        configuration["spark.executor.extraJavaOptions"] = "-Duser.timezone=UTC"
        for bound in ("spark.driver.host", "spark.driver.bindAddress"):
            del configuration[bound]
    return configuration


def class_path_of(spark: SparkSession) -> str:
    """The class path that the session's JVM was started with, each jar by name."""
    jvm: Any = spark._jvm  # noqa: SLF001 - no public way leads to the JVM's properties
    return str(jvm.java.lang.System.getProperty("java.class.path"))


def stop_session(spark: SparkSession) -> None:
    """Stop Spark and its JVM, by force if it takes more than a few seconds."""
    gateway: Any = SparkContext._gateway  # noqa: SLF001 - pyspark has no public way to end its JVM
    stopping = threading.Thread(target=_stop_quietly, args=(spark,), name="spark-stop", daemon=True)
    stopping.start()
    stopping.join(_STOP_SECONDS)
    process: subprocess.Popen[bytes] | None = getattr(gateway, "proc", None)
    if process is None:
        return
    if process.stdin is not None:
        process.stdin.close()  # pyspark's gateway server ends when its standard input does
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    SparkContext._gateway = None  # noqa: SLF001 - so that a later session starts a JVM of its own
    SparkContext._jvm = None  # noqa: SLF001


def _stop_quietly(spark: SparkSession) -> None:
    with contextlib.suppress(Exception):  # a JVM that is gone already can't be stopped, and needn't be
        spark.stop()
