"""The health of whichever process of ours runs in this container: exit status 0 where it is well.

It asks the ports above CANDLEFLOW_METRICS_PORT, and the page's. The standard library alone, as it runs twice
a minute in each container, and our own imports would take longer than the question.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Sequence

PROCESSES = 6
"""Ports that are in use from CANDLEFLOW_METRICS_PORT on (``settings.METRICS_PORTS``)."""
SECONDS = 5


def asked(port: int, path: str) -> int | None:
    """The HTTP status that 127.0.0.1 answers there; None where nobody listens, 504 where no answer comes."""
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


def is_well(answers: Sequence[int | None]) -> bool:
    """Whether somebody answers, and all who do are well."""
    there = [status for status in answers if status is not None]
    return bool(there) and all(status == http.client.OK for status in there)


def ports(first: int, shard: str) -> list[int]:
    """Where one of ours may answer. A producer of the second shard or a later one is above all the others
    (``Settings.metrics_port_of``)."""
    number = int(shard.partition("/")[0])
    others = [first + PROCESSES + number - 2] if number > 1 else []
    return [*range(first, first + PROCESSES), *others]


def main() -> int:
    """0 or 1."""
    first = int(os.environ.get("CANDLEFLOW_METRICS_PORT", "9464"))
    page = int(os.environ.get("CANDLEFLOW_DASHBOARD_PORT", "8501"))
    shard = os.environ.get("CANDLEFLOW_SHARD", "1/1")
    answers = [asked(port, "/healthz") for port in ports(first, shard)]
    return 0 if is_well([*answers, asked(page, "/_stcore/health")]) else 1


if __name__ == "__main__":
    sys.exit(main())
