"""Load history: candles from the exchange's klines for new symbols, and from its archive of trades."""

from candleflow.command import Command

COMMANDS = (
    Command(
        "backfill",
        "load a day or a month of trades from the exchange's public archive, or from a local file of it",
        "candleflow.stack.spark:run_backfill",
        arguments=f"{__name__}.backfill:add_arguments",
        uses_running_settings=True,
    ),
)
