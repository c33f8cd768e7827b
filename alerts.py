"""Start the alerts: rules that fire on candles, and messages to Telegram, Discord and others.

Settings: ``python -m candleflow settings``.
"""

import sys

from candleflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["alerts"]))
