"""The alerts process: evaluates the rules four times a second, and sends the alerts.

Any number of instances may run. One holds the lease and works. The others wait, report the holder, and take
over when it ends.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Final

from candleflow.alerts.answers import Outcome
from candleflow.alerts.channels import channels
from candleflow.alerts.decisions import Decider
from candleflow.alerts.picture import picture_of
from candleflow.alerts.sender import ChannelSender
from candleflow.errors import HeldError, StoreError
from candleflow.metrics.serving import served_heartbeat
from candleflow.process_loop import exit_status
from candleflow.settings import Settings
from candleflow.store.alerts import AlertStore
from candleflow.store.clearing import Clearing

_log = logging.getLogger(__name__)

NAME: Final = "alerts"
LOOK_SECONDS: Final = 0.25
AWAY_SECONDS: Final = 1.0
STRAY_SECONDS: Final = 5.0
CLEAR_SECONDS: Final = 60.0
"""How often to delete old alerts, once a batch has found no more."""
STOP_SECONDS: Final = 8.0
"""How long a stop waits for a message that is being sent."""
_MOST_STRAY: Final = 100


def run(settings: Settings) -> int:
    """Evaluate rules and send alerts until stopped; return the exit status. Logs to stderr."""
    return exit_status(NAME, settings, lambda: Alerting(settings).run())


class Alerting:
    """One run of the process. Raises SettingError at once if apprise doesn't accept a channel's address."""

    def __init__(self, settings: Settings) -> None:
        self._channels = channels(settings)
        self._store = AlertStore.from_settings(settings)
        self._decider = Decider(settings, self._store)
        self._stop = threading.Event()
        drawn = partial(picture_of, settings, self._store) if settings.alert.pictures else None
        self._senders = {
            name: ChannelSender(way, self._store, self._stop, drawn) for name, way in self._channels.items()
        }
        self._heartbeat = served_heartbeat(settings, NAME)
        self._message = ""
        self._decided = 0
        self._waiting = 0
        self._clearing = Clearing("old alerts")
        self._stray_due = self._beat_due = self._clear_due = float("-inf")

    def stop(self, *_: object) -> None:
        """Make ``run`` return as soon as the messages being sent are finished."""
        self._stop.set()
        self._wake_all()

    def _wake_all(self) -> None:
        for sender in self._senders.values():
            sender.wake.set()

    def run(self) -> None:
        """Evaluate rules and send alerts until SIGTERM, SIGINT or ``stop``."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        threads = [
            threading.Thread(target=sender.run, name=name, daemon=True)
            for name, sender in self._senders.items()
        ]
        for thread in threads:
            thread.start()
        try:
            while not self._stop.is_set():
                self._stop.wait(LOOK_SECONDS if self._look() else AWAY_SECONDS)
        finally:
            self.stop()
            deadline = time.monotonic() + STOP_SECONDS
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            self._heartbeat.remove()
            self._store.close()

    def counts(self) -> Mapping[str, int | float]:
        """Return counters for the heartbeat: rules, alerts by outcome in this run, waiting ones, pictures."""
        outcomes: Counter[str] = sum((one.outcomes for one in self._senders.values()), Counter())
        return {
            "rules": len(self._decider.rules),
            "decided": self._decided,
            "waiting": self._waiting,
            **{str(one): outcomes[one] for one in (Outcome.SENT, Outcome.REFUSED, Outcome.UNKNOWN)},
            "pictures": sum(one.pictures for one in self._senders.values()),
        }

    def _look(self) -> bool:
        """Evaluate once; return False if PostgreSQL or the lease was not available."""
        is_there = False
        try:
            self._hold()
            decided = self._decider.look(time.time_ns() // 1_000)
            self._refuse_unknown_channels()
        except (StoreError, HeldError) as error:
            self._decider.forget()
            self._message = f"waits: {error}"
        else:
            is_there, self._message = True, self._problems()
            if decided:
                self._decided += decided
                self._wake_all()
            else:
                self._clear()
        self._beat()
        return is_there

    def _hold(self) -> None:
        if not self._store.is_held():
            self._decider.forget()
            self._store.claim(f"{socket.gethostname()}, pid {os.getpid()}")
            _log.info(
                "alerts are decided here: this process holds the lease; channels: %s",
                ", ".join(self._channels) or "none",
            )

    def _refuse_unknown_channels(self) -> None:
        """Mark alerts for channels that aren't configured as refused."""
        if time.monotonic() < self._stray_due:
            return
        self._stray_due = time.monotonic() + STRAY_SECONDS
        waiting = self._store.waiting()
        self._waiting = sum(waiting.values())
        for name in waiting.keys() - self._channels.keys():
            stray = self._store.take(name, _MOST_STRAY)
            if stray:
                self._store.note(
                    name, stray, Outcome.REFUSED, "CANDLEFLOW_ALERT_CHANNELS has no such channel"
                )
                _log.warning(
                    "channel %s is not in CANDLEFLOW_ALERT_CHANNELS, so %d alerts are not sent; add it, or "
                    "remove the rules that name it",
                    name,
                    len(stray),
                )

    def _clear(self) -> None:
        """Delete a batch of old alerts. Called only when there are no new alerts to send."""
        if time.monotonic() >= self._clear_due:
            are_more = self._clearing.step(self._store.drop_old)
            self._clear_due = time.monotonic() + (0.0 if are_more else CLEAR_SECONDS)

    def _problems(self) -> str:
        return "; ".join(f"{name}: {one.problem}" for name, one in self._senders.items() if one.problem)

    def _beat(self) -> None:
        if time.monotonic() >= self._beat_due:
            self._beat_due = time.monotonic() + 1.0
            state = "waiting" if self._message.startswith("waits") else "running"
            self._heartbeat.beat(state, self._message, self.counts())
