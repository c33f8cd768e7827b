"""Candleflow turns live Binance trades into exact candles that anyone can check.

ARCHITECTURE.md describes the parts and how they work together.
"""

__version__ = "0.2.0"
