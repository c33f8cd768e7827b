"""Looking for secrets in whatever a running system shows: files, command lines, pages."""

from __future__ import annotations

import base64
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import psutil
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

_SAMPLE_SECONDS = 0.1
_OPEN_SECONDS = 60
_MOST_BYTES = 50_000_000


class Secrets:
    """What must be seen nowhere, each by a name that a failing test may show."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = {
            name: (value.encode(), base64.b64encode(value.encode())) for name, value in values.items()
        }

    def within(self, shown: str | bytes) -> list[str]:
        """The names of those that are in it, as they are or in base64."""
        content = shown.encode() if isinstance(shown, str) else shown
        return [name for name, forms in self._values.items() if any(form in content for form in forms)]

    def found_in(self, places: Iterable[tuple[str, str | bytes]]) -> list[str]:
        """A line for each place that shows one."""
        return [f"{name} in {place}" for place, shown in places for name in self.within(shown)]


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Each file and what is in it; one that is gone meanwhile was a running program's own."""
    for path in sorted(folder.rglob("*")):
        try:
            if stat.S_ISREG(path.lstat().st_mode):
                yield str(path.relative_to(folder)), path.read_bytes()
        except FileNotFoundError:
            continue


class CommandLines:
    """Those of every process of this machine, from when this is entered until it is left: such as initdb's,
    which runs for a second.
    """

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> CommandLines:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            for process in psutil.process_iter(["cmdline"]):
                self.seen.add(" ".join(process.info["cmdline"] or ()))


def page_bytes(port: int, origin: str) -> bytes:
    """All that the page's server sends over its WebSocket to a viewer from this origin, until the page is
    whole.
    """
    received = []
    message = BackMsg()
    message.rerun_script.query_string = ""
    with connect(
        f"ws://127.0.0.1:{port}/_stcore/stream",
        origin=Origin(origin),
        subprotocols=[Subprotocol("streamlit")],
        open_timeout=_OPEN_SECONDS,
        max_size=_MOST_BYTES,
    ) as connection:
        connection.send(message.SerializeToString())
        while True:
            payload = connection.recv(timeout=_OPEN_SECONDS)
            assert isinstance(payload, bytes)
            received.append(payload)
            if ForwardMsg.FromString(payload).WhichOneof("type") == "script_finished":
                return b"".join(received)
