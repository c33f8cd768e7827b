"""A Hypothesis strategy for symbol names in any alphabet."""

from __future__ import annotations

import string
from typing import Final

from hypothesis import strategies as st

from candleflow.market.symbol import SYMBOL_LENGTH, is_symbol

# Not st.from_regex(SYMBOL_PATTERN), which is slow: it searches all of Unicode at each draw.
_LETTERS: Final = st.one_of(
    st.sampled_from(string.ascii_uppercase + string.digits + "._-"),
    st.characters(min_codepoint=0xAA).filter(is_symbol),
)
SYMBOLS: Final = st.text(_LETTERS, min_size=1, max_size=SYMBOL_LENGTH).filter(is_symbol)
