"""The proof: stored candles against the exchange's klines, gaps, and the rebuilding of wrong candles."""

from candleflow.command import Command

COMMANDS = (
    Command(
        "audit",
        "look for holes and wrong candles, and have them filled and folded anew (part of up)",
        f"{__name__}.process:run",
    ),
    Command(
        "verify",
        "stored candles against the exchange's own klines, field by field",
        f"{__name__}.verify:run",
        arguments=f"{__name__}.verify:add_arguments",
        uses_running_settings=True,
    ),
    Command(
        "gaps",
        "which trades were missing, why, and what became of them",
        f"{__name__}.gaps:run",
        arguments=f"{__name__}.gaps:add_arguments",
        uses_running_settings=True,
    ),
    Command(
        "repair",
        "fold a symbol's wrong candles anew from the topic, and have every hole filled, however old",
        f"{__name__}.repair:run",
        arguments=f"{__name__}.verify:add_times",
        uses_running_settings=True,
    ),
)
