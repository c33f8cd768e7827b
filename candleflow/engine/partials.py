"""Merge the rows of Spark's aggregate, on the driver, into the partial candles that go to PostgreSQL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeAlias

from candleflow.engine.candles import BLOCK_SIZE, LAST_RECORD, TAKER, TOO_MANY, Block
from candleflow.engine.recent_latency import LiveTrades
from candleflow.engine.trades import ADDED_COLUMNS, PRICE_ZERO
from candleflow.errors import CandleflowError
from candleflow.market.partial import Partial, encode, ids_text
from candleflow.market.trade import DECIMAL_PLACES
from candleflow.market.trade_ids import TradeIds
from candleflow.market.window import Windows

_Ids: TypeAlias = tuple[int, int]
"""A block's number, and the bits of its ids that are present. Neither is negative."""
_Part: TypeAlias = tuple[_Ids, Block]

BLOCKS_PER_CANDLE: Final = 20
"""If the number of candles is limited, the maximum average number of blocks in a candle. Sliding windows
share blocks: without this limit the few candles of a busy symbol could be built from millions of them."""


class OversizeError(CandleflowError):
    """A batch has more candles, or more unread records, than may be merged at once.

    ``records``: about how many of its records would fit.
    """

    def __init__(self, records: int, what: str = "candles") -> None:
        super().__init__(f"a batch has too many {what} for one merge: about {records:,} records would fit")
        self.records = records


class LastRecord(NamedTuple):
    """The last record read from a partition. It shows later whether the topic still has the same log."""

    offset: int
    written_at: int
    """The record's Kafka timestamp, microseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Folded:
    """The aggregate of one batch, on the driver."""

    partials: list[str]
    """The partial candles, encoded by ``market.partial``."""
    sound: int
    """The number of records that are valid trades, including repeated ones."""
    trades: int
    """The number of distinct trades."""
    rejected: Mapping[str, int]
    """The number of rejected records by reason."""
    written_at: int
    """When the last trade was written to the topic, microseconds since the epoch; 0 without trades."""
    live: Sequence[LiveTrades]
    """The trades of the live stream, without those fetched from the history; including repeated ones."""
    last: Mapping[int, LastRecord]
    """The last record of each partition that had any."""

    @property
    def has_repeats(self) -> bool:
        """Whether a trade came twice. Then ``partials`` are wrong, unless they were made without repeats."""
        return self.sound != self.trades


def read_fold(rows: Iterable[tuple[Any, ...]], windows: Windows, most: int | None = None) -> Folded:
    """Merge the collected rows of a ``CandleFold`` for ``windows`` into one batch.

    Raises OversizeError if there are more than ``most`` candles, before building them.
    """
    rejected: dict[str, int] = defaultdict(int)
    seen: dict[tuple[str, int], int] = defaultdict(int)
    candles: dict[tuple[str, int], list[_Part]] = defaultdict(list)
    live: list[LiveTrades] = []
    last: dict[int, LastRecord] = {}
    sound = written_at = parts = 0
    for one in map(Block._make, rows):  # Spark's Row searches a list for each field name
        if one.rejection_reason == TOO_MANY:
            raise OversizeError(one.records)
        if one.rejection_reason == LAST_RECORD:
            found = LastRecord(one.block, one.written_at)
            last[one.open_time] = max(found, last.get(one.open_time, found))
            continue
        if one.rejection_reason is not None:
            rejected[one.rejection_reason] += one.records
            continue
        sound += one.records
        written_at = max(written_at, one.written_at)
        bits = one.bits
        seen[one.symbol, one.block] |= bits
        if one.first_live_time is not None:
            live.append(LiveTrades(one.first_live_time, one.last_trade_time, one.live))
        for back in range(0, windows.size_us, windows.slide_us):
            candles[one.symbol, one.open_time - back].append(((one.block, bits), one))
        parts += windows.size_us // windows.slide_us
        if most is not None and max(len(candles), parts // BLOCKS_PER_CANDLE) > most:
            raise OversizeError(sound)
    # Sliding windows over the first seconds of 1970 open before 1970; the store has no such candles.
    partials = [encode(_partial(*key, blocks)) for key, blocks in candles.items() if key[1] >= 0]
    trades = sum(bits.bit_count() for bits in seen.values())
    return Folded(partials, sound, trades, dict(rejected), written_at, live, last)


def _partial(symbol: str, open_time: int, parts: Sequence[_Part]) -> Partial:
    ids = [one for one, _ in parts]
    blocks = [one for _, one in parts]
    first = min(range(len(parts)), key=lambda at: _first_id(ids[at]))
    last = max(range(len(parts)), key=lambda at: _last_id(ids[at]))
    return Partial(
        symbol,
        open_time,
        last_trade_time=blocks[last].last_trade_time,
        trade_count=sum(bits.bit_count() for _, bits in ids),
        first_trade_id=_first_id(ids[first]),
        last_trade_id=_last_id(ids[last]),
        trade_ids=ids_text(_trade_ids(ids)),
        open=_price(blocks[first].open),
        high=_price(max(one.high for one in blocks)),
        low=_price(min(one.low for one in blocks)),
        close=_price(blocks[last].close),
        **{one.name: one.over(blocks) for one in _SUMS},
    )


def _price(steps: int) -> str:
    return _decimal(steps - PRICE_ZERO, DECIMAL_PLACES)


class _Sum(NamedTuple):
    """A sum in a candle. ``columns``: how to read each column with its digits, and the column's unit as a
    multiple of 10^-``places``."""

    name: str
    columns: Sequence[tuple[Callable[[Block], int], int]]
    places: int

    @classmethod
    def of(cls, name: str, prefix: str, powers: Mapping[str, int]) -> _Sum:
        places = -min(powers.values())
        columns = [(attrgetter(prefix + column), 10 ** (power + places)) for column, power in powers.items()]
        return cls(prefix + name, columns, places)

    def over(self, blocks: Sequence[Block]) -> str:
        units = sum(read(one) * unit for read, unit in self.columns for one in blocks)
        return _decimal(units, self.places)


_SUMS: Final = [
    _Sum.of(name, prefix, powers) for prefix in ("", TAKER) for name, powers in ADDED_COLUMNS.items()
]


def _decimal(units: int, places: int) -> str:
    """Format ``units`` times 10^-``places`` as a decimal; ``units`` is not negative."""
    whole, rest = divmod(units, 10**places)
    return f"{whole}.{rest:0{places}}"


def _trade_ids(ids: Iterable[_Ids]) -> TradeIds:
    found = TradeIds()
    for block, bits in sorted(ids):
        for lower, upper in _runs(bits):
            found.add_range(block * BLOCK_SIZE + lower, block * BLOCK_SIZE + upper)
    return found


def _first_id(ids: _Ids) -> int:
    block, bits = ids
    return block * BLOCK_SIZE + (bits & -bits).bit_length() - 1


def _last_id(ids: _Ids) -> int:
    block, bits = ids
    return block * BLOCK_SIZE + bits.bit_length() - 1


def _runs(bits: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of 1 bits in a number, lowest first, as half-open ranges."""
    at = 0
    while bits:
        zeros = (bits & -bits).bit_length() - 1
        bits >>= zeros
        ones = (~bits & (bits + 1)).bit_length() - 1
        bits >>= ones
        at += zeros
        yield at, at + ones
        at += ones
