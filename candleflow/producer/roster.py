"""Which producers there are, by the heartbeats in the data folder: one, or one for each shard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from candleflow.market.shard import ALL, PRODUCER, Shard
from candleflow.telemetry import Heartbeat, read_heartbeat


def told_shards(run_dir: Path) -> list[Shard]:
    """The shards whose producers have ever told of themselves and not ended cleanly since; in order."""
    shards = (Shard.named(file.stem, PRODUCER) for file in run_dir.glob(f"{PRODUCER}*.json"))
    return sorted((one for one in shards if one is not None), key=lambda one: (one.count, one.number))


def expected_producers(run_dir: Path) -> Sequence[str]:
    """The names of the producers that should run: those of every shard, as many as the latest to tell says.

    A file of another count is what a killed producer left before the number of shards was changed.
    """
    beats = {shard: read_heartbeat(run_dir, shard.name_of(PRODUCER)) for shard in told_shards(run_dir)}
    count = max(beats, key=lambda shard: _beaten_at(beats[shard]), default=ALL).count
    return [Shard(number, count).name_of(PRODUCER) for number in range(1, count + 1)]


def _beaten_at(beat: Heartbeat | None) -> float:
    return 0.0 if beat is None else beat.beaten_at
