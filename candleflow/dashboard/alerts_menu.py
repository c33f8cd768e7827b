"""The alerts menu: add a rule, remove rules, see the latest alerts and whether they were delivered.

If a channel's newest delivery failed, it is shown at the top: the channel itself can't report it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import streamlit as st

from candleflow.alerts.rules import LONGEST_COOL_DOWN, LONGEST_NOTE, Kind
from candleflow.dashboard import words
from candleflow.dashboard.alert_rules import AlertRules
from candleflow.errors import CandleflowError, StoreError, UnknownOutcomeError
from candleflow.store.alerts import DeliveredAlert

_EVERY: Final = "Every symbol"
_KINDS: Final = {
    "Price crosses up": Kind.CROSSES_UP, "Price crosses down": Kind.CROSSES_DOWN,
    "Price crosses": Kind.CROSSES, "Price is above": Kind.ABOVE, "Price is below": Kind.BELOW,
    "Price moves by % in 5 minutes": Kind.MOVE, "Volume above mean, in std. deviations": Kind.VOLUME,
    "No trade for seconds": Kind.SILENCE, "Trades are missing (gap)": Kind.GAP,
    "Candles differ from the exchange's": Kind.DIFFERS, "Candles lag by seconds": Kind.LAG,
}  # fmt: skip
_WITHOUT_THRESHOLD: Final = (Kind.GAP, Kind.DIFFERS)
_FAILED: Final = ("refused", "unknown", "given up")
_OPEN: Final = ("pending", "sending")
_NO_CHANNEL: Final = (
    "No channel is set up, so alerts are only stored and shown here. To have them sent, add"
    " `CANDLEFLOW_ALERT_CHANNELS=phone=tgram://<token>/<chat>` to `.env` and restart."
    " [Addresses for Telegram, Discord, e-mail and others](https://github.com/caronc/apprise/wiki)."
)
_LATEST: Final = 10
_HYSTERESIS: Final = "How far the value must move back past the threshold before the rule may fire again."
_MINUTES: Final = 5
_CANDLES: Final = 60


@st.fragment
def menu(alert_rules: AlertRules, offered: Sequence[str]) -> None:
    """Draw the menu. Opening or using it doesn't redraw the charts."""
    try:
        latest = alert_rules.latest(_LATEST)
    except StoreError:
        latest = []
    opener = st.popover("Alerts (!)" if _failed(latest) else "Alerts", key="alerts", on_change="rerun")
    if not opener.open:
        return
    with opener:
        try:
            _latest(latest)
            _rules(alert_rules)
            _form(alert_rules, offered)
        except UnknownOutcomeError as error:
            st.warning(words.escape_markdown(str(error)))
        except StoreError:
            st.caption("PostgreSQL is away. Alerts will appear here when it is back.")


def _latest(alerts: Sequence[DeliveredAlert]) -> None:
    if failed := _failed(alerts):
        st.warning(words.escape_markdown(f"{failed.channel}: {failed.state}: {failed.detail}"))
    for one in alerts:
        first = one.text.partition("\n")[0]
        st.text(f"{words.utc(one.decided_at)}  {one.channel}, {one.state}: {first}")
    if not alerts:
        st.caption("No alert so far.")


def _failed(alerts: Sequence[DeliveredAlert]) -> DeliveredAlert | None:
    """Return the newest failed delivery that no later outcome on its channel follows."""
    newest: dict[str, DeliveredAlert] = {}
    for one in alerts:
        if one.state not in _OPEN:
            newest.setdefault(one.channel, one)
    return next((one for one in newest.values() if one.state in _FAILED), None)


def _rules(alert_rules: AlertRules) -> None:
    for rule_id, text in alert_rules.rules().items():
        with st.container(horizontal=True, vertical_alignment="center"):
            st.text(text)
            if st.button("Remove", key=f"alert-remove-{rule_id}"):
                alert_rules.remove(rule_id)
                st.rerun()


def _form(alert_rules: AlertRules, offered: Sequence[str]) -> None:
    if not alert_rules.channels:
        st.caption(_NO_CHANNEL)
    with st.form("alert", border=False):
        kind = _KINDS[st.selectbox("Condition", list(_KINDS), key="alert-kind")]
        symbol = st.selectbox("Symbol", [_EVERY, *offered], key="alert-symbol")
        threshold = st.text_input("Threshold (price, %, std. deviations or seconds)", key="alert-threshold")
        with st.container(horizontal=True):
            hysteresis = st.text_input("Hysteresis", "0", key="alert-hysteresis", help=_HYSTERESIS)
            cool_down = st.number_input("Cool-down, s", 0, LONGEST_COOL_DOWN, 60, key="alert-cool-down")
            until = st.text_input("Until (UTC)", key="alert-until", placeholder="2026-12-31 18:00")
        note = st.text_input("Note", key="alert-note", max_chars=LONGEST_NOTE)
        channels = alert_rules.channels and st.multiselect(
            "Channels",
            alert_rules.channels,
            default=list(alert_rules.channels),
            key="alert-channels",
            placeholder="Every channel",
        )
        with st.container(horizontal=True):
            is_closed = st.toggle("Closed candles only", key="alert-closed")
            is_once = st.toggle("Fire once", key="alert-once")
        is_added = st.form_submit_button("Add")
    if not is_added:
        return
    rule = {
        "kind": kind,
        "threshold": "0" if kind in _WITHOUT_THRESHOLD else threshold,
        "symbol": None if symbol == _EVERY or kind is Kind.LAG else symbol,
        "minutes": _MINUTES if kind is Kind.MOVE else 0,
        "candles": _CANDLES if kind is Kind.VOLUME else 0,
        "is_on_closed": is_closed,
        "hysteresis": "0" if kind in _WITHOUT_THRESHOLD else hysteresis,
        "cool_down_seconds": cool_down,
        "is_once": is_once,
        "note": note,
        "channels": channels,
    }
    try:
        alert_rules.add(rule, until)
    except StoreError:
        raise
    except CandleflowError as error:
        st.error(words.escape_markdown(str(error)))
        return
    st.rerun()
