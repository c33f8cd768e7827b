"""Opens WebSockets to the exchange, without two exceptions that websockets 17.4 raises in the event loop."""

from __future__ import annotations

from typing import Any

from websockets.asyncio import client

from candleflow.exchange import tls
from candleflow.proxies import proxy_for


class _ProxyConnection(client.HTTPProxyConnection):
    """Avoids an EOFError in the event loop if a proxy closes the connection before its answer is complete.

    websockets 17.4 then calls ``feed_eof`` twice. The second call is skipped, as ``response`` is already set.
    """

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.response.done():
            super().connection_lost(exc)


client.HTTPProxyConnection = _ProxyConnection  # type: ignore[misc]  # `connect` has no parameter for it


async def connect(base_url: str, path: str, **options: Any) -> client.ClientConnection:
    """Open a WebSocket, with TLS for ``wss`` and through any proxy set; ``options`` go to websockets.

    Raises SettingError if a proxy environment variable is wrong.
    """
    return await client.connect(
        base_url + path,
        proxy=proxy_for(base_url),
        ssl=tls.context_for(base_url),
        # No pings: while reading waits for Kafka, the pong would not be read, and websockets would close a
        # working connection. Missing data tells that the exchange is gone (Rotation).
        ping_interval=None,
        create_connection=_ExchangeConnection,
        **options,
    )


class _ExchangeConnection(client.ClientConnection):
    def connection_lost(self, exc: Exception | None) -> None:
        # If a proxy drops the TLS handshake, there is no connection yet, and websockets 17.4 would raise
        # AttributeError in the event loop. The caller of ``connect`` gets the handshake's own error.
        if hasattr(self, "recv_messages"):
            super().connection_lost(exc)
