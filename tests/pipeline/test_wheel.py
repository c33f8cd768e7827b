"""The wheel alone, in an empty folder: what ``uvx --from candleflow-*.whl`` runs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from candleflow import settings
from candleflow.stack.process import free_port, wait_for
from tests.processes import ROOT, environment, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # installing takes 10 to 60 s, the start 30

UV = ROOT / ".venv" / "bin" / "uv"
FIRST_CANDLE_SECONDS = 300


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    asked = subprocess.run(
        [UV, "pip", "install", "--target", folder / "backend", "hatchling"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if asked.returncode != 0:
        pytest.skip(f"no package index answers here: {asked.stderr.strip().splitlines()[-1]}")
    subprocess.run([UV, "build", "--wheel", "--quiet", "--out-dir", folder, ROOT], check=True)
    (made,) = folder.glob("*.whl")
    return made


def uvx(wheel: Path, *command: str, extra: str = "") -> list[str]:
    return [
        str(UV),
        "tool",
        "run",
        "--quiet",
        "--python",
        sys.executable,
        "--from",
        f"{wheel}{extra}",
        *command,
    ]


def run(command: Sequence[str], folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=300
    )


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "candleflow"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    page = {"candleflow/dashboard/app/dashboard.py", "candleflow/dashboard/app/.streamlit/config.toml"}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {name for name in listed if (ROOT / name).exists()} | page


def test_without_extras_candles_can_be_read_and_up_says_what_it_lacks(wheel: Path, tmp_path: Path) -> None:
    read = uvx(
        wheel, "python", "-c", "from candleflow.store.reader import CandleReader as r; print(r.__name__)"
    )
    assert run(read, tmp_path, environment()).stdout == "CandleReader\n"
    refused = run(uvx(wheel, "candleflow", "up"), tmp_path, environment())
    assert refused.returncode == 1
    assert "pip install 'candleflow[all]'" in refused.stderr


def test_up_reaches_the_first_candle(
    wheel: Path, tmp_path: Path, kafka_jars: list[Path], spark_jars: list[Path], java_home: Path
) -> None:
    empty, page = tmp_path / "empty", free_port()
    empty.mkdir()
    variables = environment(
        exchange="simulator",
        kafka_bootstrap=f"127.0.0.1:{free_port()}",
        postgres_url=f"postgresql://candleflow@127.0.0.1:{free_port()}/candleflow",
        kafka_memory="256m",
        spark_memory="600m",
        dashboard_port=page,
        simulator_port=free_port(),
        data_dir=tmp_path / "data",
        cache_dir=settings.load().stack.cache_path,
    )

    def status() -> dict[str, object]:
        done = run(uvx(wheel, "candleflow", "status", "--json", extra="[all]"), empty, variables)
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def has_candle(url: str) -> bool:
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) > 0 FROM candles")
            return cursor.fetchone() == (True,)

    log = tmp_path / "up.log"
    with started(uvx(wheel, "candleflow", "up", extra="[all]"), variables, log, empty) as up:
        assert wait_for(lambda: bool(status().get("is_ready")) or up.poll() is not None, 300), log.read_text()
        url = str(status()["postgres_url"])
        assert wait_for(lambda: has_candle(url), FIRST_CANDLE_SECONDS), log.read_text()
        with urllib.request.urlopen(f"http://127.0.0.1:{page}/readyz", timeout=10) as answer:
            assert answer.read() == b"running\n"
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 0, log.read_text()
    assert list(empty.iterdir()) == []
