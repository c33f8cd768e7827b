"""Alerts: rules that fire on candles, and the messages to Telegram, Discord and others."""

from candleflow.command import Command

COMMANDS = (
    Command(
        "alerts",
        "decide and send alerts (part of up, as alerts.py); add, list, remove: its rules; test: its channels",
        f"{__name__}.commands:run",
        arguments=f"{__name__}.commands:add_arguments",
    ),
)
