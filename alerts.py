"""The alerts: rules that fire on candles, sent to Telegram, Discord and others.

Settings: ``python -m candleflow settings``.
"""

import sys

from candleflow import settings
from candleflow.errors import SettingError
from candleflow.services import alerts

if __name__ == "__main__":
    try:
        in_force = settings.load()
    except SettingError as error:
        print(error, file=sys.stderr)  # no logging yet: its level is a setting
        sys.exit(error.exit_status)
    sys.exit(alerts.run(in_force))
