"""The moments at which a kill of the processor is worst: within a batch, at a place that is known."""

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
    """When so much of a COMMIT, or of its answer, has passed, and no more does."""
    link = pipeline.store_link
    cuts = link.cuts
    link.cut_after(count, direction, when_watched=True, only_stalls=True)
    awaited(lambda: link.cuts > cuts, FLOW_SECONDS, pipeline.said)
    pipeline.processor.kill(with_children=True)
    link.heal()


def kill_at_log(pipeline: Pipeline, log: str) -> None:
    """When Spark begins to write one of its own logs, ``offsets`` before a batch and ``commits`` after it."""
    before = _files(pipeline, log)
    assert wait_for(lambda: bool(_files(pipeline, log) - before), FLOW_SECONDS), pipeline.said()
    pipeline.processor.kill(with_children=True)


def _files(pipeline: Pipeline, log: str) -> set[Path]:
    """Those half written too."""
    return set(pipeline.places["Spark"].glob(f"candleflow-processor-*/*/{log}/*"))


FAIL_POINTS: Final[Mapping[str, Callable[[Pipeline], None]]] = {
    "before the write": partial(kill_at_log, log="offsets"),
    "in mid-transaction": partial(kill_at_commit, count=0, direction=Direction.TO_SERVER),
    "after COMMIT, before its answer": partial(kill_at_commit, count=0, direction=Direction.TO_CLIENT),
    "during Spark's own logs": partial(kill_at_log, log="commits"),
}
