"""Find the start of a COMMIT in the bytes that PostgreSQL's JDBC driver sends (protocol 3.0).

The driver sends the text COMMIT once for each connection, as a prepared statement, and later only its name.
So searching for the word is not enough.
https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

from typing import Final

_MAJOR: Final = 3
"""Major version in a startup message; encryption requests have another code in that place."""
_LENGTH: Final = 4


class CommitWatch:
    """A ``proxy.Watch`` of one connection to PostgreSQL."""

    def __init__(self) -> None:
        self._buffer = b""
        self._is_typed = False
        self._names: set[bytes] = set()

    def __call__(self, chunk: bytes) -> int | None:
        """Return the position in the chunk where a COMMIT begins, or None."""
        at = -len(self._buffer)
        self._buffer += chunk
        found: int | None = None
        while (length := self._next_length()) is not None:
            message, self._buffer = self._buffer[:length], self._buffer[length:]
            if found is None and self._begins_commit(message):
                found = max(0, at)
            at += length
        return found

    def _next_length(self) -> int | None:
        """Return the length of the first message in the buffer; None if it isn't complete."""
        head = 1 if self._is_typed else 0
        if len(self._buffer) < head + _LENGTH:
            return None
        length = head + int.from_bytes(self._buffer[head : head + _LENGTH])
        return length if len(self._buffer) >= length else None

    def _begins_commit(self, message: bytes) -> bool:
        if not self._is_typed:
            self._is_typed = int.from_bytes(message[_LENGTH : _LENGTH + 2]) == _MAJOR
            return False
        kind, body = message[:1], message[1 + _LENGTH :]
        if kind == b"Q":
            return body.rstrip(b"\0").upper() == b"COMMIT"
        first, _, rest = body.partition(b"\0")
        second = rest.partition(b"\0")[0]
        if kind == b"P":  # name, statement
            (self._names.add if second.upper() == b"COMMIT" else self._names.discard)(first)
            return second.upper() == b"COMMIT"
        return kind == b"B" and second in self._names  # portal, name
