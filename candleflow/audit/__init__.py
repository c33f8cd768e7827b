"""Verification: compare candles with the exchange's klines, find gaps, and rebuild wrong candles."""

from candleflow.command import Command

COMMANDS = (
    Command(
        "audit",
        "find gaps and wrong candles; have gaps filled, and rebuild wrong candles (part of up)",
        f"{__name__}.process:run",
    ),
    Command(
        "verify",
        "compare stored candles with the exchange's own klines, field by field",
        f"{__name__}.verify:run",
        arguments=f"{__name__}.verify:add_arguments",
        uses_running_settings=True,
    ),
    Command(
        "gaps",
        "list the gaps: which trades were missing, why, and whether they were filled",
        f"{__name__}.gaps:run",
        arguments=f"{__name__}.gaps:add_arguments",
        uses_running_settings=True,
    ),
    Command(
        "repair",
        "rebuild a symbol's wrong candles from the topic, and have all gaps filled, however old",
        f"{__name__}.repair:run",
        arguments=f"{__name__}.verify:add_times",
        uses_running_settings=True,
    ),
)
