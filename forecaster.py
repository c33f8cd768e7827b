"""The forecaster: the next close of each symbol, before its window begins.

Settings: ``python -m candleflow settings``.
"""

import sys

from candleflow import settings
from candleflow.errors import SettingError
from candleflow.services import forecaster

if __name__ == "__main__":
    try:
        in_force = settings.load()
    except SettingError as error:
        print(error, file=sys.stderr)  # no logging yet: its level is a setting
        sys.exit(error.exit_status)
    sys.exit(forecaster.run(in_force))
