"""Check the health of the Candleflow process in this container: exit status 0 if it is healthy, else 1.

Requests ``/healthz`` at the metrics ports and Streamlit's health check at the page's port. It runs every few
seconds in each container, so it imports only ``socket``: with ``http.client`` it takes twice the processor
time, and with ``candleflow`` far more.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence

PROCESSES = 6
"""How many ports are used from CANDLEFLOW_METRICS_PORT on (``settings.METRICS_PORTS``)."""
SECONDS = 5


def status_of(port: int, path: str) -> int | None:
    """Return the HTTP status of the port on 127.0.0.1; None if it is closed, 504 if no answer comes."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
            _, status, *_ = connection.makefile("rb").readline().split()  # HTTP/1.1 200 OK
            return int(status)
    except ConnectionRefusedError:
        return None
    except (OSError, ValueError):
        return 504


def is_healthy(answers: Sequence[int | None]) -> bool:
    """Return whether at least one port answers, and all that answer are healthy."""
    there = [status for status in answers if status is not None]
    return bool(there) and all(status == 200 for status in there)


def ports(first: int, shard: str) -> list[int]:
    """Return the ports at which a process may answer.

    The producers of the second and later shards use the ports after the others
    (``Settings.metrics_port_of``).
    """
    number = int(shard.partition("/")[0])
    others = [first + PROCESSES + number - 2] if number > 1 else []
    return [*range(first, first + PROCESSES), *others]


def main() -> int:
    first = int(os.environ.get("CANDLEFLOW_METRICS_PORT", "9464"))
    page = int(os.environ.get("CANDLEFLOW_DASHBOARD_PORT", "8501"))
    shard = os.environ.get("CANDLEFLOW_SHARD", "1/1")
    answers = [status_of(port, "/healthz") for port in ports(first, shard)]
    return 0 if is_healthy([*answers, status_of(page, "/_stcore/health")]) else 1


if __name__ == "__main__":
    sys.exit(main())
