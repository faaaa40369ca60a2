"""The Python API: every model of a repository from plain Python, without any server.

`AsyncEngine` is for asyncio programs; `Engine` is the same for everyone else and runs its own event loop in a thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
import numpy as np

from inference_engine.domain.errors import InvalidRequest, InvalidTensor
from inference_engine.domain.model import Manifest, ModelRef, Signature
from inference_engine.domain.model_store import Changes, Progress
from inference_engine.domain.requests import Call, Chat, Complete, JsonSchema, Message, Predict, Principal, Sampling
from inference_engine.domain.results import Delta, Done, Prediction, Served, TextDelta, Usage
from inference_engine.domain.tensors import Array
from inference_engine.services.inference import InferenceService
from inference_engine.services.model_store import ModelStore
from inference_engine.services.models import ModelService, ModelStatus

Result = TypeVar("Result")
Messages = str | Sequence[Mapping[str, str] | Message]
_LOCAL = Principal(tenant="default", key_id="local")
_CHUNK_BYTES = 1 << 20
_SAMPLING_FIELDS = frozenset(Sampling.__struct_fields__)


class AsyncEngine:
    """Models in this process, for asyncio programs: `async with AsyncEngine(...) as engine`."""

    def __init__(self, models: ModelService, inference: InferenceService, store: ModelStore) -> None:
        self._models = models
        self._inference = inference
        self._store = store
        self._ids = itertools.count(1)

    async def __aenter__(self) -> Self:
        await self._models.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._models.close()

    async def load(self, target: str) -> ModelStatus:
        """Load a model now. Raises `ModelNotFound`, `ModelError`."""
        return await self._models.load(self._models.resolve(target).ref)

    async def unload(self, target: str) -> int:
        """Unload a model; returns the bytes of memory that came back."""
        return await self._models.unload(self._models.resolve(target).ref)

    def models(self) -> list[ModelStatus]:
        """Every model, loaded or not."""
        return self._models.statuses()

    def show(self, target: str) -> tuple[ModelStatus, Manifest]:
        """State and manifest of one model. Raises `ModelNotFound`."""
        ref = self._models.resolve(target).ref
        return self._models.status(ref), self._models.stored(ref).manifest

    async def predict(self, target: str, inputs: Mapping[str, Any]) -> Prediction:
        """Compute tensors. Values may be arrays or nested lists; lists take the dtype of the model's signature.

        Raises:
            ModelNotFound; InvalidTensor; UnsupportedTask; Unavailable; DeadlineExceeded; ModelError.
        """
        ref = self._models.resolve(target).ref
        if any(not isinstance(value, np.ndarray) for value in inputs.values()):
            await self._models.load(ref)
        arrays = as_arrays(inputs, self._models.signature(ref))
        return await self._inference.predict(target, Predict(arrays), self._call())

    async def generate(
        self, target: str, messages: Messages | None = None, *, prompt: str | None = None, **sampling: Any
    ) -> AsyncGenerator[Delta]:
        """Stream an answer: to a conversation (`messages`, or one user message as a string) or after a `prompt`.

        Keyword arguments are the fields of `Sampling`, and `json_schema`. Raises what `InferenceService.generate` does.
        """
        request = generation_request(messages, prompt, sampling)
        generation = await self._inference.generate(target, request, self._call())
        async with aclosing(generation.deltas) as deltas:
            async for delta in deltas:
                yield delta

    async def chat(self, target: str, messages: Messages, **sampling: Any) -> str:
        """The whole answer of the assistant as one string."""
        async with aclosing(self.generate(target, messages, **sampling)) as deltas:
            return "".join([delta.text async for delta in deltas if isinstance(delta, TextDelta)])

    async def pull(self, name: str) -> AsyncGenerator[Progress]:
        """Fetch a model from a registry or hub; see docs/model-store.md. Raises what `ModelStore.pull` raises."""
        async with aclosing(self._store.pull(name, _LOCAL)) as steps:
            async for step in steps:
                yield step

    async def create(
        self,
        name: str,
        *,
        base: str | None = None,
        files: Sequence[Path | str] = (),
        adapters: Sequence[Path | str] = (),
        changes: Changes | None = None,
    ) -> AsyncGenerator[Progress]:
        """Make a model from another one, or from GGUF files of this machine. Raises what `ModelStore.create` raises."""
        names, adapter_names = [await self._taken_in(list(map(Path, paths))) for paths in (files, adapters)]
        created = self._store.create(
            name, _LOCAL, base=base, files=names, adapters=adapter_names, changes=changes or Changes()
        )
        async with aclosing(created) as steps:
            async for step in steps:
                yield step

    async def _taken_in(self, paths: Sequence[Path]) -> dict[str, str]:
        """Put files into the store; their digests by name."""
        digests: dict[str, str] = {}
        for path in paths:
            digest, size = await asyncio.to_thread(_digest_and_size, path)
            if not await self._store.has_blob(digest):
                async with aclosing(_chunks(path)) as chunks:
                    await self._store.put_blob(digest, size, chunks, _LOCAL)
            digests[path.name] = digest
        return digests

    async def copy(self, source: str, destination: str) -> ModelRef:
        """Give a model a second name. Raises what `ModelStore.copy` raises."""
        return await self._store.copy(source, destination, _LOCAL)

    async def delete(self, target: str) -> ModelRef:
        """Delete a model; the reference it had. Raises what `ModelStore.delete` raises."""
        ref = self._models.resolve(target).ref
        await self._store.delete(ref, _LOCAL)
        return ref

    def served(self, target: str) -> Served:
        """Which exact model answers to `target` now, and by which rule."""
        return self._models.resolve(target)

    def _call(self) -> Call:
        return Call(id=f"local-{next(self._ids)}", principal=_LOCAL)


def _digest_and_size(path: Path) -> tuple[str, int]:
    """Raises `InvalidRequest` when the file cannot be read."""
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}", path.stat().st_size
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}", param="files") from None


async def _chunks(path: Path) -> AsyncGenerator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk


def generation_request(messages: Messages | None, prompt: str | None, options: dict[str, Any]) -> Chat | Complete:
    """Decode the arguments of `generate`.

    Raises:
        InvalidRequest: both or neither of messages and prompt, or a keyword that is not a sampling field.
    """
    schema = options.pop("json_schema", None)
    constraint = None if schema is None else JsonSchema(schema)
    for name in options:
        if name not in _SAMPLING_FIELDS:
            raise InvalidRequest(f"{name!r} is not a sampling field: use {', '.join(sorted(_SAMPLING_FIELDS))}")
    if isinstance(options.get("stop"), str):
        options["stop"] = (options["stop"],)
    sampling = Sampling(**options)
    if (messages is None) == (prompt is None):
        raise InvalidRequest("give either messages or prompt")
    if prompt is not None:
        return Complete(prompt, sampling, constraint)
    if isinstance(messages, str):
        return Chat((Message("user", messages),), sampling, constraint)
    return Chat(tuple(_message(message) for message in messages or ()), sampling, constraint)


def _message(message: Mapping[str, str] | Message) -> Message:
    if isinstance(message, Message):
        return message
    try:
        return msgspec.convert(dict(message), Message)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"a message is not {{'role': ..., 'content': ...}}: {error}", param="messages") from None


def as_arrays(inputs: Mapping[str, Any], signature: Signature | None) -> dict[str, Array]:
    """Arrays as they are; lists as arrays of the dtype that the signature declares.

    Raises:
        InvalidTensor: a value is ragged or does not fit the dtype.
    """
    dtypes = {spec.name: spec.dtype for spec in signature.inputs} if signature else {}
    return {name: _as_array(name, value, dtypes.get(name)) for name, value in inputs.items()}


def _as_array(name: str, value: Any, dtype: str | None) -> Array:
    if isinstance(value, np.ndarray):
        return value
    try:
        if dtype == "bytes":
            texts = np.asarray(value, dtype=object)
            encoded = [item.encode() if isinstance(item, str) else bytes(item) for item in texts.ravel()]
            array = np.empty(len(encoded), dtype=object)
            array[:] = encoded
            return array.reshape(texts.shape)
        return np.asarray(value, dtype=dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidTensor(
            f"input {name!r} cannot be made a {dtype or 'numeric'} tensor: {error}", param=name
        ) from None


class Engine:
    """Models in this process, for programs without an event loop: `with Engine(models="DIR") as engine`.

    Thread-safe. `open_engine` makes the `AsyncEngine` it drives.
    """

    def __init__(self, open_engine: Callable[[], AsyncEngine]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="inference-engine", daemon=True)
        self._thread.start()
        self._closed = False
        try:
            self._engine = self._wait(self._open(open_engine))
        except BaseException:
            self._end_loop()
            raise

    async def _open(self, open_engine: Callable[[], AsyncEngine]) -> AsyncEngine:
        return await open_engine().__aenter__()

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every model and the event loop. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._wait(self._engine.__aexit__(None, None, None))
            self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def models(self) -> list[ModelStatus]:
        """See `AsyncEngine.models`."""
        return self._wait(self._models())

    async def _models(self) -> list[ModelStatus]:
        return self._engine.models()

    def show(self, target: str) -> tuple[ModelStatus, Manifest]:
        """See `AsyncEngine.show`."""
        return self._wait(self._show(target))

    async def _show(self, target: str) -> tuple[ModelStatus, Manifest]:
        return self._engine.show(target)

    def load(self, target: str) -> ModelStatus:
        """See `AsyncEngine.load`."""
        return self._wait(self._engine.load(target))

    def unload(self, target: str) -> int:
        """See `AsyncEngine.unload`."""
        return self._wait(self._engine.unload(target))

    def pull(self, name: str) -> Iterator[Progress]:
        """See `AsyncEngine.pull`."""
        return self._each(self._engine.pull(name))

    def create(
        self,
        name: str,
        *,
        base: str | None = None,
        files: Sequence[Path | str] = (),
        adapters: Sequence[Path | str] = (),
        changes: Changes | None = None,
    ) -> Iterator[Progress]:
        """See `AsyncEngine.create`."""
        return self._each(self._engine.create(name, base=base, files=files, adapters=adapters, changes=changes))

    def _each(self, steps: AsyncGenerator[Progress]) -> Iterator[Progress]:
        async def following() -> Progress | None:
            return await anext(steps, None)

        try:
            while (step := self._wait(following())) is not None:
                yield step
        finally:
            self._wait(steps.aclose())

    def copy(self, source: str, destination: str) -> ModelRef:
        """See `AsyncEngine.copy`."""
        return self._wait(self._engine.copy(source, destination))

    def delete(self, target: str) -> ModelRef:
        """See `AsyncEngine.delete`."""
        return self._wait(self._engine.delete(target))

    def predict(self, target: str, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Output tensors by name; see `AsyncEngine.predict`."""
        return self._wait(self._engine.predict(target, inputs)).outputs

    def chat(self, target: str, messages: Messages, **sampling: Any) -> str:
        """See `AsyncEngine.chat`."""
        return self._wait(self._engine.chat(target, messages, **sampling))

    def generate(
        self, target: str, messages: Messages | None = None, *, prompt: str | None = None, **sampling: Any
    ) -> TextStream:
        """Stream an answer as pieces of text; see `AsyncEngine.generate`."""
        return TextStream(self._wait, self._engine.generate(target, messages, prompt=prompt, **sampling))


class TextStream:
    """Pieces of an answer as they come. After the last one, `usage` and `finish_reason` are set.

    Leaving early needs `close()` (or `with`), which stops the compute.
    """

    def __init__(self, wait: Callable[[Coroutine[Any, Any, Any]], Any], deltas: AsyncGenerator[Delta]) -> None:
        self._wait = wait
        self._deltas = deltas
        self.usage: Usage | None = None
        self.finish_reason: str | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        delta: Delta | None = self._wait(self._next())
        if delta is None:
            raise StopIteration
        if isinstance(delta, Done):
            self.usage, self.finish_reason = delta.usage, delta.reason
            return next(self)
        return delta.text

    async def _next(self) -> Delta | None:
        return await anext(self._deltas, None)

    def close(self) -> None:
        """Stop the answer."""
        self._wait(self._deltas.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
