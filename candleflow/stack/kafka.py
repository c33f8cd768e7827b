"""Run a Kafka broker on this machine: one KRaft node, started from the jars, on 127.0.0.1 only.

Each start repairs the folder if need be. Kafka can't open its topics without ``meta.properties``, which holds
the cluster's id. So a copy of that file is kept and restored when the file is broken.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from candleflow.errors import StackError
from candleflow.stack import process
from candleflow.stack.class_archive import ClassArchive
from candleflow.stack.server import LocalServer

_META: Final = "meta.properties"
_LOG4J_FILE: Final = "log4j2.xml"
_MAIN: Final = "kafka.Kafka"
_FORMAT: Final = "kafka.tools.StorageTool"

# A small heap and one collector thread leave memory and cores to Spark. The broker's pauses stay under 10 ms
# at 2,000 records a second. Kafka's own shell script uses 1 GB and G1.
_JVM: Final = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss512k", "-Djava.awt.headless=true")

_PROPERTIES: Final[dict[str, str]] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # broker/topics creates the topics with partitions and retention. Auto-creation would accept a misspelt
    # name.
    "auto.create.topics.enable": "false",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    # After a kill -9 the controller refuses the broker until its old session has expired. With the default of
    # 9 s such a start took 13.4 s instead of 6 s.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "250",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "num.recovery.threads.per.data.dir": "2",
    "log.cleaner.dedupe.buffer.size": "16777216",
    "log.segment.bytes": "134217728",
}

_LOG4J: Final = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="error" shutdownHook="disable">
  <Appenders>
    <RollingFile name="file" fileName="{log}" filePattern="{log}.%i">
      <PatternLayout pattern="%d{{ISO8601}}{{UTC}}Z %-5p %c{{1}}: %m%n"/>
      <SizeBasedTriggeringPolicy size="5MB"/>
      <DefaultRolloverStrategy max="2"/>
    </RollingFile>
  </Appenders>
  <Loggers>
    <Root level="info"><AppenderRef ref="file"/></Root>
    <Logger name="kafka.server.KafkaConfig" level="warn"/>
    <Logger name="org.apache.kafka.common.config.AbstractConfig" level="warn"/>
  </Loggers>
</Configuration>
"""


class KafkaServer(LocalServer):
    """A local Kafka broker. ``folder`` holds its records (``data``), its configuration and its logs.

    ``properties`` replace the default configuration, except ``log.dirs``. ``cluster_id`` is needed if the
    cluster has several brokers. With ``archive`` the JVM starts faster, or lists its classes so that the
    archive can be made.
    """

    name = "Kafka"
    stop_signal = signal.SIGTERM

    def __init__(
        self,
        folder: Path,
        port: int,
        java_home: Path,
        jars: Sequence[Path],
        heap: str = "384m",
        *,
        host: str = process.LOOPBACK,
        properties: Mapping[str, str] | None = None,
        cluster_id: str | None = None,
        archive: ClassArchive | None = None,
    ) -> None:
        super().__init__(folder, port, host)
        self._java = java_home / "bin" / "java"
        self._class_path = os.pathsep.join(map(str, jars))
        self._heap = heap
        self._given = properties
        self._cluster_id = cluster_id
        self._archive = archive

    @property
    def bootstrap(self) -> str:
        return self.address

    @property
    def log(self) -> Path:
        return self.folder / "logs" / "server.log"

    def archive_classes(self) -> None:
        """Make the class-data archive for the next start, if this start found none."""
        if self._archive is not None and self._listing.exists():
            self._archive.make(self._listing, self._class_path)

    def why_it_ended(self) -> str:
        """Return the last lines of the server log, or else of the console log, and the server log's path."""
        last_lines = process.tail(self.log) or process.tail(self.folder / "logs" / "console.log")
        return f"{last_lines} (log: {self.log})"

    def _prepare(self) -> None:
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        self._write_configuration()
        self._repair()

    def _spawn(self, signal_with_parent: signal.Signals | None) -> subprocess.Popen[bytes]:
        options = self._archive.java_options(self._listing) if self._archive is not None else ()
        return process.spawn(
            self._command(_MAIN, self._server_properties, java_options=options),
            log=self.folder / "logs" / "console.log",
            cwd=self.folder,
            signal_with_parent=signal_with_parent,
        )

    def _why_no_answer(self) -> str:
        try:
            client = KafkaAdminClient(bootstrap_servers=self.address, bootstrap_timeout_ms=2_000)
        except (KafkaError, OSError) as error:
            return f"no client is answered at {self.address} yet: {error}"
        client.close()
        return ""

    @property
    def _server_properties(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _listing(self) -> Path:
        return self.folder / "logs" / "classes.txt"

    def _command(
        self, main: str, *arguments: str | Path, java_options: Sequence[str] = ()
    ) -> list[str | Path]:
        console = f"-Dlog4j2.configurationFile={_LOG4J_FILE}"
        jvm = [f"-Xmx{self._heap}", "-Xms64m", *_JVM, *java_options, console]
        return [self._java, *jvm, "-cp", self._class_path, main, *arguments]

    def _write_configuration(self) -> None:
        properties = self._given or self._own_properties()
        # Paths are relative to the broker's working folder, so none has a character that means something in
        # these files: log.dirs ends a path at each comma, and a property's value is read as Latin-1.
        here = {"log.dirs": self.data.relative_to(self.folder)}
        lines = (f"{name}={value}\n" for name, value in {**properties, **here}.items())
        self._server_properties.write_text("".join(lines))
        (self.folder / _LOG4J_FILE).write_text(_LOG4J.format(log=self.log.relative_to(self.folder)))

    def _own_properties(self) -> dict[str, str]:
        # Only this broker connects to its controller, so any free port will do.
        controller = f"{process.LOOPBACK}:{process.free_port()}"
        return {
            **_PROPERTIES,
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "controller.quorum.voters": f"1@{controller}",
        }

    def _repair(self) -> None:
        """Format the folder if it isn't, and restore a broken ``meta.properties`` from its copy."""
        meta, copy = self.data / _META, self.folder / f"{_META}.copy"
        if _is_complete(meta):
            if not copy.exists() or copy.read_bytes() != meta.read_bytes():
                _write_atomically(copy, meta.read_bytes())
        elif not _has_partitions(self.data):
            shutil.rmtree(self.data, ignore_errors=True)
            self._format()
            _write_atomically(copy, meta.read_bytes())
        elif _is_complete(copy):
            _write_atomically(meta, copy.read_bytes())
        else:
            raise StackError(
                f"{meta} is broken and so is its copy, so Kafka can't open its topics; "
                f"start with an empty broker: mv {self.folder} {self.folder}.broken"
            )

    def _format(self) -> None:
        cluster_id = self._cluster_id or new_cluster_id()
        arguments = ("format", "-t", cluster_id, "-c", self._server_properties)
        done = process.run(self._command(_FORMAT, *arguments), cwd=self.folder)
        if done.returncode or not _is_complete(self.data / _META):
            raise StackError(
                f"Kafka's folder {self.folder} could not be formatted; check its disk space and permissions: "
                f"{(done.stderr or done.stdout).strip()[-400:]}"
            )


def new_cluster_id() -> str:
    """Return 22 characters of URL-safe base64, like Kafka's own tool; the first is never a dash."""
    while True:
        made = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not made.startswith("-"):
            return made


def _is_complete(meta: Path) -> bool:
    """Return whether the file has all properties that Kafka needs."""
    try:
        lines = meta.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    names = {name for name, _, value in (line.partition("=") for line in lines) if value.strip()}
    return {"cluster.id", "node.id", "version"} <= names


def _has_partitions(data: Path) -> bool:
    """Return whether a broker has run here: a metadata log or a partition has records."""
    return any(log.stat().st_size for log in data.glob("*-*/*.log"))


def _write_atomically(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_bytes(content)
    unfinished.replace(path)
