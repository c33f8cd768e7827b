"""The processor: Kafka's trades into PostgreSQL's candles. Settings: ``python -m candleflow settings``."""

import sys

from candleflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["processor"]))
