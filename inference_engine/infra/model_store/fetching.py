"""Brings one file into the depot: goes on where an earlier attempt stopped, checks the digest. Knows HTTP."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from weakref import WeakValueDictionary

import httpx

from inference_engine.domain.errors import InvalidRequest, ModelLoadFailed, Unavailable
from inference_engine.domain.model_store import RemoteFile
from inference_engine.infra.model_store.depot import FolderDepot, Partial
from inference_engine.infra.model_store.network import Network, refusal, unreachable

_CHUNK_BYTES = 1 << 20
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_TEXT_LIMIT_BYTES = 4 << 20


class Fetcher:
    """Fetches over `network` into `depot`. A broken connection is tried again `attempts` times without any progress,
    with a growing pause that begins with `pause_s`."""

    def __init__(self, network: Network, depot: FolderDepot, *, attempts: int = 5, pause_s: float = 0.5) -> None:
        self._network = network
        self._depot = depot
        self._attempts = attempts
        self._pause_s = pause_s
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def text(self, file: RemoteFile | str, headers: dict[str, str], what: str) -> bytes:
        """A small document. Raises what `Network.get` raises, `ModelNotFound`, `Forbidden`, `Unavailable`."""
        url = file if isinstance(file, str) else file.url
        async with self._network.get(url, headers) as response:
            if response.status_code != httpx.codes.OK:
                raise refusal(response, what)
            body = bytearray()
            try:
                async for chunk in response.aiter_bytes(_CHUNK_BYTES):
                    body += chunk
                    if len(body) > _TEXT_LIMIT_BYTES:
                        raise InvalidRequest(f"{what} is larger than {_TEXT_LIMIT_BYTES >> 20} MB", param="model")
            except httpx.TransportError as error:
                raise unreachable(response.url, error) from None
            return bytes(body)

    async def fetch(self, file: RemoteFile, headers: dict[str, str]) -> AsyncGenerator[int]:
        """See `ModelSource.fetch`."""
        lock = self._locks.setdefault(file.digest, asyncio.Lock())
        async with lock:
            if not self._depot.has_blob(file.digest):
                with self._depot.partial(file.digest, file.size_bytes) as partial:
                    kept = partial.size
                    while True:
                        async for size in self._all(file, partial, headers):
                            yield size
                        try:
                            await asyncio.to_thread(partial.commit)
                            break
                        except ModelLoadFailed:
                            if not kept:
                                raise
                            kept = 0  # what an earlier attempt left may have been wrong: once more from the beginning
            yield file.size_bytes

    async def _all(self, file: RemoteFile, partial: Partial, headers: dict[str, str]) -> AsyncGenerator[int]:
        if partial.size > file.size_bytes:
            partial.restart()
        yield partial.size
        failures = 0
        while partial.size < file.size_bytes:
            before = partial.size
            try:
                async for size in self._rest(file, partial, headers):
                    yield size
            except Unavailable as error:
                if error.retry_after_s is None:
                    raise
                failures = 1 if partial.size > before else failures + 1
                if failures >= self._attempts:
                    raise
                await asyncio.sleep(self._pause_s * 2 ** (failures - 1))

    async def _rest(self, file: RemoteFile, partial: Partial, headers: dict[str, str]) -> AsyncGenerator[int]:
        """One request for what is missing. Ends early, or raises, when the connection breaks."""
        wanted = headers | ({"range": f"bytes={partial.size}-"} if partial.size else {})
        async with self._network.get(file.url, wanted) as response:
            _place(response, file, partial)
            waiting = bytearray()
            try:
                async for chunk in response.aiter_raw():
                    waiting += chunk
                    if partial.size + len(waiting) > file.size_bytes:
                        waiting.clear()
                        partial.restart()
                        raise ModelLoadFailed(
                            f"{file.name} is longer than the {file.size_bytes} bytes it should have: it was thrown away"
                        )
                    if len(waiting) >= _CHUNK_BYTES:
                        full, waiting = waiting, bytearray()
                        await asyncio.to_thread(partial.append, full)
                        yield partial.size
            except httpx.TransportError as error:
                raise unreachable(response.url, error) from None
            finally:
                partial.append(waiting)  # also when the connection broke, or nobody wants the rest any more
            yield partial.size
        if partial.size < file.size_bytes:
            raise Unavailable(f"the file {file.name} broke off at {partial.size} of {file.size_bytes} bytes: try again")


def _place(response: httpx.Response, file: RemoteFile, partial: Partial) -> None:
    """Make the answer's bytes continue what is there; a host that knows no ranges begins anew."""
    if response.status_code == httpx.codes.PARTIAL_CONTENT:
        found = _RANGE.fullmatch(response.headers.get("content-range", ""))
        if found is None or int(found[1]) != partial.size:
            partial.restart()
            raise Unavailable(f"the host answered another range than it was asked for: {file.name} begins anew")
    elif response.status_code == httpx.codes.OK:
        if partial.size:
            partial.restart()
    elif response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        partial.restart()
        raise Unavailable(f"the host has less of {file.name} than was fetched before: it begins anew")
    else:
        raise refusal(response, file.name)
