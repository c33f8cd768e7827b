"""``up`` waits for the page only for a limited time; reasons why a page or PostgreSQL can't be used."""

from __future__ import annotations

import asyncio
import io
import sys
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from candleflow.errors import StackError
from candleflow.settings import load
from candleflow.stack import process, up
from candleflow.stack.postgres import find_identity
from candleflow.stack.supervisor import Part


async def test_a_page_that_never_answers_is_reported_with_the_reason_and_blocks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    one = up._Session(load(data_dir=tmp_path / "data"), "up", Console(file=said))
    one._settings.stack.run_dir.mkdir(parents=True)
    log = tmp_path / "page.log"
    forever = partial(process.spawn, [sys.executable, "-S", "-c", "import signal; signal.pause()"], log=log)
    page = Part("dashboard", forever, log, is_ready=lambda: False, not_ready=lambda: "HTTP Error 404")
    monkeypatch.setattr(up, "_PAGE_SECONDS", 0.2)
    monkeypatch.setattr("candleflow.stack.supervisor.LATE_SECONDS", 0.0)
    monkeypatch.setattr(one, "_page", lambda: page)
    try:
        async with asyncio.timeout(20):
            await one._wait_for_page()
    finally:
        await one._supervisor.stop([(5, ["dashboard"])])
    assert f"starting the rest without it: HTTP Error 404 (log: {log})" in said.getvalue()


def test_an_address_that_does_not_answer_is_named_in_the_reason() -> None:
    url = f"http://127.0.0.1:{process.free_port()}/health"
    assert process.why_no_answer(url).startswith(f"{url}: ")
    assert not process.answers(url)


def test_postgres_for_a_user_id_without_a_name_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_such_user(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("os.geteuid", lambda: 54_321)
    monkeypatch.setattr("pwd.getpwuid", no_such_user)
    with pytest.raises(
        StackError, match=r"^PostgreSQL can't run as the user id 54321, .*CANDLEFLOW_POSTGRES_URL"
    ):
        find_identity(tmp_path)
