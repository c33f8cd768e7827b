"""Heartbeats that can be asked for over HTTP, where the settings have a port for that."""

from __future__ import annotations

import logging
import time

from candleflow.market.shard import PRODUCER
from candleflow.settings import Settings
from candleflow.telemetry import HeartbeatFile

_log = logging.getLogger(__name__)


def served_heartbeat(settings: Settings, name: str) -> HeartbeatFile:
    """The heartbeat of this process, served until it is removed at ``CANDLEFLOW_METRICS_PORT`` and some.

    A producer's bears the name of its shard, so that none writes over another's.
    A port that can't be had stops no process from its work: one line says so.
    """
    heartbeat = HeartbeatFile(settings.stack.run_dir, settings.producer_name if name == PRODUCER else name)
    if settings.metrics.port:
        _serve(heartbeat, settings.metrics.host, settings.metrics_port_of(name))
    return heartbeat


def _serve(heartbeat: HeartbeatFile, host: str, port: int) -> None:
    # Here, as a start without metrics needs neither HTTP nor Prometheus' client.
    from candleflow.metrics.pages import Pages
    from candleflow.metrics.server import PageServer

    try:
        server = PageServer(Pages(heartbeat, time.monotonic), host, port)
    except OSError as error:
        _log.warning(
            "metrics and health are not served at %s port %d: %s; CANDLEFLOW_METRICS_PORT chooses another",
            host,
            port,
            error,
        )
    else:
        heartbeat.on_removed = server.close
