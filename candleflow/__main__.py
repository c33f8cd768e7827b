"""Run the command line: ``python -m candleflow``."""

import sys

from candleflow.cli import main

sys.exit(main())
