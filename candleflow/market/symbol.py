"""What a symbol's name may be: Binance's own pattern, in the letters that its spot symbols are listed in."""

from __future__ import annotations

import re
from typing import Final

# Binance's documented pattern is ^[A-Z0-9-_.]{1,20}$ (error -1100, "Illegal characters found in parameter").
# A first letter or digit is asked for besides, so that no name reads as a path or as an option.
SYMBOL_PATTERN: Final = r"[A-Z0-9][A-Z0-9._-]{0,19}"

_SYMBOL: Final = re.compile(SYMBOL_PATTERN)


def is_symbol(name: str) -> bool:
    """Whether ``name`` has the form of a symbol, such as ``BTCUSDT``; the exchange may still not list it."""
    return _SYMBOL.fullmatch(name) is not None
