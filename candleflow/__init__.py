"""Candleflow: live Binance trades as exact candles that anyone can check. ARCHITECTURE.md is the map."""

__version__ = "0.2.0"
