"""Which producers there are, by the heartbeat files in the data folder."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, replace
from json import dumps
from pathlib import Path

import pytest

from candleflow import settings
from candleflow.dashboard.source import watched
from candleflow.market.shard import Shard
from candleflow.producer.roster import expected_producers, reported_shards
from candleflow.stack.status import status
from candleflow.telemetry import Heartbeat, HeartbeatFile, read_heartbeat


def tell(run_dir: Path, name: str, beaten_at: float | None = None) -> None:
    HeartbeatFile(run_dir, name).beat("running")
    told = read_heartbeat(run_dir, name)
    assert told is not None
    if beaten_at is not None:
        (run_dir / f"{name}.json").write_text(dumps(asdict(replace(told, beaten_at=beaten_at))))


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, ["producer"]),
        ({"producer": 1.0}, ["producer"]),
        ({"producer-2-of-2": 1.0}, ["producer-1-of-2", "producer-2-of-2"]),
        # Files of killed producers: from before there were two, and from before there was one again.
        ({"producer": 1.0, "producer-1-of-2": 2.0}, ["producer-1-of-2", "producer-2-of-2"]),
        ({"producer": 3.0, "producer-1-of-2": 2.0}, ["producer"]),
        (
            {"producer-9-of-2": 9.0, "producer-1-of-2": 2.0, "processor": 9.0},
            ["producer-1-of-2", "producer-2-of-2"],
        ),
    ],
)
def test_the_latest_heartbeat_decides_how_many_producers_should_run(
    tmp_path: Path, told: dict[str, float], expected: list[str]
) -> None:
    for name, beaten_at in told.items():
        tell(tmp_path, name, beaten_at)
    assert expected_producers(tmp_path) == expected


def test_a_heartbeat_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    tell(tmp_path, "producer-1-of-2")
    (tmp_path / "producer-1-of-3.json").write_text("{")
    assert reported_shards(tmp_path) == [Shard(1, 2), Shard(1, 3)]
    assert expected_producers(tmp_path) == ["producer-1-of-2", "producer-2-of-2"]


def test_the_page_waits_for_every_shard(tmp_path: Path) -> None:
    in_force = settings.load(data_dir=tmp_path)
    assert watched(in_force) == ("producer", "processor", "audit")
    tell(in_force.stack.run_dir, "producer-1-of-2")
    assert watched(in_force) == ("producer-1-of-2", "producer-2-of-2", "processor", "audit")


def test_the_status_shows_each_shards_running_producer(tmp_path: Path) -> None:
    in_force = settings.load(data_dir=tmp_path, symbols="BTCUSDT,ETHUSDT")
    for name in ("producer-1-of-2", "producer-2-of-2"):
        tell(in_force.stack.run_dir, name)
    gone = Heartbeat("producer", 2**22 + 1, "running", host=socket.gethostname())
    (in_force.stack.run_dir / "producer.json").write_text(dumps(asdict(gone)))
    found = status(in_force)
    assert found is not None
    assert [(one["name"], one["pid"]) for one in found["processes"]] == [
        ("producer-1-of-2", os.getpid()),
        ("producer-2-of-2", os.getpid()),
    ]
    assert found["symbols"] == ["BTCUSDT", "ETHUSDT"]
