"""Changing what is in the model repository: names of models elsewhere, recipes, progress, and the ports for it."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Any, Protocol

import msgspec

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.model import ModelRef, Turn, check_name
from inference_engine.domain.ports import StoredModel

LATEST = "latest"
"""The version that a model gets whose name says none, as with other model tools."""
PERFORMANCE = frozenset(
    (
        *("num_thread", "num_gpu", "main_gpu", "num_batch", "numa", "low_vram", "f16_kv", "use_mmap", "use_mlock"),
        *("num_keep", "num_gqa", "logits_all", "penalize_newline", "embedding_only"),
    )
)
"""Ollama's parameters that say how to compute, not what: here the manifest's `execution` and `options` say that.

`num_keep` is for contexts that are cut, which never happens here; the last four have had no effect for long.
"""
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
_HOST = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?")


def check_digest(text: str, field: str = "digest") -> str:
    """`sha256:` and 64 hexadecimal digits.

    Raises:
        InvalidRequest: it is anything else.
    """
    found = _DIGEST.fullmatch(text)
    if found is None:
        raise InvalidRequest(
            f"{field} {text[:80]!r} is not a digest: write 'sha256:' and 64 lower-case hexadecimal digits", param=field
        )
    return f"sha256:{found[1]}"


class RemoteName(msgspec.Struct, frozen=True):
    """A model elsewhere, `[host/][namespace/]name[:tag]`. An empty host is the configured registry."""

    host: str
    namespace: str
    name: str
    tag: str

    @staticmethod
    def parse(text: str) -> RemoteName:
        """Take a name apart.

        Raises:
            InvalidRequest: it is empty or a part holds what no part may hold.
        """
        text = text.removeprefix("https://").removeprefix("http://")
        path, _, last = text.rpartition("/")
        name, _, tag = last.partition(":")
        parts = path.split("/") if last != text else []
        whole = all(parts)
        host = parts.pop(0) if len(parts) == 2 else ""
        namespace = parts[0] if parts else ""
        legal = all(_PART.fullmatch(part) and ".." not in part for part in (name, tag or LATEST, namespace or name))
        if len(parts) > 1 or not whole or not legal or (host and not _HOST.fullmatch(host)):
            raise InvalidRequest(
                f"{text[:120]!r} is not the name of a model: write name, name:tag, owner/name:tag or "
                "host/owner/name:tag",
                param="model",
            )
        if host == "registry.ollama.ai":  # as its own tools write the full name of what they call by the name alone
            host = ""
        return RemoteName(host, "" if not host and namespace == "library" else namespace, name, tag or LATEST)

    @property
    def local(self) -> ModelRef:
        """What it is called here, where names hold no slash: `owner/name:tag` is `owner--name:tag`."""
        parts = [part for part in (self.host.partition(":")[0], self.namespace, self.name) if part]
        return ModelRef(check_name("--".join(parts)), check_name(self.tag, "version"))

    def __str__(self) -> str:
        path = "/".join(part for part in (self.host, self.namespace, self.name) if part)
        return f"{path}:{self.tag}"


def new_ref(text: str, field: str = "model") -> ModelRef:
    """The exact reference for a model that is to be made: `name:version`, or `name` for the version `latest`.

    Raises:
        InvalidRequest: it is not a legal name.
    """
    if not text:
        raise InvalidRequest(f"{field} is missing: name the model", param=field)
    if "/" in text:
        return RemoteName.parse(text).local
    name, _, version = text.partition(":")
    return ModelRef(check_name(name, field), check_name(version or LATEST, "version"))


class Progress(msgspec.Struct, frozen=True):
    """One step of a change. With a digest, `completed` of `total` bytes of that file are here."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What a recipe says beside its files; None leaves it as it is.

    `parameters` are defaults under the names that Ollama gives them (`temperature`, `num_ctx`, `stop`, ...).
    `template` is a Jinja chat template.
    """

    system: str | None = None
    template: str | None = None
    licence: str | None = None
    messages: tuple[Turn, ...] | None = None
    parameters: dict[str, Any] = {}
    description: str | None = None


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A model to be installed as `ref`: the files of `base` or blobs (name in the folder to digest), and changes.

    `lenient` leaves out what the runtime cannot honour, and reports it, instead of refusing the whole.
    """

    ref: ModelRef
    base: StoredModel | None = None
    files: dict[str, str] = {}
    adapters: dict[str, str] = {}
    changes: Changes = Changes()
    lenient: bool = False


class RemoteFile(msgspec.Struct, frozen=True):
    """A file of a model elsewhere. `digest` is always known before it is fetched."""

    name: str
    digest: str
    size_bytes: int
    url: str


class RemoteModel(msgspec.Struct, frozen=True):
    """What is to be fetched for a model, and what its publisher says beside the files. `notes` are for people."""

    files: tuple[RemoteFile, ...]
    adapters: tuple[RemoteFile, ...] = ()
    changes: Changes = Changes()
    notes: tuple[str, ...] = ()


class ModelSource(Protocol):
    """Places that models are fetched from."""

    async def find(self, name: RemoteName) -> RemoteModel:
        """Look a model up.

        Raises:
            ModelNotFound: it is not there. Forbidden: its host is not one that may be asked. Unavailable: the host
            cannot be reached. InvalidRequest: what is there cannot be used here; the message says why.
        """

    def fetch(self, file: RemoteFile) -> AsyncGenerator[int]:
        """Bring a file into the depot; yields the bytes that are here so far. What an earlier attempt left is kept.

        Raises:
            Unavailable: the host broke off, or the disk is full; ask again to go on. ModelError: its digest is wrong.
        """


class ModelDepot(Protocol):
    """The folder that models are installed into. Everything is blocking. Nothing is visible before it is whole."""

    def check_writable(self) -> None:
        """Raises `Forbidden` when nothing can be written there."""

    def has_blob(self, digest: str) -> bool: ...

    def open_upload(self, digest: str, size_bytes: int | None) -> Upload:
        """Take in a file that should have this digest. Raises `Unavailable` when the disk has no room for it."""

    def prepare(self, recipe: Recipe) -> Prepared:
        """Make the model where nobody sees it, and check it as it will be checked when it is served.

        Raises:
            InvalidRequest: the recipe cannot be followed. ModelError: a file is damaged. Unavailable: the disk is full.
        """

    def check_owned(self, model: StoredModel) -> None:
        """Raises `Forbidden` when the model does not lie in this depot."""

    def remove(self, model: StoredModel) -> None:
        """Take a model of this depot away, which nothing runs any more."""

    def prune(self) -> None:
        """Delete files that no model uses any more and that nobody is about to use."""


class Prepared(Protocol):
    """A model that is about to appear. `notes` say what had to be left out. `close` forgets what is not in place."""

    @property
    def notes(self) -> list[str]: ...

    def put_in_place(self) -> None:
        """Let it appear, at once and instead of the one that was there, which nothing runs any more."""

    def close(self) -> None: ...


class Upload(Protocol):
    """A file on its way in. `close` without `commit` forgets it."""

    def write(self, data: bytes) -> None:
        """Raises `Unavailable` when the disk is full."""

    def commit(self) -> None:
        """Raises `InvalidRequest` when the content does not have the digest that was named."""

    def close(self) -> None: ...
