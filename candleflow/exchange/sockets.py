"""WebSockets to the exchange, without two tracebacks that websockets 17.4 leaves in the event loop."""

from __future__ import annotations

from typing import Any

from websockets.asyncio import client

from candleflow.exchange import tls
from candleflow.proxies import proxy_for


class _ProxyConnection(client.HTTPProxyConnection):
    """websockets 17.4 raises EOFError in the event loop where a proxy closes before its answer is whole: it
    ends its reader twice. Nothing is lost by the second, as the failure is in ``response`` by then."""

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.response.done():
            super().connection_lost(exc)


client.HTTPProxyConnection = _ProxyConnection  # type: ignore[misc]  # `connect` has no parameter for it


async def connect(base_url: str, path: str, **options: Any) -> client.ClientConnection:
    """Connect by the proxy and the TLS that the address asks for; ``options`` are websockets'.

    Raises SettingError for a wrong proxy variable.
    """
    return await client.connect(
        base_url + path,
        proxy=proxy_for(base_url),
        ssl=tls.context_for(base_url),
        # Whether the exchange is there is judged by the data it sends (Rotation): a ping of ours would go
        # unanswered while reading waits for Kafka, and end a sound connection.
        ping_interval=None,
        create_connection=_ExchangeConnection,
        **options,
    )


class _ExchangeConnection(client.ClientConnection):
    def connection_lost(self, exc: Exception | None) -> None:
        # No connection was made where a proxy dropped the TLS handshake: websockets 17.4 would raise
        # AttributeError in the event loop. The caller of ``connect`` gets the handshake's own error.
        if hasattr(self, "recv_messages"):
            super().connection_lost(exc)
