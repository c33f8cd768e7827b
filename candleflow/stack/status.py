"""The commands ``status``, ``down`` and ``psql``, which show and stop processes and open the database."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from typing import Any, Final

import psutil
from rich.console import Console
from rich.table import Table

from candleflow import settings as settings_module
from candleflow.errors import HeldError, StackError
from candleflow.market.shard import PRODUCER
from candleflow.producer.roster import reported_shards
from candleflow.settings import Settings
from candleflow.stack import process
from candleflow.stack.display import counted
from candleflow.stack.postgres import binary
from candleflow.stack.run_file import Run, hold_run_lock, read_run, stop_leftovers
from candleflow.store import credentials
from candleflow.store.credentials import Role
from candleflow.telemetry import Heartbeat, read_heartbeat

HEARTBEAT_NAMES: Final = ("simulator", "producer", "processor", "dashboard", "alerts", "audit", "forecaster")
"""The processes that write a heartbeat file, started by ``up`` or by a user."""

_DOWN_SECONDS: Final = 20.0
SILENT_SECONDS: Final = 30.0
"""A process of another container without a heartbeat for this long counts as gone."""


def status(settings: Settings) -> dict[str, Any] | None:
    """Describe the processes that use this data folder; None if none runs.

    ``postgres_url`` contains the reader role's password, so show it to this user only.
    """
    run = _alive_run(settings)
    settings = _settings_of(settings, run)
    processes = (
        [] if run is None else [_describe(settings, one.name, one.pid, one.state) for one in run.parts]
    )
    known = {one["name"] for one in processes}
    for name in _heartbeat_names(settings):
        beat = read_heartbeat(settings.stack.run_dir, name)
        if name not in known and beat is not None and _lives(beat):
            processes.append(_describe(settings, name, beat.pid, beat.state))
    if run is None and not processes:
        return None
    return {
        "command": run.command if run else None,
        "supervisor_pid": run.pid if run else None,
        "is_ready": run.is_ready if run else None,
        "exchange": str(settings.exchange.name),
        "simulated": settings.exchange.is_simulated,
        "symbols": list(settings.symbols),
        "topic": settings.topic,
        "kafka_bootstrap": settings.kafka.bootstrap,
        "postgres_url": credentials.reader_url(settings),
        "dashboard_url": f"http://localhost:{settings.dashboard.port}",
        "processes": processes,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``status``."""
    parser.add_argument(
        "--json", action="store_true", help="print JSON, which includes the read-only role's password"
    )


def run_status(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print the processes that use this data folder; return 1 if none runs."""
    found = status(settings)
    if found is None:
        print(json.dumps({"processes": []}) if arguments.json else "nothing is running")
        return 1
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        _print_table(found)
    return 0


def down(settings: Settings) -> int:
    """Stop what ``up`` or ``services`` started on this data folder; processes of other terminals continue."""
    run = _alive_run(settings)
    if run is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            supervisor = psutil.Process(run.pid)
            supervisor.send_signal(signal.SIGTERM)
            if not process.wait(supervisor, _DOWN_SECONDS):
                raise StackError(
                    f"`candleflow {run.command}` (pid {run.pid}) didn't stop in {_DOWN_SECONDS:.0f} s; "
                    "try again or kill it: the next start stops what it leaves running"
                )
        print(f"stopped `candleflow {run.command}`")
        return 0
    if not settings.stack.run_dir.exists():
        print("nothing is running")
        return 0
    try:
        with hold_run_lock(settings.stack.run_dir):
            left = stop_leftovers(settings.stack.run_dir)
    except HeldError as error:
        raise StackError(f"{error}; try again in a moment") from error
    print(f"stopped {', '.join(left)}, left over from an earlier run" if left else "nothing is running")
    return 0


_LIBPQ_VARIABLES: Final = {
    "sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY"
}  # fmt: skip


def psql(settings: Settings, arguments: argparse.Namespace) -> int:
    """Replace this process with psql as the read-only role, and pass the password by the environment."""
    dsn = credentials.dsn(running_settings(settings), Role.READER)
    program = shutil.which("psql") or str(binary("psql"))
    given = {
        "PGHOST": dsn.host,
        "PGPORT": str(dsn.port),
        "PGDATABASE": dsn.database,
        "PGUSER": dsn.user,
        "PGPASSWORD": dsn.password,
        "PGTZ": "UTC",
        **{_LIBPQ_VARIABLES[name]: value for name, value in dsn.parameters if name in _LIBPQ_VARIABLES},
    }
    sys.stdout.flush()
    os.execve(program, [program, *arguments.passed_on], {**os.environ, **given})  # nosec B606 # noqa: S606 - no shell is wanted


def running_settings(settings: Settings) -> Settings:
    """Return the settings of the running ``up``, if one runs.

    Its environment may differ from this one's, and it may have chosen the exchange.
    """
    return _settings_of(settings, _alive_run(settings))


def _settings_of(settings: Settings, run: Run | None) -> Settings:
    return settings if run is None else settings_module.load(**run.settings)


def _alive_run(settings: Settings) -> Run | None:
    run = read_run(settings.stack.run_dir)
    return run if run is not None and run.is_alive() else None


def _heartbeat_names(settings: Settings) -> list[str]:
    """Return ``HEARTBEAT_NAMES`` with "producer" replaced by the producer of each shard."""
    producers = [shard.name_of(PRODUCER) for shard in reported_shards(settings.stack.run_dir)]
    at = HEARTBEAT_NAMES.index(PRODUCER)
    return [*HEARTBEAT_NAMES[:at], *producers, *HEARTBEAT_NAMES[at + 1 :]]


def _lives(beat: Heartbeat) -> bool:
    """Return whether the process runs. In another container only the heartbeat's age can tell."""
    if not beat.is_from_here:
        return time.time() - beat.beaten_at < SILENT_SECONDS
    try:
        found = psutil.Process(beat.pid)
        # If the kernel gave the pid to another process, that one was created after the first heartbeat.
        return found.create_time() <= beat.started_at + 1 and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _describe(settings: Settings, name: str, pid: int, state: str) -> dict[str, Any]:
    """Describe one process, with the status from its heartbeat if that has the same pid.

    The memory of a process in another container is unknown.
    """
    beat = read_heartbeat(settings.stack.run_dir, name)
    is_here = beat is None or beat.is_from_here
    memory = memory_mb(pid) if is_here else None
    described: dict[str, Any] = {"name": name, "pid": pid, "state": state, "memory_mb": memory}
    if beat is not None and beat.pid == pid:
        described |= {
            "host": beat.host,
            "state": beat.state if state == "running" else state,
            "message": beat.message,
            "started_at": beat.started_at,
            "beaten_at": beat.beaten_at,
            "counts": beat.counts,
            "by_label": beat.by_label,
        }
    return described


def memory_mb(pid: int) -> int:
    """Return the resident memory of a process and its descendants in MB, counting shared pages for each."""
    total_bytes = 0
    with contextlib.suppress(psutil.Error):
        found = psutil.Process(pid)
        for one in (found, *found.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total_bytes += one.memory_info().rss
    return round(total_bytes / 1e6)


def _print_table(found: dict[str, Any]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for one in found["processes"]:
        words = "  ".join(filter(None, (counted(one.get("counts", {})), one.get("message", ""))))
        memory = one["memory_mb"]
        place = (f"in {one['host']}", "") if memory is None else (f"pid {one['pid']}", f"{memory} MB")
        table.add_row(one["name"], one["state"], *place, words)
    console = Console()
    if found["simulated"]:
        console.print("SIMULATED", style="bold white on red")
    console.print(table)
    console.print(f"page {found['dashboard_url']}   topic {found['topic']} at {found['kafka_bootstrap']}")
