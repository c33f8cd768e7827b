"""Forecasts of the next close: models that race, and their scores."""

from candleflow.command import Command

COMMANDS = (
    Command(
        "forecaster",
        "forecasts of the next close, scored as candles close (as forecaster.py; part of up)",
        f"{__name__}.process:run",
    ),
    Command(
        "forecast",
        "evaluate: what forecasts were worth, over stored candles or a file of trades",
        f"{__name__}.evaluate:run",
        arguments=f"{__name__}.evaluate:add_arguments",
        uses_running_settings=True,
    ),
)
