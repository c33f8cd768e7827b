"""Every command of docs/start, run as a reader runs it: in a copy of the repository, line by line.

Binance is the simulator, Telegram a double; ports are free ones. What is not run is in ``NOT_RUN``, with why.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from candleflow.stack.process import free_port, spawn, stop, wait_for
from tests.messengers import TELEGRAM, messengers
from tests.processes import environment, started

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "start"
NOT_RUN = {
    "git clone": "the copy stands for the clone",
    "cd ": "the copy is the folder",
    "docker compose": "tests/containers runs the compose file",
}
STAYS = re.compile(
    r"make run|candleflow (services|audit|replay)\b|streamlit run"
    r"|\b(producer|processor|alerts|forecaster)\.py"
)
"""What runs until Ctrl-C."""
PRODUCES = re.compile(r"make run|producer\.py")
FIRST_SECONDS = 150
STOP_SECONDS = 30


def commands(page: str) -> list[str]:
    """The page's lines of bash, without comments, that are to be run."""
    blocks = re.findall(r"(?ms)^ *```bash\n(.*?)^ *```", (PAGES / page).read_text())
    lines = [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(tuple(NOT_RUN))]


@dataclass
class Reader:
    """A reader's shell in a copy of the repository."""

    folder: Path
    variables: dict[str, str]
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def type(self, line: str) -> None:
        """Run a line; one that stays is waited for until candles are stored, if it produces them."""
        if STAYS.search(line):
            log = self.folder / f"said-{len(self.running)}.log"
            shell = ["bash", "-c", f"source .venv/bin/activate; exec env {line}"]
            self.running.append(spawn(shell, log=log, environment=self.variables, cwd=self.folder))
            return
        done = self.run(line)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f"source .venv/bin/activate; {line}"],
            cwd=self.folder, env=self.variables, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    def has_candles(self) -> bool:
        done = self.run('python -m candleflow psql -At -c "SELECT count(*) FROM candles"')
        return done.returncode == 0 and int(done.stdout or 0) > 0

    def sees_candles(self) -> None:
        assert wait_for(lambda: self.has_candles() or self.ended(), FIRST_SECONDS), self.said()
        assert not self.ended(), self.said()

    def ended(self) -> bool:
        return any(one.poll() is not None for one in self.running)

    def said(self) -> str:
        return "\n".join(log.read_text()[-2_000:] for log in sorted(self.folder.glob("said-*.log")))

    def presses_ctrl_c(self) -> None:
        """In each terminal, the last one first; a terminal sends it to all that its line started."""
        for one in reversed(self.running):
            os.killpg(one.pid, signal.SIGINT)
            one.wait(STOP_SECONDS)
        self.running.clear()


@contextmanager
def reader(folder: Path, exchange: int, telegram: str) -> Iterator[Reader]:
    """A copy of what is tracked, with the environment that is made already."""
    copy = folder / "candleflow"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    (copy / ".venv").symlink_to(Path(sys.prefix))
    variables = environment(
        kafka_bootstrap=f"127.0.0.1:{free_port()}",
        postgres_url=f"postgresql://candleflow@127.0.0.1:{free_port()}/candleflow",
        kafka_memory="256m",
        dashboard_port=free_port(),
        exchange_ws_url=f"ws://127.0.0.1:{exchange}",
        exchange_rest_url=f"http://127.0.0.1:{exchange}",
        alert_channels=f"phone={TELEGRAM}",
        alert_telegram_url=telegram,
    ) | {"STREAMLIT_SERVER_PORT": str(free_port()), "STREAMLIT_SERVER_HEADLESS": "true"}
    found = Reader(copy, variables)
    try:
        yield found
    finally:
        for one in reversed(found.running):
            stop(one, signal.SIGINT, STOP_SECONDS)
        found.run("python -m candleflow down")


@pytest.fixture
def at_a_terminal(tmp_path: Path) -> Iterator[Reader]:
    exchange = free_port()
    with ExitStack() as stack:
        simulate = [sys.executable, "-m", "candleflow", "simulate", "--port", str(exchange)]
        stack.enter_context(
            started(
                [*simulate, "--symbols", "BTCUSDT,ETHUSDT,SOLUSDT"], dict(os.environ), tmp_path / "sim.log"
            )
        )
        double = stack.enter_context(messengers())
        yield stack.enter_context(reader(tmp_path, exchange, double.url))


@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.parametrize("page", ["first-candles.md", "three-terminals.md", "symbols.md"])
def test_a_page_that_starts_everything(page: str, at_a_terminal: Reader) -> None:
    after: list[str] = []
    for line in commands(page):
        if STAYS.search(line) or not at_a_terminal.running:
            at_a_terminal.type(line)
        else:
            after.append(line)
    at_a_terminal.sees_candles()
    for line in after:
        at_a_terminal.type(line)
    at_a_terminal.presses_ctrl_c()


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_the_first_alert(at_a_terminal: Reader) -> None:
    *before, add = commands("first-alert.md")
    assert "alerts test" in before[-1]
    assert "alerts add" in add
    for line in (*before, "make run"):
        at_a_terminal.type(line)
    at_a_terminal.sees_candles()
    at_a_terminal.type(add)
    at_a_terminal.presses_ctrl_c()


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_a_recording_is_replayed(at_a_terminal: Reader) -> None:
    with gzip.open(at_a_terminal.folder / "recording.jsonl.gz", "wt") as file:
        for at in range(1_763_851_200_000, 1_763_851_260_000, 100):
            trade = {"e": "trade", "E": at, "s": "BTCUSDT", "t": at // 100, "p": "100.0", "q": "1.0"}
            line = trade | {"T": at, "m": False, "M": True}
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
    port = free_port()
    for command in commands("replay.md"):
        at_a_terminal.type(command.replace("9443", str(port)))
    at_a_terminal.sees_candles()
    at_a_terminal.presses_ctrl_c()


def test_what_isnt_run_has_a_reason_and_every_page_is_known() -> None:
    assert {page.name for page in PAGES.glob("*.md")} == {
        "docker.md", "first-alert.md", "first-candles.md", "replay.md", "symbols.md", "three-terminals.md"
    }  # fmt: skip
    assert commands("docker.md") == []
