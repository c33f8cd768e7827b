"""``repair``: rebuild a symbol's wrong candles from the topic, in any time range.

Also has the producer fill every gap in their trade ids, including gaps that were given up.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial

from candleflow.audit.continuity import unrecorded_gaps
from candleflow.audit.process import SETTLE_US
from candleflow.audit.rebuilding import Rebuilder
from candleflow.audit.verify import asked_for
from candleflow.audit.verify_report import Asked, written
from candleflow.broker import gap_log
from candleflow.market.gap import REPAIR, GapEventKind, events_of
from candleflow.market.window import DAY_US, floor_time
from candleflow.settings import Settings
from candleflow.store.reader import CandleReader
from candleflow.store.rebuilds import CandleRebuilds


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Rebuild wrong candles in the time range, order all gaps to be filled, and return 0.

    Raises StoreError and BrokerError if PostgreSQL or Kafka can't be reached.
    """
    now = time.time_ns() // 1_000
    asked = asked_for(settings, arguments, now)
    settled = now - SETTLE_US
    asked = Asked(asked.symbol, asked.since, min(asked.until, settled))
    _rebuild(settings, asked, settled)
    _order(settings, asked, now)
    return 0


def _rebuild(settings: Settings, asked: Asked, settled: int) -> None:
    """Rebuild candles, lost ones too. Done before looking for gaps: the topic may have their trades."""
    say = partial(print, file=sys.stderr)
    rebuilt = left = 0
    with closing(CandleRebuilds.from_settings(settings)) as store:
        rebuilder = Rebuilder(settings, store, say=say)
        for since, until in _days(settings, asked):
            found = rebuilder.find_suspect_ranges(asked.symbol, since, until)
            due = [one for one in found if one.until <= settled and one.since < until and since <= one.until]
            for suspect, outcome in rebuilder.rebuild(asked.symbol, found, due.__contains__):
                stretch = f"{asked.symbol} {written(suspect.since)} to {written(suspect.until)}"
                print(f"{stretch}: {suspect.reason}: {outcome.candles:,} candles rebuilt")
                if outcome.left:
                    print(f"{stretch}: not all rebuilt: {outcome.left}")
                rebuilt += outcome.candles
                left += bool(outcome.left)
    print(f"{rebuilt:,} candles rebuilt" + (f", {left:,} time ranges not fully rebuilt" if left else ""))


def _days(settings: Settings, asked: Asked) -> Iterator[tuple[int, int]]:
    """Split the time range at midnights and align it to windows, so that one part is at most a day."""
    slide = settings.windows.slide_us
    since, end = floor_time(max(asked.since, 0), slide), floor_time(asked.until, slide)
    while since < end:
        until = min(floor_time(since, DAY_US) + DAY_US, end)
        yield since, until
        since = until


def _order(settings: Settings, asked: Asked, now: int) -> None:
    with closing(CandleReader.from_settings(settings)) as reader:
        held = reader.id_ranges(asked.symbol, asked.since, asked.until)
    missing = unrecorded_gaps(held, ())
    events = events_of(GapEventKind.SEEN, asked.symbol, missing, now, REPAIR)
    if events:
        gap_log.write_all(settings.kafka.bootstrap, settings.gaps_topic, events)
    for lower, upper in missing:
        print(f"{asked.symbol}: trades {lower} to {upper - 1} will be fetched")
    print(
        f"{sum(event.trade_count for event in events):,} trades missing in {len(missing):,} gaps"
        + ("; the producer fills them, `candleflow gaps` shows its progress" if events else "")
    )
