"""Replace ``time.sleep`` in a Python that runs under libfaketime; loaded through PYTHONPATH.

Python's sleep calls clock_nanosleep. libfaketime 0.9.10 lets that fail with EINVAL if monotonic clocks are
not faked. ``Event.wait`` uses another call.
"""

import threading
import time
from typing import Any


def _sleep(seconds: Any) -> None:
    threading.Event().wait(seconds)


time.sleep = _sleep
