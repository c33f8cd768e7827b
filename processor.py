"""Start the processor: it aggregates trades from Kafka into candles in PostgreSQL.

Settings: ``python -m candleflow settings``.
"""

import sys

from candleflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["processor"]))
