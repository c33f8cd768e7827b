"""The HTTP pages of a process: ``/metrics``, ``/healthz`` (is it alive?) and ``/readyz`` (is it ready?).

Each request reads the process's last heartbeat, so serving adds no work to the process's own loop.
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
from candleflow.metrics.families import (
    BUILD_INFO,
    LAST_BEAT_AGE,
    PROCESS_STATE,
    families_of,
    histogram,
    metric,
)
from candleflow.telemetry import CONTROL, HeartbeatFile

SILENT_SECONDS: Final = 30.0
"""A process without a heartbeat for this long counts as stuck. Heartbeats come each second; a start on a busy
machine delays one by some seconds, and a lost PostgreSQL by up to ten."""

_STATES: Final = ("starting", "running", "waiting", "stopping")
_TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT


class Pages:
    """The pages of one process. ``now`` must be ``time.monotonic``'s clock, as the heartbeat's time is."""

    def __init__(self, heartbeat: HeartbeatFile, now: Callable[[], float]) -> None:
        self._heartbeat = heartbeat
        self._now = now
        self._registry = CollectorRegistry()
        self._registry.register(_HeartbeatCollector(heartbeat, now))
        ProcessCollector(registry=self._registry)

    def answer(self, path: str) -> Answer:
        """Return the page at ``path``, or 404."""
        page = {"/metrics": self.metrics, "/healthz": self.health, "/readyz": self.readiness}.get(path)
        return _plain(HTTPStatus.NOT_FOUND, "/metrics, /healthz or /readyz") if page is None else page()

    def metrics(self) -> Answer:
        """Return all metrics in Prometheus' text format."""
        return Answer(HTTPStatus.OK, generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4)

    def health(self) -> Answer:
        """Return 200, or 503 if the last heartbeat is older than ``SILENT_SECONDS``."""
        age = self._now() - self._heartbeat.last[1]
        if age > SILENT_SECONDS:
            return _plain(HTTPStatus.SERVICE_UNAVAILABLE, f"no heartbeat for {age:.0f} s")
        return _plain(HTTPStatus.OK, "ok")

    def readiness(self) -> Answer:
        """Return 200 in the state ``running``, else 503 with the state and the heartbeat's message."""
        health = self.health()
        if health.status is not HTTPStatus.OK:
            return health
        beat = self._heartbeat.last[0]
        if beat is None:
            return _plain(HTTPStatus.SERVICE_UNAVAILABLE, "starting")
        words = f"{beat.state}: {beat.message}" if beat.message else beat.state
        is_ready = beat.state == "running"
        return _plain(HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE, words)


def _plain(status: HTTPStatus, words: str) -> Answer:
    return Answer(status, f"{words.translate(CONTROL)}\n".encode(errors="replace"))


class _HeartbeatCollector(Collector):
    """Turns the last heartbeat into Prometheus metrics."""

    def __init__(self, heartbeat: HeartbeatFile, now: Callable[[], float]) -> None:
        self._heartbeat = heartbeat
        self._now = now

    def describe(self) -> Iterator[Metric]:
        """Yield nothing: which metrics exist depends on the heartbeat."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield each family for which the heartbeat has a value."""
        beat, beaten_at = self._heartbeat.last
        process = {"process": self._heartbeat.name}
        version = {**process, "version": __version__}
        yield metric(BUILD_INFO.name, BUILD_INFO.help, [(version, 1)])
        yield metric(LAST_BEAT_AGE.name, LAST_BEAT_AGE.help, [(process, self._now() - beaten_at)])
        if beat is None:
            return
        states = [({**process, "state": one}, float(one == beat.state)) for one in _STATES]
        yield metric(PROCESS_STATE.name, PROCESS_STATE.help, states)
        own = (family.metric(beat) for family in families_of(self._heartbeat.name))
        yield from filter(None, (*own, histogram(beat)))
