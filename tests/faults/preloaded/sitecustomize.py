"""For a Python under libfaketime, by its PYTHONPATH: ``time.sleep`` as a wait.

libfaketime 0.9.10 answers clock_nanosleep by EINVAL where it leaves steady clocks alone, and Python's own
sleep calls that. A wait goes another way.
"""

import threading
import time
from typing import Any


def _sleep(seconds: Any) -> None:
    threading.Event().wait(seconds)


time.sleep = _sleep
