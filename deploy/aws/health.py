"""The health watcher: log a JSON line of figures from PostgreSQL every 30 s.

CloudWatch makes metrics of them:

- ``trade_age_seconds``: time since the newest trade of any symbol.
- ``merged_age_seconds``: time since the processor last reported that it had read the whole topic. It reports
  this each second, so the figure is the time that candles lag behind Kafka.

A figure without a value is left out. While PostgreSQL is down, no line is logged, and the alarms treat
missing figures as bad.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Final

from candleflow import settings as settings_module
from candleflow.errors import StoreError
from candleflow.settings import Settings
from candleflow.store.reader import CandleReader

EVERY_SECONDS: Final = 30.0


def health(reader: CandleReader, settings: Settings, now_us: int) -> dict[str, float]:
    """Return the figures at ``now_us`` (microseconds since the epoch).

    Raises StoreError while PostgreSQL is down.
    """
    found = {}
    times = [one.last_trade_time for one in reader.symbols() if one.last_trade_time is not None]
    if times:
        found["trade_age_seconds"] = (now_us - max(times)) / 1e6
    merged = reader.caught_up_at(settings.topic)
    if merged is not None:
        found["merged_age_seconds"] = (now_us - merged) / 1e6
    return found


def write_figures(reader: CandleReader, settings: Settings, now_us: int) -> None:
    """Write one line of figures to stdout; while PostgreSQL is down, write the reason to stderr instead."""
    try:
        line = json.dumps(health(reader, settings, now_us))
    except StoreError as error:
        sys.stderr.write(f"no figures: {error}\n")
    else:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def main() -> None:
    settings = settings_module.load()
    reader = CandleReader.from_settings(settings)
    while True:
        write_figures(reader, settings, time.time_ns() // 1_000)
        time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    main()
