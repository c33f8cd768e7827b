"""docker-compose.yml, tested without Docker: the images don't run.

The tests validate the file and its ports. They run a real broker with the environment in it, and our
processes with their commands and environments, one at a time and all together.

``tests/data/compose-spec.json`` is the schema of the Compose Specification (Apache License 2.0, in the same
folder).
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import InitVar, dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jsonschema
import psycopg2
import pytest
import yaml
from kafka import KafkaConsumer, KafkaProducer

from candleflow.broker.topics import ensure_topics
from candleflow.cli import COMMANDS
from candleflow.processor.process import ADOPT_IN_COMPOSE
from candleflow.settings import FIELDS, METRICS_PORTS, PREFIX, load
from candleflow.stack.kafka import KafkaServer
from candleflow.stack.postgres import PostgresServer
from candleflow.stack.process import free_port, is_free, wait_for
from candleflow.store.credentials import DEVELOPMENT_PASSWORD
from tests.pipeline.test_monitoring import needs_prometheus, prometheus, values
from tests.processes import START_SECONDS, awaited, environment, started

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())

SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"] == "candleflow")

# Variables that apache/kafka's entry point passes to Java and its scripts.
NOT_PROPERTIES = {"KAFKA_HEAP_OPTS", "KAFKA_OPTS", "KAFKA_LOG4J_OPTS", "KAFKA_JVM_PERFORMANCE_OPTS"}


def properties_of_the_image(environment: dict[str, str]) -> dict[str, str]:
    """Return server.properties as apache/kafka's entry point makes it from the KAFKA_* variables."""
    properties = {}
    for name, value in environment.items():
        if name.startswith("KAFKA_") and name not in NOT_PROPERTIES:
            dotted = name.removeprefix("KAFKA_").lower().replace("_", ".")
            properties[dotted.replace("...", "-").replace("..", "_")] = value
    return properties


def moved_to_free_ports(properties: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Replace each container port in the properties by a free port of this machine.

    Returns the properties and the addresses of the two listeners.
    """
    ports = {"19092": str(free_port()), "9092": str(free_port()), "9093": str(free_port())}
    moved = {}
    for name, value in properties.items():
        if "listeners" in name or "voters" in name:
            here = re.sub(r"(//|@)(kafka)?:", r"\g<1>127.0.0.1:", value)
            moved[name] = re.sub(r":(19092|9092|9093)\b", lambda found: f":{ports[found[1]]}", here)
        else:
            moved[name] = value
    return moved, {"inside": f"127.0.0.1:{ports['19092']}", "host": f"127.0.0.1:{ports['9092']}"}


@pytest.fixture(scope="module")
def doors(
    tmp_path_factory: pytest.TempPathFactory, java_home: Path, kafka_jars: list[Path]
) -> Iterator[dict[str, str]]:
    properties = properties_of_the_image(COMPOSE["services"]["kafka"]["environment"])
    moved, addresses = moved_to_free_ports(properties)
    port = int(addresses["host"].rpartition(":")[2])
    folder = tmp_path_factory.mktemp("compose")
    server = KafkaServer(folder, port, java_home, kafka_jars, "256m", properties=moved)
    server.start()
    try:
        server.wait_until_ready()
        yield addresses
    finally:
        server.stop()


def test_the_file_is_valid_by_the_compose_specification() -> None:
    jsonschema.validate(COMPOSE, SCHEMA, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_port_is_published_on_this_machine_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_has_a_health_check_and_keeps_its_data_in_a_named_volume(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"]
    mounted = [volume for volume in service["volumes"] if not volume.startswith("./")]
    assert mounted
    assert {volume.partition(":")[0] for volume in mounted} <= set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_file_of_ours_is_there_and_only_read(name: str) -> None:
    for volume in SERVICES[name]["volumes"]:
        source, _, target = volume.partition(":")
        if source.startswith("./"):
            assert (ROOT / source).exists()
            assert target.endswith(":ro")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_restarted_and_its_memory_is_bounded(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert re.fullmatch(r"\d+[mg]", SERVICES[name]["mem_limit"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_the_health_of_what_it_needs(name: str) -> None:
    needed = SERVICES[name].get("depends_on", {})
    assert all(one == {"condition": "service_healthy"} for one in needed.values())
    assert needed.keys() <= SERVICES.keys()
    if name in {*OURS} - {"simulator"}:
        assert needed


def test_kafka_and_postgresql_alone_by_default() -> None:
    profiles = {name: service.get("profiles") for name, service in SERVICES.items()}
    assert [name for name, found in profiles.items() if found is None] == ["kafka", "postgres"]
    assert {name for name, found in profiles.items() if found == ["monitoring"]} == {"prometheus", "grafana"}
    assert {name for name, found in profiles.items() if found == ["simulated"]} == {"simulator"}
    assert {name for name, found in profiles.items() if found == ["all"]} == {*OURS} - {"simulator"}
    assert set(OURS) == METRICS_PORTS.keys() | {"dashboard"}


def test_our_image_is_built_once_for_all_services_and_never_fetched() -> None:
    policies = {name: SERVICES[name]["pull_policy"] for name in OURS}
    assert policies == dict.fromkeys(OURS, "never") | {"processor": "build"}
    assert [name for name in OURS if "build" in SERVICES[name]] == ["processor"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    for argument, value in SERVICES["processor"]["build"]["args"].items():
        assert f"\nARG {argument}=" in dockerfile
        if value is not None:
            assert f"ARG {argument}={interpolated(value, {})}\n" in dockerfile


def test_no_service_asks_for_more_than_an_old_engine_has() -> None:
    """``start_interval`` needs Engine 25, and compose refuses the whole file with an older one."""
    assert not [name for name, service in SERVICES.items() if "start_interval" in service["healthcheck"]]


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - OURS))
def test_another_image_has_a_version(name: str) -> None:
    assert re.fullmatch(r"[a-z/]+:v?[0-9.]+", SERVICES[name]["image"])


def interpolated(value: str, given: Mapping[str, str]) -> str:
    """Replace ``${NAME:-default}`` as compose does."""
    return re.sub(r"\$\{([A-Z_]+):-([^}]*)\}", lambda found: given.get(found[1]) or found[2], value)


def in_container(name: str) -> dict[str, str]:
    """Return the environment of the service's container, with an empty ``.env``."""
    variables = SERVICES[name]["environment"].items()
    return {variable: interpolated(value, {}) for variable, value in variables if value is not None}


@pytest.mark.parametrize("name", OURS)
def test_what_is_set_are_settings_whose_defaults_are_ours(name: str) -> None:
    own = {
        "KAFKA_BOOTSTRAP",
        "POSTGRES_URL",
        "METRICS_HOST",
        "METRICS_PORT",
        "POSTGRES_PASSWORD",
        "SIMULATOR_HOST",
    }
    given = {
        variable.removeprefix(PREFIX): value
        for variable, value in in_container(name).items()
        if variable.startswith(PREFIX)
    }
    assert {variable.lower() for variable in given} <= FIELDS.keys()
    assert load(**{name.lower(): value for name, value in given.items() if name not in own}) == load()


def test_no_password_is_anywhere_but_in_the_environment_of_who_needs_it() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if "PASSWORD" in variable or "CHANNELS" in variable:
                assert value is None or value.startswith("${"), f"{name}: {variable} is written down"
    owners = [name for name in OURS if "CANDLEFLOW_POSTGRES_PASSWORD" in SERVICES[name]["environment"]]
    assert owners == ["processor"]


@dataclass
class Service:
    """A compose service that runs as a process of this machine, with its command and environment.

    ``elsewhere`` replaces variables that only work in a container. ``first_port`` replaces 9464; it and the
    ports after it must be free.
    """

    name: str
    folder: Path
    first_port: int
    elsewhere: InitVar[Mapping[str, str]] = MappingProxyType({})
    variables: dict[str, str] = field(init=False)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self, elsewhere: Mapping[str, str]) -> None:
        self.variables = environment() | in_container(self.name) | here(self.folder, self.first_port)
        self.variables |= elsewhere

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the process and stop it at the end."""
        with started(with_this_python(SERVICES[self.name]["command"]), self.variables, self.log) as process:
            self.process = process
            yield process

    def is_well(self) -> bool:
        """Return whether the health check of the compose file passes."""
        kind, *check = SERVICES[self.name]["healthcheck"]["test"]
        assert kind == "CMD"
        done = subprocess.run(with_this_python(check), env=self.variables, cwd=ROOT, check=False)
        return done.returncode == 0

    def ready(self) -> tuple[int, str]:
        """Return the answer of /readyz."""
        above = METRICS_PORTS.get(self.name)
        page = int(self.variables["CANDLEFLOW_DASHBOARD_PORT"])
        return asked(page if above is None else self.first_port + above, "/readyz")

    def said(self) -> str:
        return f"--- {self.name}: {self.ready()}\n{self.log.read_text()[-2_000:]}"


def with_this_python(command: Sequence[str]) -> list[str]:
    python, *arguments = command
    assert python == "python"
    return [sys.executable, *arguments]


def free_blocks() -> Iterator[int]:
    """Yield the first of ten free ports. They are below the range from which the kernel assigns ports."""
    for first in range(20_000, 30_000, 10):
        if all(is_free(port) for port in range(first, first + 10)):
            yield first


@pytest.mark.parametrize("name", ["producer", "audit", "alerts", "forecaster"])
def test_a_process_starts_by_its_command_and_the_health_check_finds_it(name: str, tmp_path: Path) -> None:
    """Without Kafka and PostgreSQL the process waits, is healthy, and ends with status 0 on SIGTERM."""
    service = Service(name, tmp_path, next(free_blocks()))
    with service.running() as process:
        assert wait_for(
            lambda: "waiting" in service.ready()[1] or process.poll() is not None, START_SECONDS
        ), service.said()
        assert process.poll() is None, service.said()
        assert service.is_well()
    assert process.returncode == 0, service.said()
    assert not service.is_well()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the database of simulated trades, with the compose file's user and password."""
    folder = tmp_path_factory.mktemp("database")
    server = PostgresServer(folder, free_port(), credentials=folder / "credentials.json", fsync=False)
    asked_for = SERVICES["postgres"]["environment"]
    user, name = asked_for["POSTGRES_USER"], asked_for["POSTGRES_DB"]
    server.start()
    try:
        server.wait_until_ready()
        name = load(exchange="simulator", postgres_url=f"postgresql://{user}@postgres/{name}").database.name
        server.provide(user, name, interpolated(asked_for["POSTGRES_PASSWORD"], {}))
        yield server.url(user, name)
    finally:
        server.stop()


def by_their_needs() -> Iterator[str]:
    """Return our services, each after those that it depends on."""
    needs = {name: service.get("depends_on", {}).keys() for name, service in SERVICES.items()}
    return (name for name in TopologicalSorter(needs).static_order() if name in OURS)


@pytest.fixture(scope="module")
def everything(
    tmp_path_factory: pytest.TempPathFactory,
    doors: dict[str, str],
    database: str,
    cache_dir: Path,
    spark_jars: list[Path],
) -> Iterator[dict[str, Service]]:
    """Run all our services and the simulator, with real servers, started in compose's order.

    Each must end with status 0.
    """
    assert spark_jars
    folder, blocks = tmp_path_factory.mktemp("everything"), free_blocks()
    hosts = {"kafka:19092": doors["inside"], "postgres:5432": database.rpartition("@")[2].partition("/")[0]}
    moved = {
        "CANDLEFLOW_CACHE_DIR": str(cache_dir),
        "CANDLEFLOW_EXCHANGE": "simulator",
        "CANDLEFLOW_EXCHANGE_WS_URL": "",
        "CANDLEFLOW_EXCHANGE_REST_URL": "",
        "CANDLEFLOW_SIMULATOR_HOST": "127.0.0.1",
        "CANDLEFLOW_SIMULATOR_PORT": str(free_port()),
        "STREAMLIT_SERVER_ADDRESS": "127.0.0.1",
    }
    services: dict[str, Service] = {}
    with ExitStack() as running:
        for name in by_their_needs():
            for needed in SERVICES[name].get("depends_on", {}).keys() & services.keys():
                awaited(services[needed].is_well, START_SECONDS, services[needed].said)
            addresses = {
                variable: value.replace(host, hosts[host])
                for variable, value in in_container(name).items()
                for host in hosts
                if host in value
            }
            services[name] = Service(name, folder, next(blocks), moved | addresses)
            running.enter_context(services[name].running())
        yield services
    for service in services.values():
        assert service.process is not None
        assert service.process.returncode == 0, service.said()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_together_store_candles_and_each_health_check_finds_its_own(
    everything: dict[str, Service], database: str
) -> None:
    def said() -> str:
        return "\n".join(service.said() for service in everything.values())

    def candles() -> int:
        with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM candles WHERE source = 'trades'")
            return int((cursor.fetchone() or (0,))[0])

    assert everything.keys() == set(OURS)
    awaited(lambda: everything["processor"].ready()[0] == 200, START_SECONDS, said)
    awaited(candles, START_SECONDS, said)
    for service in everything.values():
        awaited(lambda one=service: one.ready()[0] == 200, START_SECONDS, said)  # type: ignore[misc]
        assert service.is_well(), said()
        assert service.process is not None
        assert service.process.poll() is None, said()


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_prometheus
def test_prometheus_reads_all_of_them(everything: dict[str, Service], tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"

    def where(target: str) -> str:
        """Map a target to its address here, where services have other ports than in their containers."""
        name, _, inside = target.partition(":")
        service = everything[name]
        page = service.variables["CANDLEFLOW_DASHBOARD_PORT"]
        first = int(in_container(name)["CANDLEFLOW_METRICS_PORT"])
        return f"127.0.0.1:{page if name == 'dashboard' else service.first_port + int(inside) - first}"

    def held(query: str, label: str, is_there: Callable[[dict[str, float]], bool]) -> None:
        awaited(
            lambda: is_there(values(port, query, label)),
            START_SECONDS,
            lambda: f"{query}: {values(port, query, label)}\n{log.read_text()[-2_000:]}",
        )

    with started(prometheus(tmp_path, port, where), environment(), log):
        watched = {*OURS} - {"simulator"}
        held("up", "instance", lambda found: len(found) == len(watched) and set(found.values()) == {1.0})
        running = dict.fromkeys(watched - {"dashboard"}, 1.0)
        held('candleflow_process_state{state="running"}', "process", lambda found: found == running)
        held("candleflow_candles_written_total", "job", lambda found: found.get("candleflow", 0) > 0)
        held("candleflow_gaps_open", "job", lambda found: "candleflow" in found)
        held("active_sessions", "job", lambda found: "dashboard" in found)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has 127.0.0.1 alone of the loopback")
def test_the_page_listens_where_the_environment_says(tmp_path: Path) -> None:
    """A container listens on every address.

    This test uses another loopback address than .streamlit/config.toml.
    """
    port = free_port()
    assert in_container("dashboard")["STREAMLIT_SERVER_ADDRESS"] == "0.0.0.0"  # noqa: S104
    variables = environment() | in_container("dashboard") | here(tmp_path, free_port())
    variables |= {"STREAMLIT_SERVER_ADDRESS": "127.0.0.2", "CANDLEFLOW_DASHBOARD_PORT": str(port)}
    command = [sys.executable, *SERVICES["dashboard"]["command"][1:]]
    with started(command, variables, tmp_path / "log"):
        assert wait_for(lambda: asked(port, "/_stcore/health", "127.0.0.2") == (200, "ok"), START_SECONDS), (
            tmp_path / "log"
        ).read_text()
        assert asked(port, "/_stcore/health")[0] == 0
        assert asked(port, "/healthz", "127.0.0.2") == (200, "ok")
        assert asked(port, "/readyz", "127.0.0.2") == (503, "waiting: for PostgreSQL's candles")


def here(folder: Path, port: int) -> dict[str, str]:
    """Return the variables that differ from a container's: folders, ports, and an unreachable exchange."""
    return {
        "CANDLEFLOW_DATA_DIR": str(folder / "data"),
        "CANDLEFLOW_METRICS_HOST": "127.0.0.1",
        "CANDLEFLOW_METRICS_PORT": str(port),
        "CANDLEFLOW_DASHBOARD_PORT": str(free_port()),
        "CANDLEFLOW_EXCHANGE_WS_URL": "ws://127.0.0.1:9",
        "CANDLEFLOW_EXCHANGE_REST_URL": "http://127.0.0.1:9",
    }


def asked(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    """Return status and body; status 0 if the port is closed."""
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode().strip()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def test_the_guides_command_that_adopts_a_topic_is_run_by_the_owner() -> None:
    guide = (ROOT / "docs" / "start" / "docker.md").read_text()
    (line,) = re.findall(r"(?m)^docker compose exec (.* adopt-topic)$", guide)
    assert f"docker compose exec {line}" == ADOPT_IN_COMPOSE
    name, *command = line.split()
    assert command == ["python", "-m", "candleflow", "adopt-topic"]
    assert command[-1] in COMMANDS
    assert "CANDLEFLOW_POSTGRES_PASSWORD" in SERVICES[name]["environment"]


def test_the_defaults_of_the_settings_are_the_addresses_of_the_compose_file() -> None:
    settings = load()
    environment = COMPOSE["services"]["postgres"]["environment"]
    host_door = COMPOSE["services"]["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"HOST://{settings.kafka.bootstrap}" in host_door
    assert COMPOSE["services"]["postgres"]["ports"] == [f"127.0.0.1:{settings.database.port}:5432"]
    assert environment["POSTGRES_USER"] == settings.database.owner
    assert environment["POSTGRES_DB"] == settings.database.name
    assert environment["POSTGRES_PASSWORD"] == f"${{CANDLEFLOW_POSTGRES_PASSWORD:-{DEVELOPMENT_PASSWORD}}}"


@pytest.mark.parametrize(("written_by", "read_by"), [("host", "inside"), ("inside", "host")])
def test_the_broker_is_reached_by_both_doors(
    doors: dict[str, str], topic: str, written_by: str, read_by: str
) -> None:
    ensure_topics(doors[written_by], [topic], 1, 1, 1)
    producer = KafkaProducer(bootstrap_servers=doors[written_by])
    producer.send(topic, b"a trade").get(timeout=30)
    producer.close()
    consumer = KafkaConsumer(
        topic, bootstrap_servers=doors[read_by], auto_offset_reset="earliest", consumer_timeout_ms=30_000
    )
    try:
        assert next(consumer).value == b"a trade"
    finally:
        consumer.close()


def checked(address: str) -> bool:
    """Return whether Kafka's health check passes with another address."""
    kind, *command = SERVICES["kafka"]["healthcheck"]["test"]
    assert kind == "CMD"
    moved = [word.replace("kafka/19092", address.replace(":", "/")) for word in command]
    return subprocess.run(moved, capture_output=True, check=False, timeout=30).returncode == 0


def test_the_brokers_health_check_passes_only_if_the_broker_answers(doors: dict[str, str]) -> None:
    assert checked(doors["inside"])
    assert not checked(f"127.0.0.1:{free_port()}")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not checked(f"127.0.0.1:{silent.getsockname()[1]}")


def test_the_broker_has_the_settings_of_make_run(tmp_path: Path) -> None:
    """Except addresses, which differ."""
    here = KafkaServer(tmp_path, free_port(), tmp_path, [])._own_properties()
    there = properties_of_the_image(COMPOSE["services"]["kafka"]["environment"])
    addresses = {name for name in here if "listener" in name or "voters" in name}
    assert {name: there.get(name) for name in here.keys() - addresses} == {
        name: here[name] for name in here.keys() - addresses
    }


def test_the_broker_of_the_compose_file_makes_no_topic_by_a_misspelt_name(
    doors: dict[str, str], topic: str
) -> None:
    producer = KafkaProducer(bootstrap_servers=doors["host"], max_block_ms=2_000)
    with pytest.raises(Exception, match=r"(?i)unknown|metadata|timeout"):
        producer.send(topic, b"a trade").get(timeout=10)
    producer.close()
