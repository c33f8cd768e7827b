"""The menu of alerts: a rule is added, rules are removed, and what became of the latest alerts is shown.

What was refused for good stands at the top, as nobody else would tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import streamlit as st

from candleflow.alerts.rules import LONGEST_COOL_DOWN, LONGEST_NOTE, Kind
from candleflow.dashboard import words
from candleflow.dashboard.alert_desk import AlertDesk
from candleflow.errors import CandleflowError, StoreError, UnknownOutcomeError
from candleflow.store.alerts import DeliveredAlert

_EVERY: Final = "Every symbol"
_KINDS: Final = {
    "Price crosses up": Kind.CROSSES_UP, "Price crosses down": Kind.CROSSES_DOWN,
    "Price crosses": Kind.CROSSES, "Price is above": Kind.ABOVE, "Price is below": Kind.BELOW,
    "Price moves by %": Kind.MOVE, "Volume over standard deviations": Kind.VOLUME,
    "No trade for seconds": Kind.SILENCE, "Trades are missing": Kind.GAP,
    "Differs from the exchange": Kind.DIFFERS, "Candles lag by seconds": Kind.LAG,
}  # fmt: skip
_WITHOUT_THRESHOLD: Final = (Kind.GAP, Kind.DIFFERS)
_FAILED: Final = ("refused", "unknown", "given up")
_NO_CHANNEL: Final = (
    "No channel is set up. Write `CANDLEFLOW_ALERT_CHANNELS=phone=tgram://<token>/<chat>` into `.env` and"
    " restart; [addresses of Telegram, Discord, e-mail and others](https://github.com/caronc/apprise/wiki)."
)
_LATEST: Final = 10
_HYSTERESIS: Final = "So far back, in the unit of the line beside, until it may fire again."
_MINUTES: Final = 5
_CANDLES: Final = 60


@st.fragment
def menu(desk: AlertDesk, offered: Sequence[str], *, is_simulated: bool) -> None:
    """A button that opens to the rules. The chart isn't run again."""
    try:
        latest = desk.latest(_LATEST)
    except StoreError:
        latest = []
    has_failed = any(one.state in _FAILED for one in latest)
    opener = st.popover("Alerts (!)" if has_failed else "Alerts", key="alerts", on_change="rerun")
    if not opener.open:
        return
    with opener:
        try:
            _latest(latest)
            _rules(desk)
            _form(desk, offered, is_simulated=is_simulated)
        except UnknownOutcomeError as error:
            st.warning(words.escape_markdown(str(error)))
        except StoreError:
            st.caption("PostgreSQL is away: alerts show here once it is back.")


def _latest(alerts: Sequence[DeliveredAlert]) -> None:
    failed = next((one for one in alerts if one.state in _FAILED), None)
    if failed is not None:
        st.warning(words.escape_markdown(f"{failed.channel}: {failed.state}: {failed.detail}"))
    for one in alerts:
        first = one.text.partition("\n")[0]
        st.text(f"{words.utc(one.decided_at)}  {one.channel}, {one.state}: {first}")
    if not alerts:
        st.caption("No alert so far.")


def _rules(desk: AlertDesk) -> None:
    for rule_id, told in desk.rules().items():
        with st.container(horizontal=True, vertical_alignment="center"):
            st.text(told)
            if st.button("Remove", key=f"alert-remove-{rule_id}"):
                desk.remove(rule_id)
                st.rerun()


def _form(desk: AlertDesk, offered: Sequence[str], *, is_simulated: bool) -> None:
    if not desk.channels:
        st.caption(_NO_CHANNEL)
        return
    with st.form("alert", border=False):
        kind = _KINDS[st.selectbox("When", list(_KINDS), key="alert-kind")]
        symbol = st.selectbox("Symbol", [_EVERY, *offered], key="alert-symbol")
        threshold = st.text_input("Price, percent, deviations or seconds", key="alert-threshold")
        with st.container(horizontal=True):
            hysteresis = st.text_input("Hysteresis", "0", key="alert-hysteresis", help=_HYSTERESIS)
            cool_down = st.number_input("Cool-down, s", 0, LONGEST_COOL_DOWN, 60, key="alert-cool-down")
            until = st.text_input("Until (UTC)", key="alert-until", placeholder="2026-12-31 18:00")
        note = st.text_input("Note", key="alert-note", max_chars=LONGEST_NOTE)
        channels = st.multiselect("To", desk.channels, default=list(desk.channels), key="alert-channels")
        with st.container(horizontal=True):
            is_closed = st.toggle("Closed candles only", key="alert-closed")
            is_once = st.toggle("Once", key="alert-once")
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
        "may_be_simulated": is_simulated,
    }
    try:
        desk.add(rule, until)
    except StoreError:
        raise
    except CandleflowError as error:
        st.error(words.escape_markdown(str(error)))
        return
    st.rerun()
