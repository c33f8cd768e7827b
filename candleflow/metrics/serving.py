"""Serve a process's heartbeat over HTTP if ``CANDLEFLOW_METRICS_PORT`` is set."""

from __future__ import annotations

import logging
import time

from candleflow.market.shard import PRODUCER
from candleflow.settings import Settings
from candleflow.telemetry import HeartbeatFile

_log = logging.getLogger(__name__)


def served_heartbeat(settings: Settings, name: str) -> HeartbeatFile:
    """Create the heartbeat of this process and, if a port is set, serve it until the heartbeat is removed.

    The port is ``settings.metrics_port_of(name)``. A producer's heartbeat is named after its shard, so that
    producers don't overwrite each other's file. If the port is in use, the process logs a warning and
    continues without metrics.
    """
    heartbeat = HeartbeatFile(settings.stack.run_dir, settings.producer_name if name == PRODUCER else name)
    if settings.metrics.port:
        _serve(heartbeat, settings.metrics.host, settings.metrics_port_of(name))
    return heartbeat


def _serve(heartbeat: HeartbeatFile, host: str, port: int) -> None:
    # Imported here, so that a start without metrics loads neither HTTP nor Prometheus' client.
    from candleflow.metrics.pages import Pages
    from candleflow.metrics.server import PageServer

    try:
        server = PageServer(Pages(heartbeat, time.monotonic), host, port)
    except OSError as error:
        _log.warning(
            "can't serve metrics and health at %s port %d: %s; continuing without them; "
            "set CANDLEFLOW_METRICS_PORT to another port",
            host,
            port,
            error,
        )
    else:
        heartbeat.on_removed = server.close
