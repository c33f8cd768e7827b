"""Alert rules and their validation. No I/O; the current time is always an argument."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, Final

from candleflow.errors import MarketError
from candleflow.market.symbol import is_symbol
from candleflow.market.window import SECOND_US

LONGEST_MINUTES: Final = 60
FEWEST_CANDLES: Final = 10
MOST_CANDLES: Final = 720
"""How many candles are kept for each symbol for rules that look back: one hour of 5 s candles."""
LONGEST_COOL_DOWN: Final = 30 * 86_400
LONGEST_NOTE: Final = 100
LAST_EXPIRY: Final = 253_402_300_799_000_000
"""The last second of the year 9999."""
MOST_CHANNELS: Final = 10
LARGEST: Final = Decimal(10) ** 12
_RETIRED: Final = "may_be_simulated"
"""A field of rules stored by 0.1. Ignored: simulated trades have a database, and so rules, of their own."""
CHANNEL_PATTERN: Final = r"[a-z][a-z0-9_-]{0,30}"
_CHANNEL: Final = re.compile(CHANNEL_PATTERN)


NO_CHANNEL: Final = (
    "no channel is set up: add CANDLEFLOW_ALERT_CHANNELS=phone=tgram://<token>/<chat> to .env and restart"
)


class RuleError(MarketError):
    """An invalid rule. The message names the field and the accepted values."""

    exit_status = 2


def check_channels(names: Sequence[str], known: Sequence[str]) -> None:
    """Raise RuleError that lists ``known``, or says how to set up a channel, if a name is not in it."""
    for name in names:
        if name not in known:
            there = f"CANDLEFLOW_ALERT_CHANNELS has {', '.join(known)}" if known else NO_CHANNEL
            raise RuleError(f"channels: there is no channel {name!r:.40}; {there}")


class Kind(StrEnum):
    """What a rule watches. The command line and the table use these names."""

    CROSSES_UP = "crosses-up"
    CROSSES_DOWN = "crosses-down"
    CROSSES = "crosses"
    ABOVE = "above"
    BELOW = "below"
    MOVE = "move"
    VOLUME = "volume"
    SILENCE = "silence"
    GAP = "gap"
    DIFFERS = "differs"
    LAG = "lag"

    @property
    def is_of_market(self) -> bool:
        """Whether it watches candles. The other kinds watch the pipeline."""
        return self not in (Kind.SILENCE, Kind.GAP, Kind.DIFFERS, Kind.LAG)

    @property
    def is_of_price(self) -> bool:
        """Whether its threshold is a price."""
        return self in (Kind.CROSSES_UP, Kind.CROSSES_DOWN, Kind.CROSSES, Kind.ABOVE, Kind.BELOW)


@dataclass(frozen=True, slots=True)
class Rule:
    """One alert rule. ``rule_id``: its id in the table, 0 if not stored yet. ``symbol`` None: all symbols."""

    kind: Kind
    threshold: Decimal = Decimal(0)
    """A price, percent, standard deviations or seconds, by kind; 0 for gap and differs."""
    symbol: str | None = None
    minutes: int = 0
    """For ``move``: how far to look back."""
    candles: int = 0
    """For ``volume``: how many earlier candles to compare with."""
    is_on_closed: bool = False
    hysteresis: Decimal = Decimal(0)
    """In the threshold's unit."""
    cool_down_seconds: int = 60
    is_once: bool = False
    expires_at: int | None = None
    """In microseconds since the epoch."""
    note: str = ""
    channels: tuple[str, ...] = ()
    """Empty: every channel that is set up when the rule fires."""
    may_be_incomplete: bool = False
    rule_id: int = 0

    def has_expired(self, now: int) -> bool:
        return self.expires_at is not None and now >= self.expires_at

    def words(self) -> str:
        """Return the rule's condition as text, such as ``crosses up 100000``."""
        return _WORDS[self.kind](self)


_WORDS: Final[Mapping[Kind, Callable[[Rule], str]]] = {
    Kind.CROSSES_UP: lambda rule: f"crosses up {plain(rule.threshold)}",
    Kind.CROSSES_DOWN: lambda rule: f"crosses down {plain(rule.threshold)}",
    Kind.CROSSES: lambda rule: f"crosses {plain(rule.threshold)}",
    Kind.ABOVE: lambda rule: f"is above {plain(rule.threshold)}",
    Kind.BELOW: lambda rule: f"is below {plain(rule.threshold)}",
    Kind.MOVE: lambda rule: f"moves {plain(rule.threshold)} % within {rule.minutes} min",
    Kind.VOLUME: lambda rule: (
        f"volume {plain(rule.threshold)} std dev above the mean of {rule.candles} candles"
    ),
    Kind.SILENCE: lambda rule: f"no trade for {plain(rule.threshold)} s",
    Kind.GAP: lambda _: "trades are missing",
    Kind.DIFFERS: lambda _: "candles differ from the exchange's klines",
    Kind.LAG: lambda rule: f"candles lag over {plain(rule.threshold)} s",
}


def plain(number: Decimal) -> str:
    """Format a number without an exponent and without trailing zeros."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def expiry(text: str) -> int | None:
    """Parse a time such as ``2026-12-31T18:00`` into microseconds; None if empty. Default zone: UTC.

    Raises RuleError if it isn't a time.
    """
    if not text.strip():
        return None
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise RuleError(f"until: must be a time such as 2026-12-31T18:00, not {text!r:.40}") from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()) * SECOND_US


def fields(rule: Rule) -> dict[str, Any]:
    """Convert the rule to JSON-ready fields, with exact numbers as text. ``rule_of`` is the inverse."""
    given = asdict(rule)
    del given["rule_id"]
    return given | {
        "kind": str(rule.kind),
        "threshold": plain(rule.threshold),
        "hysteresis": plain(rule.hysteresis),
        "channels": list(rule.channels),
    }


def rule_of(given: Mapping[str, Any], rule_id: int = 0) -> Rule:
    """Build and validate a rule from its fields; missing fields take their default.

    Raises RuleError that names the wrong field and the accepted values.
    """
    unknown = sorted(given.keys() - _READERS.keys() - {_RETIRED})
    if unknown:
        raise RuleError(f"{unknown[0]!r:.40}: unknown field of a rule")
    given = {"kind": None, "channels": ()} | dict(given)
    read = {name: reader(name, given[name]) for name, reader in _READERS.items() if name in given}
    rule = Rule(**read, rule_id=rule_id)
    _check_kind(rule)
    return rule


def _check_kind(rule: Rule) -> None:
    """Check the fields that depend on the kind."""
    needs_threshold = rule.kind not in (Kind.GAP, Kind.DIFFERS)
    if needs_threshold and rule.threshold <= 0:
        raise RuleError(f"threshold: must be above 0 for {rule.kind}")
    if not needs_threshold and (rule.threshold or rule.hysteresis):
        raise RuleError(f"threshold: {rule.kind} takes no threshold and no hysteresis")
    if (rule.kind is Kind.MOVE) != (rule.minutes > 0):
        raise RuleError(f"minutes: must be 1 to {LONGEST_MINUTES} for move, and 0 for all other kinds")
    if (rule.kind is Kind.VOLUME) != (rule.candles >= FEWEST_CANDLES) or 0 < rule.candles < FEWEST_CANDLES:
        raise RuleError(
            f"candles: must be {FEWEST_CANDLES} to {MOST_CANDLES} for volume, and 0 for all other kinds"
        )
    if rule.hysteresis >= rule.threshold and rule.hysteresis:
        raise RuleError("hysteresis: must be less than the threshold")
    if rule.kind is Kind.LAG and rule.symbol is not None:
        raise RuleError("symbol: must be empty for lag, which covers all symbols")


def _kind(name: str, given: Any) -> Kind:
    try:
        return Kind(given)
    except ValueError:
        raise RuleError(f"{name}: must be one of {', '.join(Kind)}, not {given!r:.40}") from None


def _number(name: str, given: Any) -> Decimal:
    try:
        number = Decimal(str(given).strip()) if not isinstance(given, bool) else Decimal("NaN")
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number < 0 or number > LARGEST or _places(number) > 16:
        raise RuleError(
            f"{name}: must be a number from 0 to 10^12, at most 16 decimal places, not {given!r:.40}"
        )
    return number


def _places(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _whole(lowest: int, highest: int) -> Callable[[str, Any], int]:
    def read(name: str, given: Any) -> int:
        if isinstance(given, bool) or not isinstance(given, int) or not lowest <= given <= highest:
            raise RuleError(f"{name}: must be a whole number from {lowest} to {highest:,}, not {given!r:.40}")
        return given

    return read


def _flag(name: str, given: Any) -> bool:
    if not isinstance(given, bool):
        raise RuleError(f"{name}: must be true or false, not {given!r:.40}")
    return given


def _symbol(name: str, given: Any) -> str | None:
    if given is not None and not (isinstance(given, str) and is_symbol(given)):
        raise RuleError(f"{name}: must be a symbol such as BTCUSDT, or empty for all, not {given!r:.40}")
    return given


def _expiry(name: str, given: Any) -> int | None:
    return None if given is None else _whole(0, LAST_EXPIRY)(name, given)


def _note(name: str, given: Any) -> str:
    if not isinstance(given, str) or len(given) > LONGEST_NOTE or not given.isprintable():
        raise RuleError(f"{name}: must be one line of at most {LONGEST_NOTE} characters")
    return given


def _channels(name: str, given: Any) -> tuple[str, ...]:
    is_list = isinstance(given, Sequence) and not isinstance(given, str)
    names = tuple(given) if is_list else ()
    if not is_list or len(names) > MOST_CHANNELS or len(set(names)) < len(names):
        raise RuleError(f"{name}: must be at most {MOST_CHANNELS} different names")
    for one in names:
        if not (isinstance(one, str) and _CHANNEL.fullmatch(one)):
            raise RuleError(f"{name}: must be names of a-z, 0-9, '-' and '_', not {one!r:.40}")
    return names


_READERS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "kind": _kind,
    "threshold": _number,
    "symbol": _symbol,
    "minutes": _whole(0, LONGEST_MINUTES),
    "candles": _whole(0, MOST_CANDLES),
    "is_on_closed": _flag,
    "hysteresis": _number,
    "cool_down_seconds": _whole(0, LONGEST_COOL_DOWN),
    "is_once": _flag,
    "expires_at": _expiry,
    "note": _note,
    "channels": _channels,
    "may_be_incomplete": _flag,
}
"""Validators by field, in the order of checking: each returns the value or raises RuleError."""
