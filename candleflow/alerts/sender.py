"""Sends what was decided, one thread a channel: at its pace, several alerts in a message where many wait.

Before a message leaves, its alerts are marked as being sent, and that is committed. Whatever happens then,
they are sent again only where the answer says that they were not taken (``answers.py``).

A picture follows the words once those were taken and noted as sent: a message of its own, at the channel's
pace, tried once. Words that are due go first, and then the picture is that of the later message; so no
picture, whatever becomes of it, stands in the way of words.
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
"""A channel that was refused as such isn't tried again before; its alerts are refused unsent."""
LONGEST_BACK_OFF_SECONDS: Final = 60.0
GIVEN_UP_US: Final = 3_600 * SECOND_US
"""An alert older than this is given up: it is no news any more."""
PICTURE_SECONDS: Final = 60.0
"""A picture that waited longer is dropped: it no longer belongs to the words above it."""


PictureOf = Callable[[int], bytes | None]
"""An alert's picture by its number: a PNG, or None where it has none."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The picture that is to be sent next, unless the time is up."""

    alert_id: int
    until: float


class ChannelSender:
    """Sends by one channel until ``stop`` is set. ``picture_of`` None: words only."""

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
        """Set where there may be more to send."""
        self.outcomes: Counter[str] = Counter()
        """How many alerts went how."""
        self.pictures = 0
        """How many were taken."""
        self.problem = ""
        """What stands against sending just now, in words."""

    def run(self) -> None:
        """Send what is due, at once when woken, until ``stop``; it may take as long as one attempt does."""
        while not self._stop.is_set():
            try:
                self.step()
                wait = min(max(self.pause(), POLL_SECONDS), AWAY_SECONDS)
            except (StoreError, HeldError) as error:
                _log.debug("channel %s waits: %s", self._channel.name, error)
                wait = AWAY_SECONDS
            self.wake.wait(wait)
            self.wake.clear()

    def pause(self) -> float:
        """Seconds until the channel may be used again."""
        return max(0.0, self._next_at - self._steady())

    def step(self) -> int:
        """Send one message of what is due, if the pace allows; how many alerts were in it.

        Where nothing is due, the picture of the message before goes, if it has one.

        Raises StoreError and HeldError where nothing can be taken.
        """
        if self.pause() > 0:
            return 0
        taken = self._store.take(self._channel.name, MOST_AT_ONCE)
        now = time.time_ns() // 1_000
        old = [one for one in taken if now - one.decided_at > GIVEN_UP_US]
        self._note(old, "given up", "it could not be sent for an hour")
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
        """Try once. After a picture that was refused or not answered, try none for REFUSED_SECONDS."""
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
        _log.warning("channel %s: a picture was not taken: %s", self._channel.name, answer.detail)

    def _made(self, alert_id: int) -> bytes | None:
        try:
            return None if self._picture_of is None else self._picture_of(alert_id)
        except Exception as error:  # noqa: BLE001 - whatever it is: the words went, and the next must go too
            _log.warning("channel %s: a picture can't be made: %s", self._channel.name, error)
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
        """Retry until PostgreSQL has it, as nothing else knows; a stop or a kill before leaves it unknown."""
        while some:
            try:
                self._store.note(self._channel.name, some, state, detail, due_in)
            except StoreError as error:
                _log.info("channel %s: what was sent can't be noted yet: %s", self._channel.name, error)
                if self._stop.wait(AWAY_SECONDS):
                    return
            else:
                self.outcomes[state] += len(some)
                return


def _said(answer: Answer) -> str:
    return "are to be sent later" if answer.outcome is Outcome.LATER else str(answer.outcome)
