"""Run Candleflow on one machine:

Java, jars, local servers, supervisor; commands ``up``, ``status``, ``down``.
"""

from candleflow.command import Command

COMMANDS = (
    Command(
        "up",
        "start everything on this machine and show its state, until Ctrl-C",
        f"{__name__}.up:run",
    ),
    Command(
        "services",
        "start only Kafka and PostgreSQL, instead of docker compose",
        f"{__name__}.up:run_services",
        arguments=f"{__name__}.up:add_services_arguments",
    ),
    Command(
        "status",
        "show the processes that use this data folder",
        f"{__name__}.status:run_status",
        arguments=f"{__name__}.status:add_arguments",
    ),
    Command(
        "down",
        "stop the processes that up or services started",
        f"{__name__}.status:down",
    ),
    Command(
        "prove",
        "run a day of the exchange's archive through the whole pipeline; compare every candle with its kline",
        f"{__name__}.prove:run",
        arguments=f"{__name__}.prove:add_arguments",
    ),
    Command(
        "psql",
        "open psql with the page's read-only role; arguments after it go to psql",
        f"{__name__}.status:psql",
        passes_arguments_on=True,
    ),
)
