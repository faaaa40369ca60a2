"""Models in a registry as Ollama's: a manifest that lists layers by digest, and the layers. Fetches no large files.

Source: https://github.com/opencontainers/distribution-spec, with Ollama's media types for the layers.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from inference_engine.domain.errors import InvalidRequest, ModelLoadFailed, Unavailable
from inference_engine.domain.model import Turn
from inference_engine.domain.model_store import Changes, RemoteFile, RemoteModel, RemoteName, check_digest
from inference_engine.infra.model_store.fetching import Fetcher

_ACCEPT = {"accept": "application/vnd.docker.distribution.manifest.v2+json"}
_KIND = "application/vnd.ollama.image."
_FILES = {"model": "model.gguf", "projector": "mmproj.gguf", "adapter": "adapter.gguf"}
_TEXTS = ("template", "system", "params", "license", "messages")


class _Layer(msgspec.Struct):
    media_type: str = msgspec.field(name="mediaType")
    digest: str = ""
    size: int = 0


class _Manifest(msgspec.Struct):
    layers: list[_Layer]


class Registry:
    """One registry at `base` (`https://registry.ollama.ai`)."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    async def find(self, base: str, name: RemoteName) -> RemoteModel:
        """See `ModelSource.find`."""
        root = f"{base}/v2/{name.namespace or 'library'}/{name.name}"
        body = await self._fetcher.text(f"{root}/manifests/{name.tag}", _ACCEPT, f"model {name}")
        try:
            manifest = msgspec.json.decode(body, type=_Manifest)
        except msgspec.MsgspecError as error:
            raise Unavailable(f"the registry's manifest of {name} is not understood: {error}") from None
        files: list[RemoteFile] = []
        adapters: list[RemoteFile] = []
        texts: dict[str, list[str]] = {}
        for layer in manifest.layers:
            kind = layer.media_type.removeprefix(_KIND)
            url = f"{root}/blobs/{check_digest(layer.digest)}"
            if kind in _FILES:
                into = adapters if kind == "adapter" else files
                into.append(RemoteFile(_numbered(_FILES[kind], into), layer.digest, layer.size, url))
            elif kind in _TEXTS:
                texts.setdefault(kind, []).append(await self._text(layer, url, f"{kind} of {name}"))
            else:
                raise InvalidRequest(
                    f"{name} has a part of the type {layer.media_type!r}, which cannot be used here", param="model"
                )
        if not any(file.name.startswith("model") for file in files):
            raise InvalidRequest(f"{name} has no model file in the registry: it cannot run here", param="model")
        return RemoteModel(tuple(files), tuple(adapters), _changes(texts, name))

    async def _text(self, layer: _Layer, url: str, what: str) -> str:
        body = await self._fetcher.text(url, {}, what)
        if f"sha256:{hashlib.sha256(body).hexdigest()}" != layer.digest:
            raise ModelLoadFailed(f"the {what} has another digest than its registry says: it was thrown away")
        return body.decode(errors="replace")


def _numbered(name: str, there: list[RemoteFile]) -> str:
    """A model in several files: `model.gguf`, then `model-2.gguf`."""
    stem, _, end = name.rpartition(".")
    count = sum(file.name.startswith(stem) for file in there)
    return name if not count else f"{stem}-{count + 1}.{end}"


def _changes(texts: dict[str, list[str]], name: RemoteName) -> Changes:
    parameters: dict[str, Any] = {}
    try:
        for text in texts.get("params", ()):
            parameters |= msgspec.json.decode(text, type=dict[str, Any])
        turns = [turn for text in texts.get("messages", ()) for turn in msgspec.json.decode(text, type=list[Turn])]
    except msgspec.MsgspecError as error:
        raise InvalidRequest(
            f"the parameters or messages of {name} are not understood: {error}", param="model"
        ) from None
    return Changes(
        system="\n".join(texts["system"]) if "system" in texts else None,
        template=texts["template"][-1] if "template" in texts else None,
        licence="\n\n".join(texts["license"]) if "license" in texts else None,
        messages=tuple(turns) or None,
        parameters=parameters,
        description=f"Pulled as {name}",
    )
