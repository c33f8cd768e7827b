"""Kill the processor at known critical points within a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from candleflow.stack.process import wait_for
from tests.faults.pipeline import FLOW_SECONDS, Pipeline
from tests.faults.proxy import Direction
from tests.processes import awaited


def kill_at_commit(pipeline: Pipeline, count: int, direction: Direction) -> None:
    """Kill it after the first ``count`` bytes of a COMMIT or of its reply, while the rest is held back."""
    link = pipeline.store_link
    cuts = link.cuts
    link.cut_after(count, direction, when_watched=True, only_stalls=True)
    awaited(lambda: link.cuts > cuts, FLOW_SECONDS, pipeline.said)
    pipeline.processor.kill(with_children=True)
    link.heal()


def kill_at_log(pipeline: Pipeline, log: str) -> None:
    """Kill it when Spark writes one of its logs: ``offsets`` before a batch or ``commits`` after it."""
    before = _files(pipeline, log)
    assert wait_for(lambda: bool(_files(pipeline, log) - before), FLOW_SECONDS), pipeline.said()
    pipeline.processor.kill(with_children=True)


def _files(pipeline: Pipeline, log: str) -> set[Path]:
    """Return the files of a Spark log, including partly written ones."""
    return set(pipeline.places["Spark"].glob(f"candleflow-processor-*/*/{log}/*"))


FAIL_POINTS: Final[Mapping[str, Callable[[Pipeline], None]]] = {
    "before the write": partial(kill_at_log, log="offsets"),
    "in mid-transaction": partial(kill_at_commit, count=0, direction=Direction.TO_SERVER),
    "after COMMIT, before its answer": partial(kill_at_commit, count=0, direction=Direction.TO_CLIENT),
    "during Spark's own logs": partial(kill_at_log, log="commits"),
}
