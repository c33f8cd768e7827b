"""A simulated exchange with Binance's WebSocket and REST protocols; serves made-up trades or a recording."""

from candleflow.command import Command

COMMANDS = (
    Command(
        "simulate",
        "run a simulated exchange with made-up trades on this machine",
        f"{__name__}.process:run",
        arguments=f"{__name__}.process:add_simulate_arguments",
    ),
    Command(
        "replay",
        "run a simulated exchange that replays a recording on this machine",
        f"{__name__}.process:run",
        arguments=f"{__name__}.process:add_replay_arguments",
    ),
)
