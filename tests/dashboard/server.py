"""The page's real server in a separate process."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from candleflow.dashboard.process import command
from candleflow.settings import Settings
from candleflow.stack.process import free_port

READY_SECONDS = 120  # a busy machine has taken more than 40
STOP_SECONDS = 10


@dataclass(frozen=True)
class PageServer:
    url: str
    port: int
    process: psutil.Process
    log: Path


@contextmanager
def page_server(settings: Settings, port: int | None = None, **environment: str) -> Iterator[PageServer]:
    """Serve the page during the block; SIGTERM must then end it with status 0."""
    port = port or free_port()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "page.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(port, settings.dashboard.public_url),
                cwd=folder,
                env={**page_environment(settings), **environment},
                stdout=output,
                stderr=output,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_healthy(url, process, log)
            yield PageServer(url, port, psutil.Process(process.pid), log)
        finally:
            status = _stop(process)
        text = log.read_text()
        assert status == 0, text
        assert "Traceback" not in text, text


def page_environment(settings: Settings) -> Mapping[str, str]:
    """Return this process's environment with the settings' addresses, and no other variable of ours."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CANDLEFLOW_")}
    assert settings.postgres.password is not None
    return {
        **inherited,
        "CANDLEFLOW_POSTGRES_URL": settings.postgres.url.get_secret_value(),
        "CANDLEFLOW_POSTGRES_PASSWORD": settings.postgres.password.get_secret_value(),
        "CANDLEFLOW_DATA_DIR": str(settings.stack.data_dir),
        "CANDLEFLOW_SYMBOLS": ",".join(settings.symbols),
        "CANDLEFLOW_EXCHANGE": settings.exchange.name,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2):  # noqa: S310 - our own address
                return
        except OSError:  # no connection yet, or no answer in time
            time.sleep(0.05)
    raise AssertionError(f"the page's server wasn't ready in {READY_SECONDS} s:\n{log.read_text()}")


def _stop(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
