"""The way to other hosts: which may be asked, redirects, and what their failures mean. Knows no protocol of theirs.

Only the hosts that are configured are asked. They may redirect to another host (that is how the hubs serve files), but
then only to a public address: a registry must not make this server talk to its own network.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import httpcore
import httpx

from inference_engine.domain.errors import EngineError, Forbidden, ModelNotFound, Unavailable

_REDIRECTS = 5
_CONNECT_S, _READ_S = 10.0, 30.0
_MOVED = (301, 302, 303, 307, 308)


class Network:
    """HTTP over the hosts of `origins` (`https://registry.example`), and wherever these lead in public."""

    def __init__(self, origins: Iterable[str], version: str) -> None:
        self._origins = {_origin(httpx.URL(origin)) for origin in origins}
        self._agent = f"inference-engine/{version}"

    def origin_of(self, host: str) -> str:
        """The configured origin of a host that a name gives.

        Raises:
            Forbidden: it is not configured.
        """
        for scheme, name, port in self._origins:
            standard = port == {"https": 443, "http": 80}[scheme]
            if host == (name if standard else f"{name}:{port}"):
                return f"{scheme}://{host}"
        raise Forbidden(
            f"models are not fetched from {host!r}: add https://{host} to the setting pull_origins if you trust it"
        )

    @asynccontextmanager
    async def get(self, url: str, headers: dict[str, str]) -> AsyncGenerator[httpx.Response]:
        """The answer to a GET, its body still to be read; redirects are followed.

        `Authorization` is for the first host alone. Raises `Unavailable` when it cannot be reached, `Forbidden` when it
        leads where it must not.
        """
        async with httpx.AsyncClient(
            transport=_Transport(self._origins),
            timeout=httpx.Timeout(_READ_S, connect=_CONNECT_S),
            trust_env=False,
            headers={"user-agent": self._agent, "accept-encoding": "identity"},
        ) as client:
            response = await self._followed(client, httpx.URL(url), headers)
            try:
                yield response
            finally:
                await response.aclose()

    async def _followed(self, client: httpx.AsyncClient, url: httpx.URL, headers: dict[str, str]) -> httpx.Response:
        for _ in range(_REDIRECTS):
            try:
                response = await client.send(client.build_request("GET", url, headers=headers), stream=True)
            except httpx.TransportError as error:
                raise unreachable(url, error) from None
            if response.status_code not in _MOVED:
                return response
            await response.aclose()
            target = url.join(response.headers.get("location", ""))
            if target.scheme != "https" and _origin(target) not in self._origins:
                raise Forbidden(f"{url.host} redirects to {target.scheme}://{target.host}, which is not encrypted")
            if _origin(target) != _origin(url):
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            url = target
        raise Unavailable(f"{url.host} redirects in circles", retry_after_s=None)


def unreachable(url: httpx.URL, error: Exception) -> Unavailable:
    reason = str(error) or type(error).__name__
    return Unavailable(f"{url.host} cannot be reached or broke off: {reason}: check the network and try again")


def refusal(response: httpx.Response, what: str) -> EngineError:
    """What a status that is no success means for the one who asked for `what`."""
    status, host = response.status_code, response.url.host
    if status in (401, 403):
        return Forbidden(
            f"{host} does not give out {what} ({status}): it may need a licence to be accepted, or a token (HF_TOKEN)"
        )
    if status == 404:
        return ModelNotFound(f"{what} is not found on {host}: check the name and the tag", param="model")
    return Unavailable(f"{host} answered {status} for {what}: try again later")


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or {"https": 443, "http": 80}.get(url.scheme, 0)


@cache
def _certificates() -> ssl.SSLContext:
    """Whom to trust; read once, which takes a while."""
    return httpx.create_ssl_context(trust_env=False)


class _Transport(httpx.AsyncHTTPTransport):
    """httpx's transport with the guard below it: the address that was checked is the one that is connected to."""

    def __init__(self, origins: set[tuple[str, str, int]]) -> None:
        super().__init__(verify=_certificates(), trust_env=False)
        # httpx has no public way to its connection pool's network
        self._pool = httpcore.AsyncConnectionPool(ssl_context=_certificates(), network_backend=_Guard(origins))


class _Guard(httpcore.AnyIOBackend):
    """Connects to configured hosts wherever they are, and to all others at public addresses only."""

    def __init__(self, origins: set[tuple[str, str, int]]) -> None:
        super().__init__()
        self._trusted = {(host, port) for _, host, port in origins}

    async def connect_tcp(self, host: str, port: int, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        address = host if (host, port) in self._trusted else await _public_address(host, port)
        return await super().connect_tcp(address, port, *args, **kwargs)


async def _public_address(host: str, port: int) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore.ConnectError(f"{host} has no address: {error.strerror}") from None
    addresses = [str(item[4][0]) for item in found]
    for address in addresses:
        if not ipaddress.ip_address(address.partition("%")[0]).is_global:
            raise Forbidden(f"a redirect leads to {host}, which is {address} in a private network: it is not followed")
    return addresses[0]
