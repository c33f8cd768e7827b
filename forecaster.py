"""Start the forecaster: it predicts each symbol's next close before its window begins.

Settings: ``python -m candleflow settings``.
"""

import sys

from candleflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["forecaster"]))
