"""Forecasts of the next close: several models, of which the recently most accurate one is used; scores."""

from candleflow.command import Command

COMMANDS = (
    Command(
        "forecaster",
        "forecast the next close of each symbol, and score the forecasts as candles close (part of up)",
        f"{__name__}.process:run",
    ),
    Command(
        "forecast",
        "evaluate how accurate forecasts would have been, over stored candles or a file of trades",
        f"{__name__}.evaluate:run",
        arguments=f"{__name__}.evaluate:add_arguments",
        uses_running_settings=True,
    ),
)
