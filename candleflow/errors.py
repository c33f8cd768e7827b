"""All errors that Candleflow raises on purpose, in one class tree.

The command line prints each one's message and exits: with status 2 for a wrong setting, 1 for the others. Any
other exception is a defect, and is shown with its traceback.
"""

from __future__ import annotations


class CandleflowError(Exception):
    """Root of the tree. The message is for the person at the terminal: what is wrong, and how to fix it."""

    exit_status = 1


class SettingError(CandleflowError):
    """A setting is wrong. The message names it, its value unless it is a secret, and what is accepted."""

    exit_status = 2


class MarketError(CandleflowError):
    """Impossible market data, such as a price of zero, or a merge of candles of different windows."""


class ExchangeError(CandleflowError):
    """The exchange can't be reached, or its answer contradicts its documentation."""


class ExchangeRefusalError(ExchangeError):
    """The exchange refused a REST request. ``code`` is its own error code, such as -1121, if it gave one."""

    def __init__(self, message: str, status: int, code: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class RateLimitError(ExchangeError):
    """The exchange's rate limit allows no request for ``wait_seconds``, too long for the caller to wait."""

    def __init__(self, message: str, wait_seconds: float) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


class BrokerError(CandleflowError):
    """Kafka can't be reached, or the topic is not the one that the stored offsets belong to."""


class StoreError(CandleflowError):
    """PostgreSQL can't be reached, or its schema doesn't fit this version."""


class UnknownOutcomeError(StoreError):
    """PostgreSQL's reply to a change was cut off or late: the change may or may not have been committed."""


class LedgerError(StoreError):
    """The stored offsets don't fit the topic. The message names the command that resolves it."""


class HeldError(CandleflowError):
    """Another process holds a lease that only one may hold. The message names the holder."""


class StackError(CandleflowError):
    """Part of the local stack can't be installed, started or stopped, such as Java, a jar or a server."""
