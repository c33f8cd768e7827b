"""The processor turns Kafka's trades into PostgreSQL's candles with Spark."""

from candleflow.command import Command

COMMANDS = (
    Command(
        "processor",
        "turn Kafka's trades into candles (same as processor.py)",
        "candleflow.stack.spark:run_processor",
    ),
    Command(
        "latency",
        "measure the running pipeline's latency from trade to row",
        f"{__name__}.latency:run",
        arguments=f"{__name__}.latency:add_arguments",
        uses_running_settings=True,
    ),
    Command(
        "adopt-topic",
        "accept a topic that was deleted and created again, and read it from its beginning",
        f"{__name__}.adopt_topic:run",
        uses_running_settings=True,
    ),
)
