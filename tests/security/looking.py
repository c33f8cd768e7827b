"""Search for secrets in the output of a running system: files, command lines, pages."""

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
    """Secret values, each with a name that a failing test may print."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = {
            name: (value.encode(), base64.b64encode(value.encode())) for name, value in values.items()
        }

    def within(self, shown: str | bytes) -> list[str]:
        """Return the names of the secrets in the content, in plain or base64 form."""
        content = shown.encode() if isinstance(shown, str) else shown
        return [name for name, forms in self._values.items() if any(form in content for form in forms)]

    def found_in(self, places: Iterable[tuple[str, str | bytes]]) -> list[str]:
        """Return a line for each secret found in a place."""
        return [f"{name} in {place}" for place, shown in places for name in self.within(shown)]


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each file with its content; files that running programs delete meanwhile are skipped."""
    for path in sorted(folder.rglob("*")):
        try:
            if stat.S_ISREG(path.lstat().st_mode):
                yield str(path.relative_to(folder)), path.read_bytes()
        except FileNotFoundError:
            continue


class CommandLines:
    """Collects the command lines of all processes of this machine during the block.

    That includes short ones, such as initdb, which runs for a second.
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
    """Return all that the page's server sends to a viewer with this origin until the page is complete."""
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
