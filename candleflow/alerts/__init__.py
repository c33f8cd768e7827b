"""Alerts: rules on candles and on the pipeline, and messages to Telegram, Discord and other channels."""

from candleflow.command import Command

COMMANDS = (
    Command(
        "alerts",
        "evaluate alert rules and send alerts (part of up); subcommands edit rules and test channels",
        f"{__name__}.commands:run",
        arguments=f"{__name__}.commands:add_arguments",
    ),
)
