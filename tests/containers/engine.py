"""The Docker engine and Docker Compose: this machine's, or an engine started for the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from candleflow import settings
from tests.processes import START_SECONDS, awaited, started

BUILD_SECONDS = 1_800

# Some virtual machines don't let even root raise limits, so containers ask for less than Docker's defaults.
_DOCKERD = (
    "dockerd", "--storage-driver=overlay2",
    "--default-ulimit=nofile=1024:4096", "--default-ulimit=nproc=4096:4096",
)  # fmt: skip


def run(
    *command: str | Path, seconds: float = 120, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command and return its result, whatever its exit status."""
    return subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, check=False, env=variables
    )


def docker(*arguments: str | Path, seconds: float = 120) -> str:
    """Run a docker command and return what it printed."""
    done = run("docker", *arguments, seconds=seconds)
    assert done.returncode == 0, f"docker {arguments}: {done.stdout[-2_000:]}{done.stderr[-2_000:]}"
    return done.stdout.strip()


@contextmanager
def engine(log: Path) -> Iterator[None]:
    """Run the block with a Docker engine: the one that answers, or one that ends with the block."""
    if is_running():
        yield
        return
    assert shutil.which("dockerd"), "no Docker engine answers, and this machine has no dockerd to start"
    with started(_DOCKERD, os.environ, log, Path("/")):
        awaited(is_running, START_SECONDS, log.read_text)
        yield


def is_running() -> bool:
    return run("docker", "info").returncode == 0


def compose() -> Sequence[str | Path]:
    """Return the command of Docker Compose: the plugin, or the binary that deploy/containers builds."""
    if run("docker", "compose", "version").returncode == 0:
        return ("docker", "compose")
    return (settings.load().stack.cache_path / "containers" / "docker-compose",)
