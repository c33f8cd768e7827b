"""Check the health of the Candleflow process in this container: exit status 0 if it is healthy, else 1.

Requests ``/healthz`` at the metrics ports and Streamlit's health check at the page's port. It uses only the
standard library: it runs twice a minute in each container, and importing ``candleflow`` would take longer
than the request.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Sequence

PROCESSES = 6
"""How many ports are used from CANDLEFLOW_METRICS_PORT on (``settings.METRICS_PORTS``)."""
SECONDS = 5


def status_of(port: int, path: str) -> int | None:
    """Return the HTTP status of the port on 127.0.0.1; None if it is closed, 504 if no answer comes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except ConnectionRefusedError:
        return None
    except (OSError, http.client.HTTPException):
        return 504
    finally:
        connection.close()


def is_healthy(answers: Sequence[int | None]) -> bool:
    """Return whether at least one port answers, and all that answer are healthy."""
    there = [status for status in answers if status is not None]
    return bool(there) and all(status == http.client.OK for status in there)


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
