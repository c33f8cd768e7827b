"""Finds out which producers there are from the heartbeat files: one producer, or one per shard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from candleflow.market.shard import ALL, PRODUCER, Shard
from candleflow.telemetry import Heartbeat, read_heartbeat


def reported_shards(run_dir: Path) -> list[Shard]:
    """Return the shards whose producers have a heartbeat file, in order.

    A producer deletes its file when it stops cleanly. A killed one leaves it.
    """
    shards = (Shard.named(file.stem, PRODUCER) for file in run_dir.glob(f"{PRODUCER}*.json"))
    return sorted((one for one in shards if one is not None), key=lambda one: (one.count, one.number))


def expected_producers(run_dir: Path) -> Sequence[str]:
    """Return the names of the producers that should run, one for each shard.

    The newest heartbeat tells the number of shards. Files with another number were left by producers that
    were killed before the number was changed.
    """
    beats = {shard: read_heartbeat(run_dir, shard.name_of(PRODUCER)) for shard in reported_shards(run_dir)}
    count = max(beats, key=lambda shard: _beaten_at(beats[shard]), default=ALL).count
    return [Shard(number, count).name_of(PRODUCER) for number in range(1, count + 1)]


def _beaten_at(beat: Heartbeat | None) -> float:
    return 0.0 if beat is None else beat.beaten_at
