"""Start the producer: it publishes live trades from the exchange to Kafka.

Settings: ``python -m candleflow settings``.
"""

import sys

from candleflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["producer"]))
