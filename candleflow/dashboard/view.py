"""What a chart shows for a choice: candles, or the reason why there are none. No Streamlit here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from candleflow.dashboard import trust, words
from candleflow.dashboard.choice import CANDLE_LIMIT, Choice, Period, period
from candleflow.dashboard.source import PageSource
from candleflow.dashboard.trust import Facts
from candleflow.market.stored import StoredCandle, SymbolState
from candleflow.market.window import SECOND_US


@dataclass(frozen=True, slots=True)
class View:
    """The candles of a choice, oldest first, at least one."""

    choice: Choice
    symbol: SymbolState
    period: Period
    candles: Sequence[StoredCandle]
    before: Sequence[StoredCandle]
    """Up to ``warm_up`` candles before the first one shown, for the indicators."""
    notices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Nothing:
    """A message for the viewer: why there are no candles, and what to do or expect."""

    title: str
    advice: str


def look(
    source: PageSource, choice: Choice, now: int, warm_up: int = 0, *, is_followed: bool = True
) -> View | Nothing:
    """Read the candles of ``choice``, and ``warm_up`` candles before them. ``now`` is in microseconds.

    ``is_followed``: whether CANDLEFLOW_SYMBOLS names the symbol, so that new trades are collected.

    Raises StoreError as ``source`` does.
    """
    states = {state.symbol: state for state in source.symbols()}
    state = states.get(choice.symbol)
    if state is None:
        if is_followed and not states:
            progress = trust.progress(Facts(choice.symbol, now, heartbeats=source.heartbeats()))
            return Nothing("Waiting for the first trade", progress)
        return _without_a_trade(choice.symbol, sorted(states), is_followed=is_followed)
    shown = period(choice, state.last_trade_time, now)
    # One more than is drawn: if it exists, the look-back has more candles than the limit.
    since = None if shown.since is None else shown.since - warm_up * choice.bucket_seconds * SECOND_US
    found = source.candles(choice.symbol, choice.bucket_seconds, since, CANDLE_LIMIT + 1 + warm_up)
    candles = [one for one in found if shown.since is None or one.open_time >= shown.since]
    if not candles:
        return Nothing(
            f"No candles of {choice.symbol} in this look-back",
            "Choose a longer look-back to see its last trades.",
        )
    notices = []
    if not is_followed:
        notices.append(
            f"{choice.symbol} is not among CANDLEFLOW_SYMBOLS: no new trades, only stored candles."
        )
    if shown.is_past and choice.look_back_seconds is not None:
        notices.append(_of_the_past(choice.look_back_seconds, state, now))
    if len(candles) > CANDLE_LIMIT:
        notices.append(
            f"Only the newest {CANDLE_LIMIT:,} candles of this look-back are shown. "
            "Choose longer candles to see all of it."
        )
    drawn = candles[-CANDLE_LIMIT:]
    before = found[: len(found) - len(drawn)][-warm_up:] if warm_up else []
    return View(choice, state, shown, drawn, before, tuple(notices))


def _without_a_trade(symbol: str, others: Sequence[str], *, is_followed: bool) -> Nothing:
    if not is_followed:
        return Nothing(
            f"{symbol} is not followed",
            f"It is not among CANDLEFLOW_SYMBOLS, and no trade of it is stored.{_listed(others)}",
        )
    return Nothing(
        f"No trade of {symbol} yet", f"Its candles will appear here with the first trade.{_listed(others)}"
    )


def _listed(symbols: Sequence[str]) -> str:
    if not symbols:
        return ""
    return f" Symbols with trades: {', '.join(symbols[:5])}{', ...' if len(symbols) > 5 else ''}."


def _of_the_past(look_back_seconds: int, state: SymbolState, now: int) -> str:
    return (
        f"The last trade was {words.age(state.last_trade_time, now)}, at {words.utc(state.last_trade_time)}. "
        f"The chart shows the {words.span(look_back_seconds)} before it."
    )
