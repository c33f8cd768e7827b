"""The producer: publishes the exchange's trades to Kafka, and fetches missing ones."""

from candleflow.command import Command

COMMANDS = (
    Command(
        "producer",
        "publish the exchange's trades to Kafka (same as producer.py)",
        f"{__name__}.process:run",
    ),
)
