"""Changes what is in the model repository: pull, create, copy, delete, upload. Knows no transport and no file format.

Every change goes through `permit` first, and ends with the repository being read again. A model that is loaded while
it is replaced or deleted finishes its work first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import InvalidRequest, ModelNotFound
from inference_engine.domain.model import ModelRef
from inference_engine.domain.model_store import (
    Changes,
    ModelDepot,
    ModelSource,
    Progress,
    Recipe,
    RemoteFile,
    RemoteModel,
    RemoteName,
    check_digest,
    new_ref,
)
from inference_engine.domain.ports import StoredModel
from inference_engine.domain.requests import Principal
from inference_engine.services.models import ModelService

Result = TypeVar("Result")
_log = get_logger(__name__)


class _Pull:
    """One pull, however many wait for it: what has happened so far, and the task that does it."""

    def __init__(self, work: AsyncGenerator[Progress]) -> None:
        self.followers = 0
        self.given_up = False
        self.past: list[Progress] = []
        self.changed = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run(work))

    async def _run(self, work: AsyncGenerator[Progress]) -> None:
        try:
            async with aclosing(work) as steps:
                async for step in steps:
                    self._add(step)
        finally:
            self.changed.set()

    def _add(self, step: Progress) -> None:
        """A further step on the same file takes the place of the one before, so that slow followers skip it."""
        if self.past and (self.past[-1].status, self.past[-1].digest) == (step.status, step.digest):
            self.past[-1] = step
        else:
            self.past.append(step)
        self.changed.set()
        self.changed = asyncio.Event()

    async def follow(self) -> AsyncGenerator[Progress]:
        """Everything from the beginning. The last follower to leave ends the work."""
        self.followers += 1
        try:
            at, shown = 0, None
            while True:
                changed = self.changed
                while at < len(self.past):
                    if self.past[at] is not shown:
                        shown = self.past[at]
                        yield shown
                    if at + 1 >= len(self.past):
                        break
                    at += 1
                if self.task.done():
                    if self.past and self.past[-1] is not shown:
                        continue
                    self.task.result()
                    return
                await changed.wait()
        finally:
            self.followers -= 1
            if not self.followers and not self.task.done():
                self.given_up = True
                self.task.cancel()
                await asyncio.wait([self.task])


class ModelStore:
    """What can be changed. `permit` refuses a principal who may not change anything."""

    def __init__(
        self,
        models: ModelService,
        depot: ModelDepot,
        source: ModelSource,
        permit: Callable[[Principal], None],
    ) -> None:
        self._models = models
        self._depot = depot
        self._source = source
        self._permit = permit
        self._pulls: dict[ModelRef, _Pull] = {}
        self._changing: set[asyncio.Task[Any]] = set()

    # -- pull ----------------------------------------------------------------------------------------------------

    async def pull(self, name: str, principal: Principal) -> AsyncGenerator[Progress]:
        """Fetch a model from a registry or hub. Closing the generator stops it; what is here already is kept.

        Raises:
            Forbidden; InvalidRequest; ModelNotFound; Unavailable; ModelError.
        """
        self._permit(principal)
        remote = RemoteName.parse(name)
        pull = self._pulls.get(remote.local)
        if pull is None or pull.given_up or pull.task.done():
            pull = self._pulls[remote.local] = _Pull(self._pull(remote))
            pull.task.add_done_callback(lambda task: self._forget(remote.local, task))
        async with aclosing(pull.follow()) as steps:
            async for step in steps:
                yield step

    def _forget(self, ref: ModelRef, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # its followers have seen it
        if ref in self._pulls and self._pulls[ref].task is task:
            del self._pulls[ref]

    async def _pull(self, name: RemoteName) -> AsyncGenerator[Progress]:
        yield Progress("pulling manifest")
        await asyncio.to_thread(self._depot.check_writable)
        await asyncio.to_thread(self._depot.prune)
        found = await self._source.find(name)
        for file in found.files + found.adapters:
            async for step in self._fetched(file):
                yield step
        for note in found.notes:
            yield Progress(note)
        yield Progress("writing manifest")
        for note in await self._install(_recipe(name.local, found)):
            yield Progress(note)
        yield Progress("success")

    async def _fetched(self, file: RemoteFile) -> AsyncGenerator[Progress]:
        status = f"pulling {file.digest.removeprefix('sha256:')[:12]}"
        async with aclosing(self._source.fetch(file)) as sizes:
            whole = False
            async for size in sizes:
                if not whole:
                    yield Progress(status, file.digest, file.size_bytes, size)
                if size == file.size_bytes and not whole:
                    whole = True
                    yield Progress("verifying sha256 digest")

    # -- create, copy, delete ------------------------------------------------------------------------------------

    async def create(
        self,
        name: str,
        principal: Principal,
        *,
        base: str | None = None,
        files: dict[str, str] | None = None,
        adapters: dict[str, str] | None = None,
        changes: Changes | None = None,
    ) -> AsyncGenerator[Progress]:
        """Make a model from another one or from uploaded files (name to digest), with changes.

        Raises:
            Forbidden; InvalidRequest; ModelNotFound: there is no such base; ModelError; Unavailable.
        """
        self._permit(principal)
        ref = new_ref(name)
        if (base is None) == (not files):
            raise InvalidRequest("give either from, another model, or files, uploaded before", param="from")
        stored = None if base is None else self._models.stored(self._models.resolve(base).ref)
        yield Progress("reading model metadata")
        recipe = Recipe(
            ref=ref,
            base=stored,
            files=_file_names(files or {}, "files"),
            adapters=_file_names(adapters or {}, "adapters"),
            changes=changes or Changes(),
        )
        for digest in (recipe.files | recipe.adapters).values():
            yield Progress(f"using existing layer {digest}")
        yield Progress("writing manifest")
        await self._install(recipe)
        yield Progress("success")

    async def copy(self, source: str, destination: str, principal: Principal) -> ModelRef:
        """Give a model a second name; its files are linked, not copied, where the disk allows that.

        Raises:
            Forbidden; ModelNotFound; InvalidRequest; Unavailable: the disk is full.
        """
        self._permit(principal)
        stored = self._models.stored(self._models.resolve(source).ref)
        ref = new_ref(destination, "destination")
        if ref == stored.manifest.ref:
            raise InvalidRequest(f"{ref} cannot be copied onto itself", param="destination")
        await self._install(Recipe(ref=ref, base=stored))
        return ref

    async def delete(self, ref: ModelRef, principal: Principal) -> None:
        """Take a model away; requests that it is answering are finished.

        Raises:
            Forbidden: it does not lie in the folder that may be changed. ModelNotFound.
        """
        self._permit(principal)
        await asyncio.to_thread(self._depot.check_owned, self._models.stored(ref))
        await self._to_the_end(self._remove(ref))
        _log.info("model deleted", model=str(ref))

    async def _remove(self, ref: ModelRef) -> None:
        async with self._models.replacing(ref):
            await asyncio.to_thread(self._depot.remove, self._models.stored(ref))

    async def _install(self, recipe: Recipe) -> list[str]:
        self._refuse_adopted(recipe.ref)
        notes = await self._to_the_end(self._replace(recipe))
        _log.info("model installed", model=str(recipe.ref))
        return notes

    async def _replace(self, recipe: Recipe) -> list[str]:
        prepared = await asyncio.to_thread(self._depot.prepare, recipe)
        try:
            async with self._models.replacing(recipe.ref):
                await asyncio.to_thread(prepared.put_in_place)
        finally:
            await asyncio.to_thread(prepared.close)
        return prepared.notes

    async def _to_the_end(self, change: Coroutine[Any, Any, Result]) -> Result:
        """Files are never left half changed: a change that has begun is finished also when nobody waits for it."""
        task = asyncio.get_running_loop().create_task(change)
        self._changing.add(task)
        task.add_done_callback(self._changing.discard)
        return await asyncio.shield(task)

    def _refuse_adopted(self, ref: ModelRef) -> None:
        """A model whose manifest was assumed lies where it likes, and would hide the new one."""
        there = self._stored(ref)
        if there is not None and there.assumed:
            raise InvalidRequest(
                f"{ref} exists as a file without a manifest, {there.folder / there.manifest.artifact}: "
                "delete it first, or choose another name",
                param="model",
            )

    def _stored(self, ref: ModelRef) -> StoredModel | None:
        try:
            return self._models.stored(ref)
        except ModelNotFound:
            return None

    # -- uploads -------------------------------------------------------------------------------------------------

    async def has_blob(self, digest: str) -> bool:
        """Whether the file of that digest is here. Raises `InvalidRequest` when it is no digest."""
        return await asyncio.to_thread(self._depot.has_blob, check_digest(digest))

    async def put_blob(
        self, digest: str, size_bytes: int | None, chunks: AsyncIterator[bytes], principal: Principal
    ) -> None:
        """Take in a file for a later `create`. One that no model uses within a day is deleted.

        Raises:
            Forbidden; InvalidRequest: its content has another digest. Unavailable: the disk is full.
        """
        self._permit(principal)
        upload = await asyncio.to_thread(self._depot.open_upload, check_digest(digest), size_bytes)
        try:
            async for chunk in chunks:
                await asyncio.to_thread(upload.write, chunk)
            await asyncio.to_thread(upload.commit)
        finally:
            await asyncio.to_thread(upload.close)


def _recipe(ref: ModelRef, found: RemoteModel) -> Recipe:
    return Recipe(
        ref=ref,
        files={file.name: file.digest for file in found.files},
        adapters={file.name: file.digest for file in found.adapters},
        changes=found.changes,
        lenient=True,
    )


def _file_names(files: dict[str, str], field: str) -> dict[str, str]:
    """File names as they may stand in a model's folder, with their digests checked."""
    checked: dict[str, str] = {}
    for path, digest in files.items():
        name = path.replace("\\", "/").rpartition("/")[2]
        if not name.lower().endswith(".gguf") or name.startswith(".") or not name.isprintable() or len(name) > 200:
            raise InvalidRequest(
                f"{field} names {path[:200]!r}: only GGUF files can be used, convert others to GGUF first", param=field
            )
        if name in checked:
            raise InvalidRequest(f"{field} names {name!r} twice", param=field)
        checked[name] = check_digest(digest, f"{field}.{path[:80]}")
    return checked
