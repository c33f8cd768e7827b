"""A Python copy of ``assets/patch.js``: applies patches and messages. A browser test checks that both
agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from candleflow.dashboard.patch import Json, Patch


@dataclass
class Receiver:
    base: tuple[str, Any] | None = None

    def received(self, message: Mapping[str, Any]) -> Any:
        """Return the value that the message means. Raises LookupError if its base was never received."""
        if "whole" in message:
            self.base = (message["base"], message["whole"])
        next_id, step = message.get("next", (message["base"], None))
        if self.base is not None and self.base[0] == message["base"]:
            self.base = (next_id, apply(self.base[1], step))
        if self.base is None or self.base[0] != next_id:
            raise LookupError(message["base"])
        return apply(self.base[1], message.get("patch"))


def apply(before: Json, patch: Patch | None) -> Json:
    """Return ``before`` with ``patch`` applied, without changing ``before``."""
    if patch is None:
        return before
    match patch:
        case ["set", value]:
            return value
        case ["keys", changed, gone]:
            kept = {key: value for key, value in before.items() if key not in gone}
            return kept | {key: apply(before.get(key), one) for key, one in changed.items()}
        case ["items", changed]:
            return [apply(one, changed.get(str(at))) for at, one in enumerate(before)]
        case ["points", dropped, length, runs]:
            points = [*before[dropped : dropped + length]]
            points += [None] * (length - len(points))
            for at, values in runs:
                points[at : at + len(values)] = values
            return points
    raise ValueError(f"no patch: {patch!r:.100}")
