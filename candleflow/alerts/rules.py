"""What an alert rule is, and what may not be one. No I/O, and no clock of its own."""

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
"""Candles kept of a symbol whose rules look back: an hour of those of 5 s."""
LONGEST_COOL_DOWN: Final = 30 * 86_400
LONGEST_NOTE: Final = 100
LAST_EXPIRY: Final = 253_402_300_799_000_000
"""The last second of the year 9999."""
MOST_CHANNELS: Final = 10
LARGEST: Final = Decimal(10) ** 12
CHANNEL_PATTERN: Final = r"[a-z][a-z0-9_-]{0,30}"
_CHANNEL: Final = re.compile(CHANNEL_PATTERN)


class RuleError(MarketError):
    """A rule that can't be: names the part that is wrong, and what is accepted."""


class Kind(StrEnum):
    """What a rule watches for. The names are those of the command line and of the table."""

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
        """Whether it is about candles; the others are about what makes them."""
        return self not in (Kind.SILENCE, Kind.GAP, Kind.DIFFERS, Kind.LAG)

    @property
    def is_of_price(self) -> bool:
        """Whether its threshold is a price."""
        return self in (Kind.CROSSES_UP, Kind.CROSSES_DOWN, Kind.CROSSES, Kind.ABOVE, Kind.BELOW)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. ``rule_id`` is the table's, 0 where it has none yet; ``symbol`` None means every one."""

    kind: Kind
    threshold: Decimal = Decimal(0)
    """A price; percent; standard deviations; seconds. Nothing for gap and differs: one is too many."""
    symbol: str | None = None
    minutes: int = 0
    """Of a move."""
    candles: int = 0
    """That a volume is held against."""
    is_on_closed: bool = False
    hysteresis: Decimal = Decimal(0)
    """In the threshold's unit."""
    cool_down_seconds: int = 60
    is_once: bool = False
    expires_at: int | None = None
    """In microseconds since the epoch."""
    note: str = ""
    channels: tuple[str, ...] = ()
    may_be_incomplete: bool = False
    may_be_simulated: bool = False
    rule_id: int = 0

    def has_expired(self, now: int) -> bool:
        return self.expires_at is not None and now >= self.expires_at

    def words(self) -> str:
        """As one would say it: ``crosses up 100000``."""
        return _WORDS[self.kind](self)


_WORDS: Final[Mapping[Kind, Callable[[Rule], str]]] = {
    Kind.CROSSES_UP: lambda rule: f"crosses up {plain(rule.threshold)}",
    Kind.CROSSES_DOWN: lambda rule: f"crosses down {plain(rule.threshold)}",
    Kind.CROSSES: lambda rule: f"crosses {plain(rule.threshold)}",
    Kind.ABOVE: lambda rule: f"is above {plain(rule.threshold)}",
    Kind.BELOW: lambda rule: f"is below {plain(rule.threshold)}",
    Kind.MOVE: lambda rule: f"moves {plain(rule.threshold)} % within {rule.minutes} min",
    Kind.VOLUME: lambda rule: (
        f"volume over {plain(rule.threshold)} standard deviations of {rule.candles} candles"
    ),
    Kind.SILENCE: lambda rule: f"no trade for {plain(rule.threshold)} s",
    Kind.GAP: lambda _: "trades are missing",
    Kind.DIFFERS: lambda _: "candles differ from the exchange's klines",
    Kind.LAG: lambda rule: f"candles lag over {plain(rule.threshold)} s",
}


def plain(number: Decimal) -> str:
    """Without an exponent, and without zeros at the end."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def expiry(text: str) -> int | None:
    """A time such as ``2026-12-31T18:00`` (UTC, or its own zone) in microseconds; None where empty.

    Raises RuleError for what is no time.
    """
    if not text.strip():
        return None
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise RuleError(f"until: must be a time such as 2026-12-31T18:00, not {text!r:.40}") from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()) * SECOND_US


def fields(rule: Rule) -> dict[str, Any]:
    """The rule as JSON has it, numbers that must stay exact as text; ``rule_of`` reads it."""
    given = asdict(rule)
    del given["rule_id"]
    return given | {
        "kind": str(rule.kind),
        "threshold": plain(rule.threshold),
        "hysteresis": plain(rule.hysteresis),
        "channels": list(rule.channels),
    }


def rule_of(given: Mapping[str, Any], rule_id: int = 0) -> Rule:
    """The rule that the fields describe; what is left out has its default.

    Raises RuleError that names the field which is wrong, and what is accepted there.
    """
    unknown = sorted(given.keys() - _READERS.keys())
    if unknown:
        raise RuleError(f"{unknown[0]!r:.40} is no part of a rule")
    given = {"kind": None, "channels": ()} | dict(given)
    read = {name: reader(name, given[name]) for name, reader in _READERS.items() if name in given}
    rule = Rule(**read, rule_id=rule_id)
    _check_kind(rule)
    return rule


def _check_kind(rule: Rule) -> None:
    """What the kind asks for."""
    needs_threshold = rule.kind not in (Kind.GAP, Kind.DIFFERS)
    if needs_threshold and rule.threshold <= 0:
        raise RuleError(f"threshold: must be above 0 for {rule.kind}")
    if not needs_threshold and (rule.threshold or rule.hysteresis):
        raise RuleError(f"threshold: {rule.kind} has none, nor a hysteresis")
    if (rule.kind is Kind.MOVE) != (rule.minutes > 0):
        raise RuleError(f"minutes: a move needs 1 to {LONGEST_MINUTES}, and nothing else has any")
    if (rule.kind is Kind.VOLUME) != (rule.candles >= FEWEST_CANDLES) or 0 < rule.candles < FEWEST_CANDLES:
        raise RuleError(
            f"candles: a volume needs {FEWEST_CANDLES} to {MOST_CANDLES}, and nothing else has any"
        )
    if rule.hysteresis >= rule.threshold and rule.hysteresis:
        raise RuleError("hysteresis: must be less than the threshold")
    if rule.kind is Kind.LAG and rule.symbol is not None:
        raise RuleError("symbol: a lag is that of all symbols")


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
        raise RuleError(f"{name}: must be a number from 0 to 10^12 of 16 places at most, not {given!r:.40}")
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
        raise RuleError(f"{name}: must be one such as BTCUSDT, or none for all, not {given!r:.40}")
    return given


def _expiry(name: str, given: Any) -> int | None:
    return None if given is None else _whole(0, LAST_EXPIRY)(name, given)


def _note(name: str, given: Any) -> str:
    if not isinstance(given, str) or len(given) > LONGEST_NOTE or not given.isprintable():
        raise RuleError(f"{name}: must be one line of {LONGEST_NOTE} letters at most")
    return given


def _channels(name: str, given: Any) -> tuple[str, ...]:
    names = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if not names or len(names) > MOST_CHANNELS or len(set(names)) < len(names):
        raise RuleError(f"{name}: must be one to {MOST_CHANNELS} names, each once")
    for one in names:
        if not (isinstance(one, str) and _CHANNEL.fullmatch(one)):
            raise RuleError(f"{name}: must be names of small letters, digits, '-' and '_', not {one!r:.40}")
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
    "may_be_simulated": _flag,
}
"""By field of a rule, what checks it and gives its value. The first that is wrong is named."""
