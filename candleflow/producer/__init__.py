"""The producer: the exchange's trades into Kafka, and the fetching of those that are missing."""

from candleflow.command import Command

COMMANDS = (
    Command(
        "producer",
        "the exchange's trades into Kafka (as producer.py)",
        f"{__name__}.process:run",
    ),
)
