"""Every error that Candleflow raises on purpose, in one tree.

The command line turns each into one plain line and an exit status: 2 for a wrong setting, 1 for the rest.
An error that is not in this tree is a defect, and keeps its traceback.
"""

from __future__ import annotations


class CandleflowError(Exception):
    """The root. Its message is written for the person at the terminal: what is wrong, and what mends it."""

    exit_status = 1


class SettingError(CandleflowError):
    """A setting is wrong: names it, its value unless it is a secret, and what is accepted."""

    exit_status = 2


class MarketError(CandleflowError):
    """Something that can't be on a spot market: a price of zero, candles of different windows merged."""


class ExchangeError(CandleflowError):
    """The exchange can't be reached, or answered what its documentation rules out."""


class ExchangeRefusalError(ExchangeError):
    """The exchange understood a REST request and refused it: its own code, such as -1121, if it gave one."""

    def __init__(self, message: str, status: int, code: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class RateLimitError(ExchangeError):
    """The exchange's rate limit allows no request for ``wait_seconds``, longer than the caller would wait."""

    def __init__(self, message: str, wait_seconds: float) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


class BrokerError(CandleflowError):
    """Kafka can't be reached, or its topic isn't what the ledger was built on."""


class StoreError(CandleflowError):
    """PostgreSQL can't be reached, or its schema isn't ours."""


class UnknownOutcomeError(StoreError):
    """PostgreSQL's reply to a change was cut off or late: the change may have been made, or not."""


class LedgerError(StoreError):
    """The offsets in the store and the topic do not fit: names the command that mends it."""


class HeldError(CandleflowError):
    """Another process holds what only one may hold; says which one."""


class StackError(CandleflowError):
    """Part of the local stack can't be installed, started or stopped: Java, a jar, a port, a data folder."""
