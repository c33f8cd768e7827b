"""The forecaster: the next close of each symbol, before its window begins.

Settings: ``python -m candleflow settings``.
"""

import sys

from candleflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["forecaster"]))
