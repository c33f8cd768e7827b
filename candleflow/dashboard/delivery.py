"""Delta encoding of a value that changes with each refresh: sent once whole, then as patches to a base.

A message is one of these (``received`` in ``assets/patch.js`` reads them):

- ``{"base": id, "whole": value}``: the value, which is the new base;
- ``{"base": id, "patch": patch}``: apply the patch to the base to get the value;
- ``{"base": id, "next": [next id, patch], "patch": patch}``: turn the base into the next base, unless that is
  done already; then apply the last patch to it to get the value.

Patches grow with the distance from their base, so the base moves forward from time to time. A busy browser
draws only the last of several messages. Therefore each move of the base is sent in several messages in a row.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any, Final

from candleflow.dashboard import patch

_REPEATS: Final = 5
"""How many messages in a row carry the step to the next base. A browser that sees one of them keeps up: at a
refresh a second it may hang for 5 s. One that missed them all requests the whole value."""
_GROWTH: Final = 1.5
"""The base moves once a patch is this many times as large as the first one. For 361 candles (1,000 bytes at
first, 22 more each second) this factor sends the fewest bytes."""
_SMALL_BYTES: Final = 400
"""Patches up to this size never move the base."""


@dataclass(frozen=True, slots=True)
class _Base:
    whole: Any
    base_id: str = field(default_factory=lambda: secrets.token_hex(4))


@dataclass(slots=True)
class _Next:
    """The next base, the patch from the current base to it, and in how many messages that was sent."""

    base: _Base
    step: patch.Patch | None
    repeats: int = 0


class Delivery:
    """What was sent to one component for one view: the base that patches refer to."""

    def __init__(self, view: str) -> None:
        self.view = view
        self._base: _Base | None = None
        self._next: _Next | None = None
        self._first_bytes: int | None = None
        self._whole_bytes = 0

    def message(self, value: Any) -> dict[str, Any]:
        """Return the message that makes the browser show ``value``. The caller must not mutate it later."""
        base = self._base
        if base is None:
            return self._begin(value)
        newest = base if self._next is None else self._next.base
        change = patch.difference(newest.whole, value)
        size = len(encoded(change))
        first = self._first_bytes = self._first_bytes or size
        has_grown = size > max(_SMALL_BYTES, _GROWTH * first)
        if (_REPEATS if has_grown else 2) * size > self._whole_bytes:
            return self._begin(value)
        if has_grown and self._next is None:
            self._next, self._first_bytes = _Next(_Base(value), change), None
            change = None
        return self._patch_message(base, change)

    def _begin(self, value: Any) -> dict[str, Any]:
        self._base, self._next, self._first_bytes = _Base(value), None, None
        self._whole_bytes = len(encoded(value))
        return {"base": self._base.base_id, "whole": value}

    def _patch_message(self, base: _Base, change: patch.Patch | None) -> dict[str, Any]:
        message = {"base": base.base_id, "patch": change}
        following = self._next
        if following is not None:
            message["next"] = [following.base.base_id, following.step]
            following.repeats += 1
            if following.repeats == _REPEATS:
                self._base, self._next = following.base, None
        return message


def encoded(value: Any) -> bytes:
    """Encode as compact JSON."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
