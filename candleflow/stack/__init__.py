"""Everything on one machine: Java, jars, local servers, the supervisor; ``up``, ``status``, ``down``."""

from candleflow.command import Command

COMMANDS = (
    Command(
        "up",
        "start everything on this machine and show how it is, until Ctrl-C",
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
        "what runs on the data folder",
        f"{__name__}.status:run_status",
        arguments=f"{__name__}.status:add_arguments",
    ),
    Command(
        "down",
        "stop what up or services started",
        f"{__name__}.status:down",
    ),
    Command(
        "prove",
        "send a day of the exchange's archive the whole way, and compare every candle with its klines",
        f"{__name__}.prove:run",
        arguments=f"{__name__}.prove:add_arguments",
    ),
    Command(
        "psql",
        "psql in the database, as the page's read-only role; what follows is psql's",
        f"{__name__}.status:psql",
        passes_arguments_on=True,
    ),
)
