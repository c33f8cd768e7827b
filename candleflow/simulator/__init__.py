"""An exchange of our own: made-up trades or a recording, by Binance's WebSocket and REST."""

from candleflow.command import Command

COMMANDS = (
    Command(
        "simulate",
        "an exchange of made-up trades, on this machine",
        f"{__name__}.process:run",
        arguments=f"{__name__}.process:add_simulate_arguments",
    ),
    Command(
        "replay",
        "an exchange that serves a recording, on this machine",
        f"{__name__}.process:run",
        arguments=f"{__name__}.process:add_replay_arguments",
    ),
)
