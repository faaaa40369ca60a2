"""The way to the cool routes: what is not hot goes to the FastAPI application of `site.py`.

FastAPI takes a third of a second to import, so it is made on first need, in a thread, while hot requests go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from inference_engine.adapters.http.exchange import App, Exchange, Scope

EXCHANGE = "inference_engine.exchange"
"""Where the ASGI scope carries the exchange through the framework."""


class Cool:
    """Hands an exchange to the application that `make` gives; `make` is called once, in a thread."""

    def __init__(self, make: Callable[[], App]) -> None:
        self._make = make
        self._app: App | None = None
        self._making = asyncio.Lock()

    async def __call__(self, exchange: Exchange) -> None:
        app = self._app or await self._made()
        method = "GET" if exchange.method == "HEAD" else exchange.method
        scope: Scope = {**exchange.scope, EXCHANGE: exchange, "path": exchange.path, "root_path": "", "method": method}
        await app(scope, exchange.receive, exchange.send)

    async def _made(self) -> App:
        async with self._making:
            if self._app is None:
                self._app = await asyncio.to_thread(self._make)
            return self._app
