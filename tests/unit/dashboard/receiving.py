"""What a browser makes of the messages of ``dashboard/delivery.py``: the same as ``assets/patch.js``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from candleflow.dashboard import patch


@dataclass
class Receiver:
    base: tuple[str, Any] | None = None

    def received(self, message: Mapping[str, Any]) -> Any:
        """The value sent. Raises LookupError where its base never came."""
        if "whole" in message:
            self.base = (message["base"], message["whole"])
        next_id, step = message.get("next", (message["base"], None))
        if self.base is not None and self.base[0] == message["base"]:
            self.base = (next_id, patch.apply(self.base[1], step))
        if self.base is None or self.base[0] != next_id:
            raise LookupError(message["base"])
        return patch.apply(self.base[1], message.get("patch"))
