"""How a value that changes with each refresh gets to a browser: once whole, then as what differs.

A message is one of these, for ``received`` of ``assets/patch.js`` to read:

- ``{"base": id, "whole": value}``: the value, which becomes the base of what follows;
- ``{"base": id, "patch": patch}``: the patch that makes the base into the value;
- ``{"base": id, "next": [next id, patch], "patch": patch}``: first make the base into the next one, unless
  that has been done, and then the next one into the value.

A difference grows as time goes on from its base, so the base has to follow; and a browser that is busy draws
the last of several messages without having seen the others. So several messages in turn say how it does.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any, Final

from candleflow.dashboard import patch

_REPEATS: Final = 5
"""A browser that sees one of so many messages has the next base. At a refresh a second it may stand still for
as many seconds; one that has missed them all asks for the whole, as one whose session is new does."""
_GROWTH: Final = 1.5
"""The base follows once what differs is so many times as large as it was at first. For 361 candles, of some
1,000 bytes at first and 22 more a second, the mean of both costs is least there."""
_SMALL_BYTES: Final = 400
"""What is no larger than this is not worth another base."""


@dataclass(frozen=True, slots=True)
class _Base:
    whole: Any
    base_id: str = field(default_factory=lambda: secrets.token_hex(4))


@dataclass(slots=True)
class _Next:
    """The base that follows, how it comes of the one before, and how often that has been told."""

    base: _Base
    step: patch.Patch | None
    repeats: int = 0


class Delivery:
    """What one place of a page has been sent, of one view: the differences are sent against that."""

    def __init__(self, view: str) -> None:
        self.view = view
        self._base: _Base | None = None
        self._next: _Next | None = None
        self._first_bytes: int | None = None
        self._whole_bytes = 0

    def message(self, value: Any) -> dict[str, Any]:
        """What makes the browser show ``value``, which must not be changed afterwards."""
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
        return self._told(base, change)

    def _begin(self, value: Any) -> dict[str, Any]:
        self._base, self._next, self._first_bytes = _Base(value), None, None
        self._whole_bytes = len(encoded(value))
        return {"base": self._base.base_id, "whole": value}

    def _told(self, base: _Base, change: patch.Patch | None) -> dict[str, Any]:
        told = {"base": base.base_id, "patch": change}
        following = self._next
        if following is not None:
            told["next"] = [following.base.base_id, following.step]
            following.repeats += 1
            if following.repeats == _REPEATS:
                self._base, self._next = following.base, None
        return told


def encoded(value: Any) -> bytes:
    """As JSON, in as few bytes as there are."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
