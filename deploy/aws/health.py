"""What only the database knows of the flow's health, as a JSON line each half minute: CloudWatch makes
metrics of it.

``trade_age_seconds``: since the newest trade of any symbol; ``merged_age_seconds``: since the processor last
said that it had read the whole topic, which it says each second, so that it is the time that candles lag
behind Kafka. Left out is what is not known. While PostgreSQL is away no line comes, and the alarms take that
for bad.
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
    """The figures at ``now_us`` (microseconds since the epoch). Raises StoreError while PostgreSQL is
    away."""
    found = {}
    times = [one.last_trade_time for one in reader.symbols() if one.last_trade_time is not None]
    if times:
        found["trade_age_seconds"] = (now_us - max(times)) / 1e6
    merged = reader.caught_up_at(settings.topic)
    if merged is not None:
        found["merged_age_seconds"] = (now_us - merged) / 1e6
    return found


def tell(reader: CandleReader, settings: Settings, now_us: int) -> None:
    """One line of figures on stdout; while PostgreSQL is away none, but the reason on stderr."""
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
        tell(reader, settings, time.time_ns() // 1_000)
        time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    main()
