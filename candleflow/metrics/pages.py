"""The three pages that a process answers with: its metrics, whether it lives, and whether it is ready.

All are made of the heartbeat that the process told last, when they are asked for: telling costs the process
what it did before. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from candleflow import __version__
from candleflow.metrics.families import families_of, histogram, metric
from candleflow.telemetry import CONTROL, HeartbeatFile

SILENT_SECONDS: Final = 30.0
"""A process that has told nothing for so long stands still. It tells once a second; a start on a busy machine
has made one late by some seconds, and a lost PostgreSQL by ten."""

_STATES: Final = ("starting", "running", "waiting", "stopping")
_LAST_BEAT: Final = "How long ago the process last told of itself; it does once a second."
_TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes to whoever asked."""

    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT


class Pages:
    """The pages of one process. ``now`` is by ``time.monotonic``, as the heartbeat's own."""

    def __init__(self, heartbeat: HeartbeatFile, now: Callable[[], float]) -> None:
        self._heartbeat = heartbeat
        self._now = now
        self._registry = CollectorRegistry()
        self._registry.register(_Told(heartbeat, now))
        ProcessCollector(registry=self._registry)

    def answer(self, path: str) -> Answer:
        """The page of a path; 404 for any other."""
        page = {"/metrics": self.metrics, "/healthz": self.health, "/readyz": self.readiness}.get(path)
        return _said(HTTPStatus.NOT_FOUND, "/metrics, /healthz or /readyz") if page is None else page()

    def metrics(self) -> Answer:
        """All figures, in Prometheus' text format."""
        return Answer(HTTPStatus.OK, generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4)

    def health(self) -> Answer:
        """200 while the process tells of itself; 503 once it has told nothing for ``SILENT_SECONDS``."""
        age = self._now() - self._heartbeat.last[1]
        if age > SILENT_SECONDS:
            return _said(HTTPStatus.SERVICE_UNAVAILABLE, f"silent for {age:.0f} s")
        return _said(HTTPStatus.OK, "ok")

    def readiness(self) -> Answer:
        """200 in the state ``running``; else 503, with the state and what the process says of it."""
        health = self.health()
        if health.status is not HTTPStatus.OK:
            return health
        beat = self._heartbeat.last[0]
        if beat is None:
            return _said(HTTPStatus.SERVICE_UNAVAILABLE, "starting")
        words = f"{beat.state}: {beat.message}" if beat.message else beat.state
        is_ready = beat.state == "running"
        return _said(HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE, words)


def _said(status: HTTPStatus, words: str) -> Answer:
    return Answer(status, f"{words.translate(CONTROL)}\n".encode(errors="replace"))


class _Told(Collector):
    """The last heartbeat as Prometheus' metrics."""

    def __init__(self, heartbeat: HeartbeatFile, now: Callable[[], float]) -> None:
        self._heartbeat = heartbeat
        self._now = now

    def describe(self) -> Iterator[Metric]:
        """None: what there is differs from one moment to the next."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Each family that the heartbeat has anything of."""
        beat, beaten_at = self._heartbeat.last
        process = {"process": self._heartbeat.name}
        version = {**process, "version": __version__}
        yield metric("build_info", "Always 1; the version is a label.", [(version, 1)])
        yield metric("last_beat_age_seconds", _LAST_BEAT, [(process, self._now() - beaten_at)])
        if beat is None:
            return
        states = [({**process, "state": one}, float(one == beat.state)) for one in _STATES]
        yield metric("process_state", "1 for the state that the process is in, 0 for the others.", states)
        told = (family.metric(beat) for family in families_of(self._heartbeat.name))
        yield from filter(None, (*told, histogram(beat)))
