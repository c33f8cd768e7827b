"""Candles from before the first trade: the exchange's klines at first sight, and its archive."""

from candleflow.command import Command

COMMANDS = (
    Command(
        "backfill",
        "load a day's or a month's trades from the exchange's public archive, or a file of it",
        "candleflow.stack.spark:run_backfill",
        arguments=f"{__name__}.backfill:add_arguments",
        uses_running_settings=True,
    ),
)
