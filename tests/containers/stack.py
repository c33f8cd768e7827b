"""The containers of docker-compose.yml, as a project of the tests, and what is seen of them from outside."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import yaml

from candleflow import settings
from candleflow.market.trade import Trade
from candleflow.market.window import SECOND_US
from candleflow.simulator.market import SeededMarket
from candleflow.stack.process import answers, free_port, is_free
from candleflow.store.credentials import DEVELOPMENT_PASSWORD
from tests.containers.engine import BUILD_SECONDS, docker, run
from tests.containers.images import OWN
from tests.oracle import OracleCandle, candles, differences, stored_candles
from tests.processes import ROOT, awaited

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
OURS = [name for name, one in SERVICES.items() if one["image"] == "candleflow"]
PORTS = {"kafka": 9092, "postgres": 5432, "dashboard": 8501}
SYMBOLS = ("BTCUSDT", "ETHUSDT")
SEED, RATE = 7, 40.0
FLOW_SECONDS = 600
"""Time limit until trades are in candles again after a start or a fault."""
AUDIT_SECONDS = 900
"""Time limit until the auditor has found lost trades, and the producer has fetched them."""
WINDOW_US = 5 * SECOND_US


@dataclass
class Stack:
    """The compose file's project ``name``. Only names of images, and ports that are in use, are replaced."""

    name: str
    folder: Path
    compose: Sequence[str | Path]
    images: Mapping[str, str]
    profiles: Sequence[str]
    ports: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.ports = {name: port if is_free(port) else free_port() for name, port in PORTS.items()}
        (self.folder / "override.yml").write_text(self._override())
        variables = {
            "PYTHON_IMAGE": self.images["python"],
            "CANDLEFLOW_EXCHANGE": "simulator",
            "CANDLEFLOW_SYMBOLS": ",".join(SYMBOLS),
            "CANDLEFLOW_HISTORY_HOURS": 0,
            "CANDLEFLOW_SIMULATOR_SEED": SEED,
            "CANDLEFLOW_SIMULATOR_RATE": RATE,
        }
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))

    @property
    def image(self) -> str:
        return f"{OWN}candleflow"

    @property
    def env_file(self) -> Path:
        return self.folder / ".env"

    def _override(self) -> str:
        images = dict.fromkeys(OURS, self.image) | {name: self.images[name] for name in ("kafka", "postgres")}
        override = {"services": {name: {"image": image} for name, image in images.items()}}
        text: str = yaml.safe_dump(override)
        for name, port in self.ports.items():
            if port != PORTS[name]:
                text = text.replace(
                    f"  {name}:\n", f"  {name}:\n    ports: !override ['127.0.0.1:{port}:{PORTS[name]}']\n"
                )
        if self.ports["kafka"] != PORTS["kafka"]:
            listeners = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
            moved = listeners.replace(f":{PORTS['kafka']}", f":{self.ports['kafka']}")
            text = text.replace(
                "  kafka:\n", f"  kafka:\n    environment: {{KAFKA_ADVERTISED_LISTENERS: '{moved}'}}\n"
            )
        return text

    def command(self, *arguments: str) -> list[str | Path]:
        files = ("-f", ROOT / "docker-compose.yml", "-f", self.folder / "override.yml")
        profiles = [f"--profile={profile}" for profile in self.profiles]
        return [*self.compose, "-p", self.name, "--env-file", self.env_file, *files, *profiles, *arguments]

    def run(self, *arguments: str, seconds: float = 300) -> str:
        """Run a compose command and return what it printed."""
        done = run(*self.command(*arguments), seconds=seconds)
        assert done.returncode == 0, f"compose {arguments}: {done.stdout[-2_000:]}{done.stderr[-4_000:]}"
        return done.stdout

    def build(self) -> None:
        self.run("build", seconds=BUILD_SECONDS)

    def remove(self) -> None:
        """Remove the containers, networks and volumes, however the test ended."""
        self.run("down", "--volumes", "--remove-orphans", "--timeout", "5")

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return what the engine says of each service's container."""
        ids = self.run("ps", "--all", "--quiet").split()
        found = json.loads(docker("inspect", *ids)) if ids else []
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}

    def unhealthy(self) -> list[str]:
        """Return the services that don't run, or whose health check fails or has not passed yet."""
        found = self.containers()
        return [
            name for name, one in found.items() if one["State"].get("Health", {}).get("Status") != "healthy"
        ]

    def wait_until_healthy(self, seconds: float = FLOW_SECONDS) -> None:
        awaited(
            lambda: not self.unhealthy(), seconds, lambda: f"not healthy: {self.unhealthy()}\n{self.logs()}"
        )

    def logs(self, *services: str) -> str:
        return self.run("logs", "--no-color", "--tail=100", *services)

    def processes(self, service: str) -> list[int]:
        """Return the process ids of a container, as the engine's machine has them."""
        _, *lines = docker("top", self.containers()[service]["Id"], "-eo", "pid").splitlines()
        return [int(line) for line in lines]

    def on_machine(self, script: str) -> str:
        """Run a shell script on the engine's machine, where the processes of all containers are visible."""
        image = self.images["python"]
        return docker("run", "--rm", "--network=none", "--pid=host", image, "sh", "-c", script)

    def page_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['dashboard']}"

    def page_answers(self) -> bool:
        return answers(f"{self.page_url()}/_stcore/health")

    def connection(self) -> Any:
        """Connect to the simulated exchange's database, as its owner."""
        url = f"postgresql://candleflow@127.0.0.1:{self.ports['postgres']}/candleflow"
        name = settings.load(exchange="simulator", postgres_url=url).database.name
        return psycopg2.connect(
            host="127.0.0.1", port=self.ports["postgres"], dbname=name,
            user="candleflow", password=DEVELOPMENT_PASSWORD, connect_timeout=5,
        )  # fmt: skip

    def stored(self) -> dict[tuple[Any, ...], OracleCandle]:
        """Return the stored 5-second candles; none if PostgreSQL or the table isn't there yet."""
        try:
            with closing(self.connection()) as connection:
                return {key: one for key, one in stored_candles(connection).items() if one.interval == "5s"}
        except psycopg2.Error:
            return {}

    def wait_for_exact_candles(self, seconds: float = FLOW_SECONDS) -> int:
        """Wait until the candles until now, and the next one, are as the exchange's trades make them.

        Return how many. The next one, because the first stored candle of a symbol isn't compared.
        """
        until = (time.time_ns() // 1_000 // WINDOW_US + 2) * WINDOW_US
        found: list[int] = []

        def problems() -> list[str]:
            stored = {key: one for key, one in self.stored().items() if micros(one) < until}
            expected = expected_candles(stored.values(), until)
            kept = {key: stored[key] for key in stored.keys() - first_of_each(stored.values())}
            found[:] = [len(expected)]
            return differences(expected, kept) if expected else ["no candle yet"]

        awaited(lambda: not problems(), seconds, lambda: "\n".join([*problems()[:20], self.logs()]))
        return found[0]


def micros(candle: OracleCandle) -> int:
    return int(candle.open_time.timestamp()) * SECOND_US


def first_of_each(stored: Iterable[OracleCandle]) -> set[tuple[Any, ...]]:
    """Return the keys of each symbol's first candle: only a part, as the producer starts within a window."""
    earliest: dict[str, OracleCandle] = {}
    for one in sorted(stored, key=micros):
        earliest.setdefault(one.symbol, one)
    return {(one.symbol, one.interval, one.open_time) for one in earliest.values()}


def expected_candles(stored: Iterable[OracleCandle], until: int) -> dict[tuple[Any, ...], OracleCandle]:
    """Return the candles after each symbol's first stored one, computed from all trades of the exchange.

    The simulated market is a function of its seed, its rate and the time, so no trade needs to be recorded.
    """
    market = SeededMarket(SEED, RATE, SYMBOLS)
    found: dict[tuple[Any, ...], OracleCandle] = {}
    for symbol, interval, opens in first_of_each(stored):
        start = int(opens.timestamp()) * SECOND_US
        ids = (market.id_at(symbol, start), market.id_at(symbol, until))
        trades = [payload(trade) for trade in market.trades(symbol, ids)]
        found |= candles(trades, WINDOW_US // SECOND_US, interval)
        del found[symbol, interval, opens]
    return found


def payload(trade: Trade) -> dict[str, Any]:
    return {
        "s": trade.symbol, "t": trade.trade_id, "T": trade.trade_time, "m": trade.buyer_is_maker,
        "p": str(trade.price), "q": str(trade.quantity),
    }  # fmt: skip
