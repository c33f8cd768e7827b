"""A Kafka cluster on this machine: each broker is also a controller and has a replica of every record."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from candleflow.stack import kafka
from candleflow.stack.kafka import KafkaServer, new_cluster_id
from candleflow.stack.process import LOOPBACK, free_port
from candleflow.stack.server import READY_SECONDS

_REPLICATED = ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")


class KafkaCluster:
    """``count`` brokers with the interface of ``KafkaServer``; a single one is set up as by ``make run``."""

    def __init__(self, folder: Path, count: int, java_home: Path, jars: Sequence[Path]) -> None:
        self.folder = folder
        ports = [free_port() for _ in range(count)]
        self.bootstrap = ",".join(f"{LOOPBACK}:{port}" for port in ports)
        if count == 1:
            self.brokers = [KafkaServer(folder, ports[0], java_home, list(jars), "256m")]
            return
        cluster_id = new_cluster_id()
        controllers = [f"{LOOPBACK}:{free_port()}" for _ in range(count)]
        voters = ",".join(f"{node}@{address}" for node, address in enumerate(controllers, 1))
        self.brokers = [
            KafkaServer(
                folder / f"broker-{node}", port, java_home, jars, "256m", cluster_id=cluster_id,
                properties=_properties(node, count, port, address, voters),
            )
            for node, (port, address) in enumerate(zip(ports, controllers, strict=True), 1)
        ]  # fmt: skip

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The process of a broker that is down, if there is one; else that of the first broker."""
        processes = [broker.process for broker in self.brokers]
        return next((one for one in processes if one is None or one.poll() is not None), processes[0])

    def start(self) -> None:
        """Start the brokers that don't run. None is ready before a majority of the controllers is up."""
        for broker in self.brokers:
            if broker.process is None or broker.process.poll() is not None:
                broker.start()

    def wait_until_ready(self, within_seconds: float = READY_SECONDS) -> None:
        for broker in self.brokers:
            broker.wait_until_ready(within_seconds)

    def stop(self) -> None:
        for broker in self.brokers:
            broker.stop()

    def kill(self) -> None:
        for broker in self.brokers:
            broker.kill()

    def why_it_ended(self) -> str:
        return "; ".join(broker.why_it_ended() for broker in self.brokers)

    def is_in_sync(self, topic: str) -> bool:
        """Whether every broker is an in-sync replica of each partition of the topic."""
        try:
            with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap.split(","))) as admin:
                (described,) = admin.describe_topics([topic])
        except (KafkaError, OSError):
            return False
        copies = [len(partition["isr_nodes"]) for partition in described["partitions"]]
        return bool(copies) and min(copies) == len(self.brokers)


def _properties(node: int, count: int, port: int, controller: str, voters: str) -> dict[str, str]:
    few = str(count - 1)
    return {
        **kafka._PROPERTIES,
        "node.id": str(node),
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "controller.quorum.voters": voters,
        "default.replication.factor": str(count),
        "min.insync.replicas": few,
        **{f"{name}.replication.factor": str(count) for name in _REPLICATED},
        **{f"{name}.min.isr": few for name in _REPLICATED[1:]},
    }
