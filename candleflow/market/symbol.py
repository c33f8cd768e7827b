"""Valid symbol names, by Binance's own rule, and their upper and lower case.

Binance's rule is the Java expression ``^[\\w\\-._&&[^a-z]]{1,50}$`` (error -1100, "Illegal characters found
in parameter"). Since December 2025 it lists names such as ``币安人生USDT``, so ``\\w`` means Unicode's word
characters. Each version of Unicode adds some, and Python, Java and Binance have different versions.

Therefore the pattern here excludes fixed ranges of characters that are not word characters. It accepts every
letter, mark and digit of any version, and rejects spaces, control and bidirectional characters, and emoji. It
also accepts some punctuation within the blocks of scripts, which the exchange would reject.
"""

from __future__ import annotations

import re
import string
from typing import Final

SYMBOL_LENGTH: Final = 50
"""The maximum number of characters in a name; in UTF-8 each has up to four bytes."""

# These escapes mean the same in Python's and Java's regular expressions. Above U+FFFF no escape does, so the
# characters themselves are used.
_NOT_IN_NAMES: Final = (
    r"\x00-,/:-@\[-\^`-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf\xd7\xf7"
    r"\u0600-\u060f\u061b-\u061f\u06dd\u06de\u0700-\u070f\u0890\u0891\u08e2\u1680\u180e"
    r"\u2000-\u200b\u200e-\u203e\u2041-\u2053\u2055-\u2070\u2074-\u207e\u2080-\u208e\u20a0-\u20cf"
    r"\u2189-\u24b5\u24ea-\u2bff\u2e00-\u2e2e\u2e30-\u3004\u3008-\u3020\u3030\u303d-\u303f\u3200-\u33ff"
    r"\u4dc0-\u4dff\ud7fc-\uf8ff\ufe10-\ufe19\ufe30-\ufe32\ufe35-\ufe4c\ufe50-\ufe6b\ufeff-\uff0f"
    r"\uff1a-\uff20\uff3b-\uff3e\uff40\uff5b-\uff65\uffe0-\uffff"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001cf50-\U0001d164\U0001d173-\U0001d17a"
    "\U0001d1ae-\U0001d241\U0001d245-\U0001d378\U0001f000-\U0001f12f\U0001f14a-\U0001f14f"
    "\U0001f16a-\U0001f16f\U0001f18a-\U0001fbca\U000e0000-\U000e00ff\U000f0000-\U0010ffff"
)

SYMBOL_PATTERN: Final = rf"[^\-.{_NOT_IN_NAMES}][^{_NOT_IN_NAMES}]{{0,{SYMBOL_LENGTH - 1}}}"
"""The rule as a regular expression for Python's text (not bytes) and for Java.

In addition to Binance's rule, a name may not begin with ``.`` or ``-``, so that it can't be mistaken for a
path or a command-line option.
"""

_SYMBOL: Final = re.compile(SYMBOL_PATTERN)
_UPPER: Final = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)
_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def is_symbol(name: str) -> bool:
    """Return whether ``name`` is a valid symbol name, such as ``BTCUSDT``; the exchange may not list it."""
    return _SYMBOL.fullmatch(name) is not None


def upper(text: str) -> str:
    """Convert user input to a symbol: strip spaces, and change a to z to upper case.

    Only a to z are changed, because no symbol has them; so this reverses ``lower``. ``str.upper`` would also
    change other letters: "ß" becomes "SS", and some names would become those of other symbols.
    """
    return text.strip().translate(_UPPER)


def lower(symbol: str) -> str:
    """Return the symbol as it appears in the names of its streams."""
    return symbol.translate(_LOWER)
