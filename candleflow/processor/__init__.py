"""The processor: Kafka's trades into PostgreSQL's candles, by Spark."""

from candleflow.command import Command

COMMANDS = (
    Command(
        "processor",
        "Kafka's trades into candles (as processor.py)",
        "candleflow.stack.spark:run_processor",
    ),
    Command(
        "latency",
        "measure trade-to-row latency of what runs",
        f"{__name__}.latency:run",
        arguments=f"{__name__}.latency:add_arguments",
        uses_running_settings=True,
    ),
    Command(
        "adopt-topic",
        "accept a topic that was made anew: its offsets begin at its beginning",
        f"{__name__}.adopt_topic:run",
        uses_running_settings=True,
    ),
)
