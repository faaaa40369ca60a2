"""GGUF models on the Hugging Face Hub or a mirror of it: which files of a repository make the model that is asked for.

Source: https://huggingface.co/docs/hub/api
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from inference_engine.domain.errors import InvalidRequest, ModelNotFound, Unavailable
from inference_engine.domain.model_store import LATEST, Changes, RemoteFile, RemoteModel, RemoteName, check_digest
from inference_engine.infra.model_store.fetching import Fetcher
from inference_engine.infra.repository import shard_index

_PREFERRED = ("Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q8_0", "F16", "BF16")


class _Lfs(msgspec.Struct):
    sha256: str = ""
    size: int = 0


class _Sibling(msgspec.Struct):
    rfilename: str
    size: int | None = None
    lfs: _Lfs | None = None


class _Card(msgspec.Struct):
    license: str | list[str] | None = None


class _Repository(msgspec.Struct):
    siblings: list[_Sibling] = []
    sha: str = "main"
    card: _Card | None = msgspec.field(name="cardData", default=None)


class Hub:
    """The hub at an endpoint (`https://huggingface.co`). A `token` opens what is not for everybody."""

    def __init__(self, fetcher: Fetcher, token: str) -> None:
        self._fetcher = fetcher
        self.headers = {"authorization": f"Bearer {token}"} if token else {}

    async def find(self, base: str, name: RemoteName) -> RemoteModel:
        """See `ModelSource.find`. The tag names a quantization, or is `latest` for the usual one."""
        path = f"{name.namespace}/{name.name}"
        body = await self._fetcher.text(f"{base}/api/models/{path}?blobs=true", self.headers, f"model {path}")
        try:
            found = msgspec.json.decode(body, type=_Repository)
        except msgspec.MsgspecError as error:
            raise Unavailable(f"the hub's description of {path} is not understood: {error}") from None
        weights = [file for file in found.siblings if file.rfilename.lower().endswith(".gguf")]
        models = [file for file in weights if not _is_projector(file)]
        chosen = _chosen(models, name)
        projectors = sorted((file for file in weights if _is_projector(file)), key=_projector_rank)
        revision = f"{base}/{path}/resolve/{quote(found.sha, safe='')}"
        files = [_remote(file, revision, path) for file in (*chosen, *projectors[:1])]
        licence = found.card.license if found.card else None
        return RemoteModel(
            tuple(files),
            changes=Changes(
                licence=", ".join(licence) if isinstance(licence, list) else licence,
                description=f"Pulled from {base.partition('://')[2]}/{path}, revision {found.sha[:12]}",
            ),
        )


def _chosen(models: Sequence[_Sibling], name: RemoteName) -> list[_Sibling]:
    """The file, or all parts of it, that the tag means."""
    if not models:
        raise InvalidRequest(f"{name} holds no GGUF file: it cannot be pulled", param="model")
    wanted = (name.tag,) if name.tag != LATEST else (*_PREFERRED, "")
    for word in wanted:
        matching = [file for file in models if word.lower() in file.rfilename.lower()]
        exact = [file for file in matching if _quantization(file).lower() == word.lower()]
        if matching:
            return _parts(exact or matching, models)
    known = ", ".join(sorted({_quantization(file) for file in models}))
    raise ModelNotFound(f"{name.namespace}/{name.name} has no file {name.tag!r}; there are: {known}", param="model")


def _parts(matching: Sequence[_Sibling], models: Sequence[_Sibling]) -> list[_Sibling]:
    first = min(matching, key=lambda file: (len(file.rfilename), file.rfilename))
    if shard_index(_base(first)) is None:
        return [first]
    end = len("00001-of-00002.gguf")
    return [file for file in models if file.rfilename[:-end] == first.rfilename[:-end]]


def _quantization(file: _Sibling) -> str:
    """`Q4_K_M` of `Some-Model-Q4_K_M.gguf` or `some.Q4_K_M-00001-of-00002.gguf`."""
    stem = _base(file)[: -len(".gguf")]
    if shard_index(_base(file)) is not None:
        stem = stem[: -len("-00001-of-00002")]
    return stem.replace(".", "-").rpartition("-")[2]


def _base(file: _Sibling) -> str:
    return file.rfilename.rpartition("/")[2]


def _is_projector(file: _Sibling) -> bool:
    return "mmproj" in file.rfilename.lower()


def _projector_rank(file: _Sibling) -> tuple[bool, str]:
    return "f16" not in file.rfilename.lower(), file.rfilename


def _remote(file: _Sibling, revision: str, path: str) -> RemoteFile:
    if file.lfs is None or not file.lfs.sha256:
        raise InvalidRequest(
            f"the hub gives no SHA-256 of {file.rfilename} in {path}, so it could not be checked", param="model"
        )
    digest = check_digest(f"sha256:{file.lfs.sha256}")
    return RemoteFile(_base(file), digest, file.lfs.size or file.size or 0, f"{revision}/{quote(file.rfilename)}")
