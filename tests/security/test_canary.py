"""Run the whole system with a known secret in every secret setting, and search its output for them.

A secret may be only in the credentials file, which only its owner can read, in the environment of our
processes, and on the server it is for.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import httpx2 as httpx
import psutil
import pytest
from websockets.exceptions import InvalidHandshake

from candleflow.broker.topics import ensure_topics
from candleflow.settings import FIELDS, METRICS_PORTS, PREFIX
from candleflow.stack.process import free_port, is_free, wait_for
from candleflow.store.credentials import FILE_NAME
from tests.messengers import DISCORD, SECRETS, TELEGRAM, TELEGRAM_BAD_TOKEN, Messengers, messengers
from tests.pipeline.test_stack_up import ROOT, Machine, machine_in, rows
from tests.processes import environment
from tests.security.conftest import PASSWORD, Broker
from tests.security.looking import CommandLines, Secrets, files_below, page_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WAIT_SECONDS: Final = 300.0
GIVEN: Final = {
    f"{PREFIX}POSTGRES_PASSWORD": "canary-of-the-owner",
    f"{PREFIX}POSTGRES_WRITER_PASSWORD": "canary-of-the-writer",
    f"{PREFIX}POSTGRES_READER_PASSWORD": "canary-of-the-reader",
    f"{PREFIX}POSTGRES_ALERTER_PASSWORD": "canary-of-the-alerter",
}
"""The passwords of the other roles are generated; the tests search for those too."""
ODD_CHANNEL: Final = ("canary-of-the-hook-user", "canary-of-the-hook-password", "canary-of-the-hook-path")
WRONG: Final = "canary-that-is-wrong"


@dataclass(frozen=True)
class Scene:
    """The running system, its secrets, and its ports."""

    machine: Machine
    secrets: Secrets
    page_port: int
    metrics_port: int
    command_lines: CommandLines
    messengers: Messengers

    def run_with(self, *arguments: str, **changed: str) -> str:
        """Run a command with changed settings, check that it fails, and return its output."""
        others = {f"{PREFIX}{name}": text for name, text in changed.items()}
        done = replace(self.machine, environment=self.machine.environment | others).run(*arguments)
        assert done.returncode != 0, done.stdout
        return done.stdout + done.stderr


def free_ports(count: int) -> int:
    """Return the first of ``count`` consecutive free ports."""
    while True:
        first = free_port()
        if first + count < 65_536 and all(is_free(first + more) for more in range(count)):
            return first


def channels(there: Messengers) -> str:
    """Return three alert channels; the server rejects everything on the third one."""
    user, password, path = ODD_CHANNEL
    odd = f"json://{user}:{password}@{there.url.removeprefix('http://')}/{path}"
    return f"phone={TELEGRAM}?rto=1,team={DISCORD},hook={odd}"


def kept(machine: Machine) -> dict[str, str]:
    """Return the content of the credentials file."""
    file = machine.folder / "data" / "run" / FILE_NAME
    assert file.stat().st_mode & 0o777 == 0o600
    return dict(json.loads(file.read_text()))


def each_was_tried(there: Messengers) -> bool:
    parts = (SECRETS[0], SECRETS[-1], ODD_CHANNEL[2])
    return all(any(part in path for path in there.requests) for part in parts)


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory, java_home: Path, kafka_jars: list[Path], spark_jars: list[Path]
) -> Iterator[Scene]:
    """The whole system, which logs at DEBUG and has tried to send an alert on each channel."""
    assert java_home
    assert kafka_jars
    assert spark_jars
    folder = tmp_path_factory.mktemp("canary")
    page, metrics = free_port(), free_ports(len(METRICS_PORTS))
    with messengers() as there, CommandLines() as lines:
        there.answer_next(TELEGRAM_BAD_TOKEN)
        machine = machine_in(
            folder,
            CANDLEFLOW_DASHBOARD_PORT=str(page),
            CANDLEFLOW_SIMULATOR_RATE="5",
            CANDLEFLOW_METRICS_PORT=str(metrics),
            CANDLEFLOW_SPARK_MEMORY="600m",
            CANDLEFLOW_LOG_LEVEL="DEBUG",
            CANDLEFLOW_LOG_FORMAT="json",
            CANDLEFLOW_ALERT_CHANNELS=channels(there),
            CANDLEFLOW_ALERT_TELEGRAM_URL=there.url,
            CANDLEFLOW_ALERT_DISCORD_URL=there.url,
            **GIVEN,
        )
        try:
            machine.start("up", WAIT_SECONDS)
            added = machine.run("alerts", "add", "above", "0.01", "--incomplete")
            assert added.returncode == 0, added.stderr
            url = machine.status()["postgres_url"]
            has_candles = "SELECT count(*) > 0 FROM candles"
            assert wait_for(lambda: rows(url, has_candles) == [(True,)], WAIT_SECONDS), machine.said
            assert wait_for(lambda: each_was_tried(there), WAIT_SECONDS), there.requests
            every = {**GIVEN, **kept(machine)} | {one: one for one in (*SECRETS, *ODD_CHANNEL)}
            yield Scene(machine, Secrets(every), page, metrics, lines, there)
        finally:
            machine.end()


def test_every_setting_that_is_a_secret_is_looked_for() -> None:
    """Fails when a secret setting is added: add it to GIVEN, or to the tests with a TLS broker."""
    marked = {name for name, field in FIELDS.items() if "SecretStr" in str(field.annotation)}
    roles = {f"postgres_{role}_password" for role in ("auditor", "forecaster", "editor")}  # made at random
    given = {name.removeprefix(PREFIX).lower() for name in GIVEN}
    assert marked == given | roles | {"alert_channels", "kafka_sasl_password", "postgres_url"}


def test_the_search_finds_what_is_there(scene: Scene) -> None:
    """Check the search itself: it finds secrets in places where they must be."""
    credentials = scene.machine.folder / "data" / "run" / FILE_NAME
    roles = set(kept(scene.machine))
    assert {"candleflow", "candleflow_auditor", "candleflow_forecaster", "candleflow_editor"} <= roles
    assert roles <= set(scene.secrets.within(credentials.read_bytes()))
    assert len(scene.secrets.within("\n".join(scene.messengers.requests))) >= len(SECRETS)


def test_no_file_shows_a_secret(scene: Scene) -> None:
    """Search logs, heartbeats, run files, data of Kafka, PostgreSQL and Spark, and the console output."""
    below = dict(files_below(scene.machine.folder))
    credentials = f"data/run/{FILE_NAME}"
    assert credentials in below
    assert {"said.log", *(f"data/logs/{name}.log" for name in METRICS_PORTS)} <= set(below)
    assert {f"data/run/{name}.json" for name in METRICS_PORTS} <= set(below)
    del below[credentials]
    assert scene.secrets.found_in(below.items()) == []


def test_no_command_line_shows_a_secret(scene: Scene) -> None:
    lines = "\n".join(scene.command_lines.seen)
    assert "initdb" in lines
    assert "org.apache.spark" in lines  # this command line has Spark's whole configuration
    assert scene.secrets.within(lines) == []


def test_no_metrics_show_a_secret(scene: Scene) -> None:
    with httpx.Client(trust_env=False) as client:
        pages = [
            (f"{name}{path}", client.get(f"http://127.0.0.1:{scene.metrics_port + more}{path}"))
            for name, more in METRICS_PORTS.items()
            for path in ("/metrics", "/healthz", "/readyz")
        ]
    assert {answer.status_code for name, answer in pages if name.endswith("/metrics")} == {200}
    assert scene.secrets.found_in((name, answer.content) for name, answer in pages) == []


def test_the_page_shows_no_secret(scene: Scene) -> None:
    address = f"http://127.0.0.1:{scene.page_port}"
    html = httpx.get(address, trust_env=False).content
    for origin in (f"http://localhost:{scene.page_port}", address):
        sent = page_bytes(scene.page_port, origin)
        assert b"BTCUSDT" in sent
        assert scene.secrets.found_in([("the HTML", html), ("the WebSocket", sent)]) == []


@pytest.mark.parametrize("origin", ["http://evil.example", "https://localhost.evil.example", "null"])
def test_a_page_from_elsewhere_gets_nothing(scene: Scene, origin: str) -> None:
    with pytest.raises(InvalidHandshake):
        page_bytes(scene.page_port, origin)


def test_everything_listens_on_this_machine_only(scene: Scene) -> None:
    listening = {
        connection.laddr.ip
        for member in scene.machine.members()
        for connection in member.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    # The JVM listens on 127.0.0.1 as an IPv4-mapped IPv6 address.
    assert listening
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.mark.parametrize(
    ("command", "setting", "says"),
    [
        (["alerts", "list"], "POSTGRES_READER_PASSWORD", "password authentication failed"),
        (["gaps"], "POSTGRES_URL", "must be an address"),
        (["alerts", "test"], "ALERT_CHANNELS", "apprise does not accept this address"),
        (["settings"], "KAFKA_SASL_PASSWORD", "must be unset"),
    ],
)
def test_what_is_said_of_a_wrong_value_does_not_show_it(
    scene: Scene, command: Sequence[str], setting: str, says: str
) -> None:
    values = {"POSTGRES_URL": f"mysql://me:{WRONG}@127.0.0.1/x", "ALERT_CHANNELS": f"phone=nothing://{WRONG}"}
    said = scene.run_with(*command, **{setting: values.get(setting, WRONG)})
    assert says in said
    assert WRONG not in said
    assert scene.secrets.within(said) == []


def at_broker(broker: Broker, password: str, **more: object) -> dict[str, str]:
    """Return the environment of a program that uses this broker and logs at DEBUG."""
    return environment(
        kafka_bootstrap=f"127.0.0.1:{broker.programs}",
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_username="producer",
        kafka_sasl_password=password,
        kafka_ssl_ca=broker.authority.file,
        log_level="DEBUG",
        **more,
    )


def run_at(variables: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS,
    )  # fmt: skip


@pytest.mark.parametrize("program", ["producer", "processor"])
def test_what_is_said_of_kafkas_refusal_does_not_show_the_password(
    broker: Broker, program: str, tmp_path: Path
) -> None:
    variables = at_broker(broker, WRONG, exchange="simulator", data_dir=tmp_path, log_format="text")
    done = run_at(variables, "candleflow", program)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "check CANDLEFLOW_KAFKA_SASL_USERNAME and CANDLEFLOW_KAFKA_SASL_PASSWORD" in said
    secrets = Secrets({"Kafka's password": WRONG})
    assert secrets.found_in([("what is said", said), *files_below(tmp_path)]) == []


def test_kafkas_clients_and_spark_show_no_password(broker: Broker, tmp_path: Path) -> None:
    """Search Spark's configuration, plans, event log, checkpoint, errors and DEBUG log."""
    settings, topic = broker.settings(), "trades.canary"
    ensure_topics(
        settings.kafka.bootstrap, [topic, f"{topic}.rejected"], 1, 1, 1, time.monotonic() + WAIT_SECONDS
    )
    done = run_at(at_broker(broker, PASSWORD), "tests.security.spark_reading", str(tmp_path), topic)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    below = dict(files_below(tmp_path))
    events = b"".join(content for name, content in below.items() if name.startswith("events/"))
    assert b"SparkListenerSQLExecutionStart" in events
    assert "Traceback" in said
    # Search for the part without the quote, because the quote may be escaped in several ways.
    secrets = Secrets({"Kafka's password": PASSWORD.partition(" ")[2].strip("\\")})
    assert secrets.found_in([("what is said", said), *below.items()]) == []
