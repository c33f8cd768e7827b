"""The page's access to alert rules: read with the page's database role, edited with the editor role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from candleflow.alerts.message import describe
from candleflow.alerts.rules import check_channels, expiry, fields, rule_of
from candleflow.dashboard.shared_answers import SharedAnswers, Viewer
from candleflow.errors import MarketError
from candleflow.settings import Settings, channels_of
from candleflow.store.alerts import AlertEditor, AlertReader, DeliveredAlert, StoredRule


class AlertRules:
    """Alert rules and the latest alerts, shared by all viewers.

    Each method raises StoreError while PostgreSQL is away. Channels are known by name only: their addresses
    are secrets, and stay out of the page.
    """

    def __init__(self, settings: Settings) -> None:
        self.channels: Sequence[str] = list(channels_of(settings.alert.channels.get_secret_value()))
        self._reader = AlertReader.from_settings(settings)
        self._editor = AlertEditor.from_settings(settings)
        self._answers = SharedAnswers()

    def rules(self) -> Mapping[int, str]:
        """Return a description of each rule, by its id."""
        return {one.rule_id: _words(one) for one in self._reader.rules()}

    def latest(self, limit: int) -> Sequence[DeliveredAlert]:
        """Return the latest alerts, newest first. Viewers share a result for up to a second."""
        return Viewer(self._answers).ask(limit, lambda: self._reader.latest(limit))

    def add(self, rule: Mapping[str, Any], until: str) -> None:
        """Add a rule that expires at ``until`` (UTC, such as ``2026-12-31T18:00``); empty: never.

        Raises MarketError, with a text for the viewer, if the rule is invalid or its channel is not in
        CANDLEFLOW_ALERT_CHANNELS.
        """
        wanted = rule_of({**rule, "expires_at": expiry(until)})
        check_channels(wanted.channels, self.channels)
        self._editor.add(fields(wanted))

    def remove(self, rule_id: int) -> None:
        self._editor.remove(rule_id)


def _words(stored: StoredRule) -> str:
    try:
        return describe(rule_of(stored.rule, stored.rule_id))
    except MarketError as error:
        return f"can't be used: {error}"
