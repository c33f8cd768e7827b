"""The supervisor with real child processes: restarts, back-off, fatal errors, order of a stop."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from candleflow.backoff import Backoff
from candleflow.errors import StackError
from candleflow.stack import process
from candleflow.stack.supervisor import Part, SupervisedPart, Supervisor

FOR_EVER = (
    "import signal, sys; signal.signal(15, lambda *_: sys.exit(0)); print('up', flush=True); signal.pause()"
)
STUBBORN = (
    "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()"
)


def part(folder: Path, code: str, name: str = "part", **more: object) -> Part:
    log = folder / f"{name}.log"

    def launch() -> subprocess.Popen[bytes]:
        return process.spawn([sys.executable, "-S", "-c", code], log=log)

    return Part(name, launch, log, **more)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool], within_seconds: float = 20) -> None:
    async with asyncio.timeout(within_seconds):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def supervisor(**more: object) -> AsyncIterator[tuple[Supervisor, list[tuple[str, str]]]]:
    seen: list[tuple[str, str]] = []

    def note(supervised: SupervisedPart) -> None:
        seen.append((supervised.part.name, supervised.state))

    one = Supervisor(note, **more)  # type: ignore[arg-type]
    try:
        yield one, seen
    finally:
        await one.stop([(5, [supervised.part.name for supervised in one.parts])])


def has_said(one: Part, word: str) -> bool:
    return one.log.exists() and word in one.log.read_text()


async def test_a_part_that_dies_is_restarted(tmp_path: Path) -> None:
    async with supervisor(restarts=lambda: Backoff(0.01, 0.01)) as (one, seen):
        supervised = one.start(part(tmp_path, FOR_EVER))
        await until(lambda: has_said(supervised.part, "up"))
        assert supervised.child is not None
        first = supervised.child.pid
        supervised.child.kill()
        await until(lambda: supervised.child is not None and supervised.child.pid != first)
        assert supervised.restarts == 1
        assert ("part", "restarting") in seen


async def test_each_failure_in_a_row_waits_longer_and_a_stable_run_resets_the_delay(tmp_path: Path) -> None:
    waited: list[float] = []

    class Noted(Backoff):
        def next_delay(self) -> float:
            waited.append(super().next_delay())
            return waited[-1]

    def restarts() -> Backoff:
        return Noted(0.01, 1.0, lambda: 1.0)

    async with supervisor(restarts=restarts) as (one, _):
        one.start(part(tmp_path, "raise SystemExit(1)"))
        await until(lambda: len(waited) >= 3)
        assert waited[:3] == [0.01, 0.02, 0.04]
    waited.clear()
    async with supervisor(restarts=restarts, stable_seconds=0) as (one, _):
        one.start(part(tmp_path, "raise SystemExit(1)"))
        await until(lambda: len(waited) >= 3)
        assert waited[:3] == [0.01, 0.01, 0.01]


async def test_a_part_that_ends_with_a_bad_setting_is_not_restarted(tmp_path: Path) -> None:
    async with supervisor(restarts=lambda: Backoff(0.0, 0.0)) as (one, _):
        supervised = one.start(
            part(tmp_path, "print('CANDLEFLOW_X is wrong', flush=True); raise SystemExit(2)")
        )
        await until(lambda: supervised.state == "failed")
        assert supervised.restarts == 0
        assert "CANDLEFLOW_X is wrong" in supervised.message


async def test_the_last_log_lines_of_a_dead_part_are_shown(tmp_path: Path) -> None:
    async with supervisor(restarts=lambda: Backoff(60.0, 60.0, lambda: 1.0)) as (one, _):
        supervised = one.start(part(tmp_path, "print('the last straw', flush=True); raise SystemExit(7)"))
        await until(lambda: supervised.state == "restarting")
        assert "ended with status 7; restarting in 60 s" in supervised.message
        assert "the last straw" in supervised.message


async def test_an_essential_part_that_never_becomes_ready_is_an_error(tmp_path: Path) -> None:
    async with supervisor() as (one, _):
        dying = part(
            tmp_path, "print('no space left'); raise SystemExit(1)", is_ready=lambda: False, is_essential=True
        )
        with pytest.raises(StackError, match="part could not be started: no space left"):
            await one.ready(one.start(dying))


async def test_an_essential_part_that_is_not_ready_in_time_is_an_error_with_the_reason(
    tmp_path: Path,
) -> None:
    async with supervisor() as (one, _):
        refusing = part(
            tmp_path, FOR_EVER, is_ready=lambda: False, not_ready=lambda: "it speaks no TLS",
            ready_seconds=0.2, is_essential=True,
        )  # fmt: skip
        with pytest.raises(
            StackError, match=r"part could not be started: not ready after .* s: it speaks no TLS"
        ):
            await one.ready(one.start(refusing))


async def test_a_late_part_shows_what_it_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("candleflow.stack.supervisor.LATE_SECONDS", 0.1)
    answers = [False]
    async with supervisor() as (one, _):
        late = one.start(
            part(tmp_path, FOR_EVER, is_ready=lambda: answers[0], not_ready=lambda: "HTTP Error 404")
        )
        await until(lambda: late.message == "HTTP Error 404")
        assert late.state == "starting"
        answers[0] = True
        await one.ready(late)
        assert (late.state, late.message) == ("running", "")


async def test_an_essential_part_whose_preparation_fails_is_an_error_and_is_never_started(
    tmp_path: Path,
) -> None:
    def prepare() -> None:
        raise StackError("the folder is broken: mv it")

    async with supervisor() as (one, _):
        supervised = one.start(part(tmp_path, FOR_EVER, prepare=prepare, is_essential=True))
        with pytest.raises(StackError, match="the folder is broken"):
            await one.watch()
        assert supervised.child is None


async def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    absent = Part(
        "absent",
        lambda: process.spawn(["/nowhere/absent"], log=tmp_path / "log"),
        tmp_path / "log",
        is_essential=True,
    )
    async with supervisor() as (one, _):
        with pytest.raises(StackError, match="absent could not be started"):
            await one.ready(one.start(absent))


async def test_a_stop_sends_a_signal_first_and_leaves_no_process(tmp_path: Path) -> None:
    async with supervisor() as (one, seen):
        supervised = one.start(part(tmp_path, FOR_EVER))
        await until(lambda: has_said(supervised.part, "up"))
        await one.stop([(10, ["part"])])
        assert supervised.child is not None
        assert supervised.child.returncode == 0
        assert seen[-2:] == [("part", "stopping"), ("part", "stopped")]


async def test_a_part_that_does_not_stop_is_killed_with_its_children(tmp_path: Path) -> None:
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {STUBBORN!r}])\n{STUBBORN}"
    async with supervisor() as (one, _):
        supervised = one.start(part(tmp_path, code))
        await until(lambda: supervised.part.log.exists() and supervised.part.log.read_text().count("up") == 2)
        assert supervised.child is not None
        members = [psutil.Process(supervised.child.pid), *psutil.Process(supervised.child.pid).children()]
        assert len(members) == 2
        await one.stop([(0.1, ["part"])])
        _, alive = psutil.wait_procs(members, timeout=10)
        assert alive == []
        assert supervised.message.startswith("killed")


async def test_stages_are_stopped_one_after_the_other(tmp_path: Path) -> None:
    async with supervisor() as (one, seen):
        for name in ("kafka", "producer"):
            supervised = one.start(part(tmp_path, FOR_EVER, name))
            await until(lambda kept=supervised: has_said(kept.part, "up"))  # type: ignore[misc]
        await one.stop([(5, ["producer"]), (5, ["kafka"])])
        stops = [item for item in seen if item[1] in ("stopping", "stopped")]
        assert stops == [
            ("producer", "stopping"),
            ("producer", "stopped"),
            ("kafka", "stopping"),
            ("kafka", "stopped"),
        ]


def test_a_child_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from candleflow.stack import process
child = process.spawn([sys.executable, "-S", "-c", {FOR_EVER!r}], log=Path({str(tmp_path / "log")!r}))
print(child.pid, flush=True)
child.wait()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert process.wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 10)


def test_a_process_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    child = process.spawn([sys.executable, "-S", "-c", STUBBORN], log=tmp_path / "log")
    assert process.wait_for(lambda: "up" in (tmp_path / "log").read_text(), 10)
    process.stop(child, signal.SIGTERM, 0.1)
    assert child.returncode == -signal.SIGKILL


def test_a_log_stays_bounded_under_a_writer_that_keeps_it_open(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 1_500)
        process.trim_log(log, 1_000)
        writer.write(b"after\n")
    assert log.read_bytes() == b"after\n"
    assert (tmp_path / "part.log.1").stat().st_size == 1_000
