"""Send alerts, one thread per channel, within its rate limit. Several waiting alerts share one message.

Before sending, the sender commits to the database that these alerts are being sent. After that, it sends them
again only if the response says that they were not accepted (``answers.py``). So each is sent at most once.

After the text was accepted and recorded as sent, its picture follows as a message of its own, tried once.
Texts that are due go first; the picture is then that of the latest text. So a picture never delays a text.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from candleflow.alerts.answers import Answer, Outcome
from candleflow.alerts.channels import Channel
from candleflow.alerts.message import MOST_AT_ONCE, AlertText, combined_message
from candleflow.backoff import Backoff
from candleflow.errors import HeldError, StoreError
from candleflow.market.window import SECOND_US
from candleflow.store.alerts import AlertStore, Delivery

_log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.25
AWAY_SECONDS: Final = 1.0
REFUSED_SECONDS: Final = 600.0
"""How long a channel that the server refused isn't tried; its alerts are refused without sending."""
LONGEST_BACK_OFF_SECONDS: Final = 60.0
GIVEN_UP_US: Final = 3_600 * SECOND_US
"""An alert older than this isn't sent any more."""
PICTURE_SECONDS: Final = 60.0
"""A picture that waited longer than this is dropped: readers could not match it to its text."""


PictureOf = Callable[[int], bytes | None]
"""Returns the PNG for an alert id, or None if the alert has no picture."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The picture to send next, if there is time before ``until``."""

    alert_id: int
    until: float


class ChannelSender:
    """Sends the alerts of one channel until ``stop`` is set. ``picture_of`` None: text only."""

    def __init__(
        self,
        channel: Channel,
        store: AlertStore,
        stop: threading.Event,
        picture_of: PictureOf | None = None,
        *,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._channel = channel
        self._store = store
        self._stop = stop
        self._picture_of = picture_of if channel.takes_pictures else None
        self._backoff = Backoff(1.0, LONGEST_BACK_OFF_SECONDS)
        self._wanted: _Wanted | None = None
        self._no_pictures_until = float("-inf")
        self._steady = steady
        self._next_at = float("-inf")
        self._refused_until = float("-inf")
        self._refusal = ""
        self.wake = threading.Event()
        """Set this event when there may be more to send."""
        self.outcomes: Counter[str] = Counter()
        """How many alerts had which outcome."""
        self.pictures = 0
        """How many pictures the server accepted."""
        self.problem = ""
        """Why the last message could not be sent; empty if it was."""

    def run(self) -> None:
        """Send due alerts until ``stop``. A message being sent is finished first. ``wake`` ends a pause."""
        while not self._stop.is_set():
            try:
                self.step()
                wait = min(max(self.pause(), POLL_SECONDS), AWAY_SECONDS)
            except (StoreError, HeldError) as error:
                _log.debug("channel %s: waiting, sending is not possible now: %s", self._channel.name, error)
                wait = AWAY_SECONDS
            self.wake.wait(wait)
            self.wake.clear()

    def pause(self) -> float:
        """Seconds until the channel may be used again."""
        return max(0.0, self._next_at - self._steady())

    def step(self) -> int:
        """Send one message with the due alerts if the rate limit allows; return how many alerts it had.

        If no alert is due, send the pending picture instead, if there is one.

        Raises StoreError and HeldError if due alerts can't be read.
        """
        if self.pause() > 0:
            return 0
        taken = self._store.take(self._channel.name, MOST_AT_ONCE)
        now = time.time_ns() // 1_000
        old = [one for one in taken if now - one.decided_at > GIVEN_UP_US]
        self._note(old, "given up", "it could not be sent within an hour")
        due = [one for one in taken if one not in old]
        if not due:
            self._send_picture()
            return 0
        if self._steady() < self._refused_until:
            self._note(due, Outcome.REFUSED, self._refusal)
            return 0
        answer = self._channel.send(combined_message([AlertText(one.text, one.brief) for one in due]))
        self._take_in(answer, due)
        if answer.outcome is Outcome.SENT and self._picture_of is not None:
            self._wanted = _Wanted(due[0].alert_id, self._steady() + PICTURE_SECONDS)
        return len(due)

    def _send_picture(self) -> None:
        """Try once. After a refused or unanswered picture, send no pictures for REFUSED_SECONDS."""
        wanted, self._wanted = self._wanted, None
        if wanted is None or not self._no_pictures_until <= self._steady() <= wanted.until:
            return
        png = self._made(wanted.alert_id)
        if png is None:
            return
        answer = self._channel.send_picture(png)
        self._next_at = self._steady() + max(self._channel.pause_seconds, answer.wait_seconds or 0)
        if answer.outcome is Outcome.SENT:
            self.pictures += 1
            return
        if answer.outcome is not Outcome.LATER:
            self._no_pictures_until = self._steady() + REFUSED_SECONDS
        _log.warning(
            "channel %s: the alert's text was sent, but a picture was not sent: %s",
            self._channel.name,
            answer.detail,
        )

    def _made(self, alert_id: int) -> bytes | None:
        try:
            return None if self._picture_of is None else self._picture_of(alert_id)
        except Exception as error:  # noqa: BLE001 - a failing picture must not stop the next text
            _log.warning(
                "channel %s: the alert's text was sent, but its picture could not be drawn: %s",
                self._channel.name,
                error,
            )
            return None

    def _take_in(self, answer: Answer, due: Sequence[Delivery]) -> None:
        wait = max(self._channel.pause_seconds, answer.wait_seconds or 0)
        due_in = 0.0
        if answer.outcome is Outcome.LATER:
            if answer.wait_seconds is None:
                wait = max(wait, self._backoff.next_delay())
            due_in = wait
        else:
            self._backoff.reset()
        self._next_at = self._steady() + wait
        self.problem = "" if answer.outcome is Outcome.SENT else answer.detail
        if answer.is_channels_own:
            self._refused_until, self._refusal = self._steady() + REFUSED_SECONDS, answer.detail
        if answer.outcome is not Outcome.SENT:
            _log.warning(
                "channel %s: %d alerts %s: %s", self._channel.name, len(due), _said(answer), answer.detail
            )
        self._note(due, answer.outcome, answer.detail, due_in)

    def _note(self, some: Sequence[Delivery], state: str, detail: str, due_in: float = 0) -> None:
        """Store the outcome; retry until PostgreSQL accepts it. If stopped before, it stays unknown."""
        while some:
            try:
                self._store.note(self._channel.name, some, state, detail, due_in)
            except StoreError as error:
                _log.info(
                    "channel %s: the outcome can't be stored yet, retrying: %s", self._channel.name, error
                )
                if self._stop.wait(AWAY_SECONDS):
                    return
            else:
                self.outcomes[state] += len(some)
                return


def _said(answer: Answer) -> str:
    return "will be sent later" if answer.outcome is Outcome.LATER else str(answer.outcome)
