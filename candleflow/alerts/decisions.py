"""Evaluate the rules on the current candles, and store new states and alerts in one transaction."""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Final

from candleflow.alerts.firing import Firing, Observation, State, evaluate
from candleflow.alerts.message import alert_text
from candleflow.alerts.rules import MOST_CANDLES, Kind, Rule, rule_of
from candleflow.audit.klines import DIFFERING
from candleflow.errors import MarketError
from candleflow.market.stored import Bar
from candleflow.market.window import SECOND_US, floor_time
from candleflow.settings import Settings, channels_of
from candleflow.store.alerts import Alert, AlertStore, Decision, LiveSymbol, StoredState
from candleflow.telemetry import read_heartbeat

_log = logging.getLogger(__name__)

RULES_SECONDS: Final = 1.0
"""How often to re-read the rules, in seconds."""
GAPS_SECONDS: Final = 5.0
GAPS_US: Final = 3_600 * SECOND_US
"""How far back ``gap`` rules look: one hour."""
COMPARED_SECONDS: Final = 180.0
"""A comparison with the klines older than this is ignored."""
BEAT_SECONDS: Final = 5.0
_AUDIT: Final = "audit"


class Decider:
    """Evaluates the rules; caches rules, states and candles between evaluations."""

    def __init__(self, settings: Settings, store: AlertStore) -> None:
        self._settings = settings
        self._store = store
        self._channels = list(channels_of(settings.alert.channels.get_secret_value()))
        self._logged_invalid: set[int] = set()
        self.rules: list[Rule] = []
        self.forget()

    def forget(self) -> None:
        """Drop all caches; the next ``look`` reads everything from the database."""
        self._states: dict[tuple[int, str], StoredState] = {}
        self._bars: defaultdict[str, deque[Bar]] = defaultdict(lambda: deque(maxlen=MOST_CANDLES + 1))
        self._missing: Mapping[str, int] = {}
        self._rules_due = self._gaps_due = float("-inf")
        self._are_states_read = False

    def look(self, now: int) -> int:
        """Evaluate all rules once; return the number of new alerts. ``now`` in microseconds.

        Raises StoreError while PostgreSQL is unavailable, HeldError if another process holds the lease. Call
        ``forget`` then: the cached states are ahead of the stored ones.
        """
        self._read_rules()
        if not self.rules:
            return 0
        snapshots = {one.symbol: one for one in self._store.live_symbols()}
        fresh = {symbol: self._newly_closed(symbol) for symbol in self._symbols_with_candles(snapshots)}
        decisions = [
            decision
            for rule in self.rules
            for observation in self._observations(rule, snapshots, fresh, now)
            if (decision := self._decision(rule, observation, now)) is not None
        ]
        return self._store.decide(decisions) if decisions else 0

    def _decision(self, rule: Rule, observation: Observation, now: int) -> Decision | None:
        """Evaluate one rule; None if its state is unchanged, so that a price change alone writes nothing."""
        key = rule.rule_id, observation.symbol
        stored = self._states.get(key) or StoredState(0, {})
        before = State(**stored.state)
        after, firing = evaluate(rule, before, observation, now)
        if after == before:
            return None
        self._states[key] = StoredState(stored.version + 1, asdict(after))
        return Decision(*key, stored.version, asdict(after), None if firing is None else self._alert(firing))

    def _alert(self, firing: Firing) -> Alert:
        words, observation = alert_text(firing, self._settings.page_url), firing.observation
        channels = firing.rule.channels or self._channels
        return Alert(observation.window, observation.at, words.text, words.brief, channels)

    def _read_rules(self) -> None:
        if not self._are_states_read:
            self._states = self._store.states()
            self._are_states_read = True
        if time.monotonic() < self._rules_due:
            return
        self._rules_due = time.monotonic() + RULES_SECONDS
        found = []
        for stored in self._store.rules():
            try:
                found.append(rule_of(stored.rule, stored.rule_id))
            except MarketError as error:
                if stored.rule_id not in self._logged_invalid:
                    self._logged_invalid.add(stored.rule_id)
                    _log.error(
                        "alert rule %d is invalid and ignored: %s; to remove it: "
                        "python -m candleflow alerts remove %d",
                        stored.rule_id,
                        error,
                        stored.rule_id,
                    )
        self.rules = found

    def _symbols_with_candles(self, snapshots: Mapping[str, LiveSymbol]) -> Sequence[str]:
        """Return the symbols for which some rule needs closed candles."""
        wanting = [rule for rule in self.rules if _wants_candles(rule)]
        if any(rule.symbol is None for rule in wanting):
            return list(snapshots)
        named = {rule.symbol for rule in wanting if rule.symbol is not None}
        return sorted(named & snapshots.keys())

    def _newly_closed(self, symbol: str) -> Sequence[int]:
        """Read new closed candles; return their positions in the cache. At first only the last one is new."""
        bars = self._bars[symbol]
        if not bars:
            bars.extend(self._store.closed(symbol, 0, bars.maxlen or 0))
            return [len(bars) - 1] if bars else []
        found = self._store.closed(symbol, bars[-1].open_time, bars.maxlen or 0)
        bars.extend(found)
        return range(len(bars) - len(found), len(bars))

    def _observations(
        self,
        rule: Rule,
        snapshots: Mapping[str, LiveSymbol],
        fresh: Mapping[str, Sequence[int]],
        now: int,
    ) -> Iterator[Observation]:
        if not rule.kind.is_of_market:
            yield from self._pipeline_observations(rule.kind, snapshots, now)
            return
        for symbol in snapshots if rule.symbol is None else [rule.symbol]:
            if rule.is_on_closed:
                yield from (self._closed_observation(symbol, at) for at in fresh.get(symbol, ()))
            elif (snapshot := snapshots.get(symbol)) is not None and snapshot.window is not None:
                yield self._live_observation(snapshot, snapshot.window)

    def _live_observation(self, snapshot: LiveSymbol, window: int) -> Observation:
        return Observation(
            symbol=snapshot.symbol,
            at=snapshot.traded_at,
            window=window,
            value=snapshot.price,
            is_complete=snapshot.is_complete,
            is_simulated=self._settings.exchange.is_simulated,
            volume=snapshot.volume,
            history=[one for one in self._bars.get(snapshot.symbol, ()) if one.open_time < window],
        )

    def _closed_observation(self, symbol: str, at: int) -> Observation:
        bars = list(self._bars[symbol])
        candle = bars[at]
        return Observation(
            symbol=symbol,
            at=candle.open_time + self._settings.windows.size_us,
            window=candle.open_time,
            value=candle.close,
            is_closed=True,
            is_complete=candle.is_complete,
            is_simulated=self._settings.exchange.is_simulated,
            volume=candle.volume,
            history=bars[:at],
        )

    def _pipeline_observations(
        self, kind: Kind, snapshots: Mapping[str, LiveSymbol], now: int
    ) -> Iterator[Observation]:
        window = floor_time(now, self._settings.windows.size_us)
        for symbol, value in self._readings(kind, snapshots, now).items():
            yield Observation(symbol, now, window, value, is_simulated=self._settings.exchange.is_simulated)

    def _readings(self, kind: Kind, snapshots: Mapping[str, LiveSymbol], now: int) -> Mapping[str, Decimal]:
        """Return the value that a pipeline rule compares, by symbol."""
        if kind is Kind.SILENCE:
            return {symbol: _seconds(now - snapshot.traded_at) for symbol, snapshot in snapshots.items()}
        if kind is Kind.GAP:
            return {symbol: Decimal(count) for symbol, count in self._gaps(now).items()}
        if kind is Kind.DIFFERS:
            return self._differing(now)
        caught_up_at = self._store.caught_up_at(self._settings.topic)
        return {} if caught_up_at is None else {"": _seconds(now - caught_up_at)}

    def _gaps(self, now: int) -> Mapping[str, int]:
        if time.monotonic() >= self._gaps_due:
            self._gaps_due = time.monotonic() + GAPS_SECONDS
            self._missing = self._store.missing(now - GAPS_US)
        return self._missing

    def _differing(self, now: int) -> Mapping[str, Decimal]:
        """Return the differing candles by symbol from the auditor's heartbeat; empty if that is stale."""
        beat = read_heartbeat(self._settings.stack.run_dir, _AUDIT)
        if beat is None or now / SECOND_US - beat.beaten_at > BEAT_SECONDS:
            return {}
        return {
            symbol: Decimal(sum(int(beat.of(str(verdict), symbol) or 0) for verdict in DIFFERING))
            for symbol, age in beat.by_label.get("compared_age_s", {}).items()
            if age <= COMPARED_SECONDS
        }


def _wants_candles(rule: Rule) -> bool:
    return rule.kind.is_of_market and (rule.is_on_closed or rule.kind in (Kind.MOVE, Kind.VOLUME))


def _seconds(microseconds: int) -> Decimal:
    return Decimal(max(0, microseconds)).scaleb(-6).quantize(Decimal("0.1"))
