"""websockets' client connection, without two tracebacks that version 17.4 leaves in the event loop."""

from __future__ import annotations

from websockets.asyncio import client


class _ProxyConnection(client.HTTPProxyConnection):
    """websockets 17.4 raises EOFError in the event loop where a proxy closes before its answer is whole: it
    ends its reader twice. Nothing is lost by the second, as the failure is in ``response`` by then."""

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.response.done():
            super().connection_lost(exc)


client.HTTPProxyConnection = _ProxyConnection  # type: ignore[misc]  # `connect` has no parameter for it


class ExchangeConnection(client.ClientConnection):
    """For websockets' ``connect(create_connection=...)``."""

    def connection_lost(self, exc: Exception | None) -> None:
        # No connection was made where a proxy dropped the TLS handshake: websockets 17.4 would raise
        # AttributeError in the event loop. The caller of ``connect`` gets the handshake's own error.
        if hasattr(self, "recv_messages"):
            super().connection_lost(exc)
