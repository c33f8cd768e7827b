"""What there is to show for a choice: candles, or a plain sentence why there are none. No Streamlit here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from candleflow.dashboard import words
from candleflow.dashboard.choice import CANDLE_LIMIT, Choice, Period, period
from candleflow.dashboard.source import PageSource
from candleflow.market.stored import StoredCandle, SymbolState
from candleflow.market.window import SECOND_US


@dataclass(frozen=True, slots=True)
class View:
    """Candles of a choice, oldest first, never none."""

    choice: Choice
    symbol: SymbolState
    period: Period
    candles: Sequence[StoredCandle]
    before: Sequence[StoredCandle]
    """Those before the first that is shown, as far as they were asked for."""
    notices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Nothing:
    """Why there is no candle to show, for the person who waits for one."""

    title: str
    advice: str


def look(
    source: PageSource, choice: Choice, now: int, warm_up: int = 0, *, is_followed: bool = True
) -> View | Nothing:
    """Read what ``choice`` asks for, and ``warm_up`` candles before it. ``now`` is in microseconds.

    ``is_followed``: whether its symbol is one of the settings', and so brings new trades.

    Raises StoreError as ``source`` does.
    """
    states = {state.symbol: state for state in source.symbols()}
    state = states.get(choice.symbol)
    if state is None:
        return _without_a_trade(choice.symbol, sorted(states), is_followed=is_followed)
    shown = period(choice, state.last_trade_time, now)
    # One more than is drawn: that it exists is how we know that the look-back was narrowed.
    since = None if shown.since is None else shown.since - warm_up * choice.bucket_seconds * SECOND_US
    found = source.candles(choice.symbol, choice.bucket_seconds, since, CANDLE_LIMIT + 1 + warm_up)
    candles = [one for one in found if shown.since is None or one.open_time >= shown.since]
    if not candles:
        return Nothing(
            f"No candles of {choice.symbol} in this look-back", "Choose a longer one to see its last trades."
        )
    notices = []
    if not is_followed:
        notices.append(f"{choice.symbol} is not among CANDLEFLOW_SYMBOLS: shown is what was stored of it.")
    if shown.is_past and choice.look_back_seconds is not None:
        notices.append(_of_the_past(choice.look_back_seconds, state, now))
    if len(candles) > CANDLE_LIMIT:
        notices.append(
            f"Only the newest {CANDLE_LIMIT:,} candles of this look-back are shown. Wider ones reach further."
        )
    drawn = candles[-CANDLE_LIMIT:]
    before = found[: len(found) - len(drawn)][-warm_up:] if warm_up else []
    return View(choice, state, shown, drawn, before, tuple(notices))


def _without_a_trade(symbol: str, others: Sequence[str], *, is_followed: bool) -> Nothing:
    if not is_followed:
        return Nothing(
            f"{symbol} is not followed",
            f"CANDLEFLOW_SYMBOLS doesn't name it, and no trade of it is stored.{_listed(others)}",
        )
    if not others:
        return Nothing(
            "Waiting for the first trade",
            "Once the producer and the processor run, candles show here by themselves.",
        )
    return Nothing(
        f"No trade of {symbol} yet", f"It shows here by itself as soon as one is stored.{_listed(others)}"
    )


def _listed(symbols: Sequence[str]) -> str:
    if not symbols:
        return ""
    return f" There are trades of {', '.join(symbols[:5])}{', ...' if len(symbols) > 5 else ''}."


def _of_the_past(look_back_seconds: int, state: SymbolState, now: int) -> str:
    return (
        f"The last trade was {words.age(state.last_trade_time, now)}, at {words.utc(state.last_trade_time)}. "
        f"Shown are the {words.span(look_back_seconds)} up to it."
    )
