"""The README's three terminals: Kafka and PostgreSQL in containers, our three processes beside them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from candleflow.stack.process import answers, free_port
from tests.containers.stack import FLOW_SECONDS, RATE, SEED, SYMBOLS, Stack
from tests.processes import ROOT, awaited, environment, started

pytestmark = [pytest.mark.containers, pytest.mark.long, pytest.mark.timeout(3_600)]

PYTHON = Path(sys.executable)
COMMANDS = {
    "simulator": (PYTHON, "-m", "candleflow", "simulate"),
    "producer": (PYTHON, "producer.py"),
    "processor": (PYTHON, "processor.py"),
    "dashboard": (PYTHON.with_name("streamlit"), "run", "dashboard.py", "--server.port"),
}


@pytest.fixture
def servers(compose: Sequence[str | Path], images: dict[str, str], tmp_path: Path) -> Iterator[Stack]:
    """The services without a profile."""
    stack = Stack("candleflow-test-servers", tmp_path / "servers", compose, images, [])
    stack.remove()
    try:
        stack.run("up", "-d")
        assert sorted(stack.containers()) == ["kafka", "postgres"]
        yield stack
    finally:
        stack.remove()


def test_three_processes_on_this_machine_use_the_servers(
    servers: Stack, tmp_path: Path, figures: dict[str, str]
) -> None:
    """All start at once, right after ``up``: a process that is too early waits."""
    page = str(free_port())
    commands = COMMANDS | {"dashboard": (*COMMANDS["dashboard"], page)}
    variables = environment(
        exchange="simulator",
        symbols=",".join(SYMBOLS),
        history_hours=0,
        simulator_port=free_port(),
        simulator_seed=SEED,
        simulator_rate=RATE,
        kafka_bootstrap=f"127.0.0.1:{servers.ports['kafka']}",
        postgres_url=f"postgresql://candleflow@127.0.0.1:{servers.ports['postgres']}/candleflow",
        data_dir=tmp_path / "data",
    )
    began = time.monotonic()
    logs = {name: tmp_path / f"{name}.log" for name in COMMANDS}

    def said() -> str:
        return "\n".join(f"--- {name}\n{log.read_text()[-3_000:]}" for name, log in logs.items())

    with ExitStack() as running:
        processes = {
            name: running.enter_context(started(command, variables, logs[name], ROOT))
            for name, command in commands.items()
        }
        awaited(servers.stored, FLOW_SECONDS, said)
        figures["three terminals, to the first candle"] = f"{time.monotonic() - began:.0f} s"
        awaited(lambda: answers(f"http://127.0.0.1:{page}/_stcore/health"), FLOW_SECONDS, said)
        servers.wait_for_exact_candles()
        # Not after the stop: Spark logs the exception by which a batch that begins then is refused.
        assert "Traceback" not in said()
    assert {name: process.returncode for name, process in processes.items()} == dict.fromkeys(COMMANDS, 0), (
        said()
    )
