"""Chooses where a name leads: the hub, the configured registry, or another that is allowed. A `ModelSource`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from urllib.parse import urlsplit

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.model_store import RemoteFile, RemoteModel, RemoteName
from inference_engine.infra.model_store.depot import FolderDepot
from inference_engine.infra.model_store.fetching import Fetcher
from inference_engine.infra.model_store.hub import Hub
from inference_engine.infra.model_store.network import Network
from inference_engine.infra.model_store.registry import Registry

_HUB_NAMES = ("hf.co", "huggingface.co")


class Sources:
    """`registry` and `hub` are origins; `others` are origins of further registries that may be asked."""

    def __init__(
        self,
        depot: FolderDepot,
        version: str,
        *,
        registry: str,
        hub: str,
        hub_token: str = "",
        others: Iterable[str] = (),
        pause_s: float = 0.5,
    ) -> None:
        self._network = Network((registry, hub, *others), version)
        self._fetcher = Fetcher(self._network, depot, pause_s=pause_s)
        self._registry_base, self._hub_base = registry.rstrip("/"), hub.rstrip("/")
        self._registry, self._hub = Registry(self._fetcher), Hub(self._fetcher, hub_token)

    async def find(self, name: RemoteName) -> RemoteModel:
        if name.host in (*_HUB_NAMES, urlsplit(self._hub_base).netloc):
            if not name.namespace:
                raise InvalidRequest(f"{name} names no owner: write {name.host}/owner/name", param="model")
            return await self._hub.find(self._hub_base, name)
        if name.host in ("", urlsplit(self._registry_base).netloc):
            return await self._registry.find(self._registry_base, name)
        return await self._registry.find(self._network.origin_of(name.host), name)

    def fetch(self, file: RemoteFile) -> AsyncGenerator[int]:
        headers = self._hub.headers if file.url.startswith(f"{self._hub_base}/") else {}
        return self._fetcher.fetch(file, headers)
