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
from typing import Final, Protocol

from candleflow.alerts.answers import Answer, Outcome
from candleflow.alerts.message import MOST_AT_ONCE, Told, together
from candleflow.errors import HeldError, StoreError
from candleflow.market.window import SECOND_US
from candleflow.store.alerts import Delivery

_log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.25
AWAY_SECONDS: Final = 1.0
REFUSED_SECONDS: Final = 600.0
"""A channel that was refused as such isn't tried again before; its alerts are refused unsent."""
LONGEST_BACK_OFF_SECONDS: Final = 60.0
GIVEN_UP_US: Final = 3_600 * SECOND_US
"""An alert that couldn't be sent for so long is no news any more."""
PICTURE_SECONDS: Final = 60.0
"""Nor does a picture that couldn't be sent for so long belong to the words above it."""


class Outbox(Protocol):
    """Where deliveries are taken from and noted: ``store.alerts.AlertBook``."""

    def take(self, channel: str, most: int) -> list[Delivery]: ...
    def note(
        self, channel: str, attempted: Sequence[Delivery], state: str, detail: str = "", due_in: float = 0
    ) -> None: ...


class Way(Protocol):
    """How a message leaves: ``notify.channels.Channel``."""

    name: str
    pause_seconds: float

    @property
    def takes_pictures(self) -> bool: ...
    def send(self, body: str) -> Answer: ...
    def send_picture(self, png: bytes) -> Answer: ...


PictureOf = Callable[[int], bytes | None]
"""An alert's picture by its number: a PNG, or None where it has none."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The picture that is to be sent next, unless the time is up."""

    alert_id: int
    until: float


class ChannelSender:
    """Sends by one channel until told to stop. ``now`` gives microseconds, ``steady`` seconds.

    ``picture_of`` None: words only.
    """

    def __init__(
        self,
        way: Way,
        outbox: Outbox,
        picture_of: PictureOf | None = None,
        *,
        now: Callable[[], int] = lambda: time.time_ns() // 1_000,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._way = way
        self._outbox = outbox
        self._picture_of = picture_of if way.takes_pictures else None
        self._wanted: _Wanted | None = None
        self._no_pictures_until = float("-inf")
        self._now = now
        self._steady = steady
        self._next_at = float("-inf")
        self._refused_until = float("-inf")
        self._refusal = ""
        self.outcomes: Counter[str] = Counter()
        """How many alerts went how."""
        self.pictures = 0
        """How many were taken."""
        self.problem = ""
        """What stands against sending just now, in words."""

    def run(self, stop: threading.Event, wake: threading.Event) -> None:
        """Send what is due, at once when woken, until ``stop``; it may take as long as one attempt does."""
        while not stop.is_set():
            try:
                self.step(stop)
                wait = min(max(self.pause(), POLL_SECONDS), AWAY_SECONDS)
            except (StoreError, HeldError) as error:
                _log.debug("channel %s waits: %s", self._way.name, error)
                wait = AWAY_SECONDS
            wake.wait(wait)
            wake.clear()

    def pause(self) -> float:
        """So many seconds until the channel may be used again."""
        return max(0.0, self._next_at - self._steady())

    def step(self, stop: threading.Event | None = None) -> int:
        """Send one message of what is due, if the pace allows; how many alerts were in it.

        Where nothing is due, the picture of the message before goes, if it has one.

        Raises StoreError and HeldError where nothing can be taken.
        """
        if self.pause() > 0:
            return 0
        taken = self._outbox.take(self._way.name, MOST_AT_ONCE)
        old = [one for one in taken if self._now() - one.decided_at > GIVEN_UP_US]
        self._note(old, "given up", "it could not be sent for an hour", stop=stop)
        due = [one for one in taken if one not in old]
        if not due:
            self._send_picture()
            return 0
        if self._steady() < self._refused_until:
            self._note(due, Outcome.REFUSED, self._refusal, stop=stop)
            return 0
        answer = self._way.send(together([Told(one.text, one.brief) for one in due]))
        self._take_in(answer, due, stop)
        if answer.outcome is Outcome.SENT and self._picture_of is not None:
            self._wanted = _Wanted(due[0].alert_id, self._steady() + PICTURE_SECONDS)
        return len(due)

    def _send_picture(self) -> None:
        """Once, whatever comes of it. Where one isn't taken, or isn't answered, none is tried for a while."""
        wanted, self._wanted = self._wanted, None
        if wanted is None or not self._no_pictures_until <= self._steady() <= wanted.until:
            return
        png = self._made(wanted.alert_id)
        if png is None:
            return
        answer = self._way.send_picture(png)
        self._next_at = self._steady() + max(self._way.pause_seconds, answer.wait_seconds or 0)
        if answer.outcome is Outcome.SENT:
            self.pictures += 1
            return
        if answer.outcome is not Outcome.LATER:
            self._no_pictures_until = self._steady() + REFUSED_SECONDS
        _log.warning("channel %s: a picture was not taken: %s", self._way.name, answer.detail)

    def _made(self, alert_id: int) -> bytes | None:
        try:
            return None if self._picture_of is None else self._picture_of(alert_id)
        except Exception as error:  # noqa: BLE001 - whatever it is: the words went, and the next must go too
            _log.warning("channel %s: a picture can't be made: %s", self._way.name, error)
            return None

    def _take_in(self, answer: Answer, due: Sequence[Delivery], stop: threading.Event | None) -> None:
        wait = max(self._way.pause_seconds, answer.wait_seconds or 0)
        due_in = 0.0
        if answer.outcome is Outcome.LATER:
            tries = max(one.attempt for one in due)
            back_off = min(LONGEST_BACK_OFF_SECONDS, 2.0 ** min(tries - 1, 10))
            due_in = wait = max(wait, answer.wait_seconds if answer.wait_seconds is not None else back_off)
        self._next_at = self._steady() + wait
        self.problem = "" if answer.outcome is Outcome.SENT else answer.detail
        if answer.is_channels_own:
            self._refused_until, self._refusal = self._steady() + REFUSED_SECONDS, answer.detail
        if answer.outcome is not Outcome.SENT:
            _log.warning(
                "channel %s: %d alerts %s: %s", self._way.name, len(due), _said(answer), answer.detail
            )
        self._note(due, answer.outcome, answer.detail, due_in, stop=stop)

    def _note(
        self,
        some: Sequence[Delivery],
        state: str,
        detail: str,
        due_in: float = 0,
        *,
        stop: threading.Event | None,
    ) -> None:
        """Until it is noted, as nothing else knows; a stop or a kill before leaves it unknown."""
        while some:
            try:
                self._outbox.note(self._way.name, some, state, detail, due_in)
            except StoreError as error:
                _log.info("channel %s: what was sent can't be noted yet: %s", self._way.name, error)
                if stop is None or stop.wait(AWAY_SECONDS):
                    return
            else:
                self.outcomes[state] += len(some)
                return


def _said(answer: Answer) -> str:
    return "are to be sent later" if answer.outcome is Outcome.LATER else str(answer.outcome)
