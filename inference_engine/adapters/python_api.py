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

import numpy as np

from inference_engine.adapters.python_arguments import (
    Messages,
    as_arrays,
    audio_bytes,
    generation_request,
    image_request,
    video_request,
)
from inference_engine.adapters.sequences import sequence_step
from inference_engine.domain.analysis import Findings, ImageAnalysis
from inference_engine.domain.answers import Answer
from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.model import Manifest, ModelRef
from inference_engine.domain.model_store import Changes, Progress
from inference_engine.domain.requests import (
    Call,
    Embed,
    Generate,
    Predict,
    Principal,
    Rerank,
    Sampling,
    Transcribe,
)
from inference_engine.domain.results import Delta, Embeddings, Prediction, Ranking, Served, TextDelta, Usage
from inference_engine.domain.statistics import ModelStatistics
from inference_engine.domain.tensors import Array
from inference_engine.domain.video_analysis import VideoAnalysis, VideoEvent
from inference_engine.services.analysis import Analysis
from inference_engine.services.inference import InferenceService
from inference_engine.services.model_store import ModelStore
from inference_engine.services.models import ModelService, ModelStatus

Result = TypeVar("Result")
_LOCAL = Principal(tenant="default", key_id="local")
_CHUNK_BYTES = 1 << 20
_SAMPLING_FIELDS = frozenset(Sampling.__struct_fields__)


class AsyncEngine:
    """Models in this process, for asyncio programs: `async with AsyncEngine(...) as engine`."""

    def __init__(
        self, models: ModelService, inference: InferenceService, store: ModelStore, analysis: Analysis
    ) -> None:
        self._models = models
        self._inference = inference
        self._store = store
        self._analysis = analysis
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

    async def predict(
        self,
        target: str,
        inputs: Mapping[str, Any],
        *,
        sequence_id: int | str = 0,
        sequence_start: bool = False,
        sequence_end: bool = False,
    ) -> Prediction:
        """Compute tensors. Values may be arrays or nested lists; lists take the dtype of the model's signature.

        For models that keep sequences, `sequence_id` is the caller's own name for one.

        Raises:
            ModelNotFound; InvalidTensor; UnsupportedTask; Unavailable; DeadlineExceeded; ModelError.
        """
        given = {"sequence_id": sequence_id, "sequence_start": sequence_start, "sequence_end": sequence_end}
        request = Predict(await self._arrays(target, inputs), (), sequence_step(given))
        return await self._inference.predict(target, request, self._call())

    async def predict_stream(self, target: str, inputs: Mapping[str, Any]) -> AsyncGenerator[Prediction]:
        """Every response of a model that may give several, as it comes. Inputs and errors are those of `predict`."""
        request = Predict(await self._arrays(target, inputs))
        stream = self._inference.predict_stream(target, request, self._call())
        async with aclosing(stream.responses) as responses:
            async for response in responses:
                yield response

    async def _arrays(self, target: str, inputs: Mapping[str, Any]) -> dict[str, Array]:
        ref = self._models.resolve(target).ref
        if any(not isinstance(value, np.ndarray) for value in inputs.values()):
            await self._models.load(ref)
        return as_arrays(inputs, self._models.signature(ref))

    async def generate(
        self, target: str, messages: Messages | None = None, *, prompt: str | None = None, **sampling: Any
    ) -> AsyncGenerator[Delta]:
        """Stream an answer: to a conversation (`messages`, or one user message as a string) or after a `prompt`.

        Keyword arguments are the fields of `Sampling`; one of `json_schema`, `regex` and `grammar`; and for messages
        `tools` (the fields of `Tool`), `tool_choice` and `reasoning`. Raises what `InferenceService.generate` does.
        """
        async with aclosing(self._deltas(target, generation_request(messages, prompt, sampling))) as deltas:
            async for delta in deltas:
                yield delta

    async def _deltas(self, target: str, request: Generate) -> AsyncGenerator[Delta]:
        generation = await self._inference.generate(target, request, self._call())
        async with aclosing(generation.deltas) as deltas:
            async for delta in deltas:
                yield delta

    async def chat(self, target: str, messages: Messages, **sampling: Any) -> str:
        """The whole answer of the assistant as one string."""
        return (await self.answer(target, messages, **sampling)).text

    async def answer(self, target: str, messages: Messages, **sampling: Any) -> Answer:
        """The whole answer with its reasoning, tool calls and usage. Arguments are those of `generate`."""
        return await self._gathered(target, generation_request(messages, None, sampling))

    async def _gathered(self, target: str, request: Generate) -> Answer:
        answer = Answer()
        async with aclosing(self._deltas(target, request)) as deltas:
            async for delta in deltas:
                answer.add(delta)
        return answer

    async def embed(self, target: str, texts: str | Sequence[str], *, dimensions: int | None = None) -> Embeddings:
        """One vector for each text. Raises what `InferenceService.embed` does."""
        wanted = Embed((texts,) if isinstance(texts, str) else tuple(texts), dimensions)
        return await self._inference.embed(target, wanted, self._call())

    async def rerank(self, target: str, query: str, documents: Sequence[str]) -> Ranking:
        """A score for each document, in their order. Raises what `InferenceService.rerank` does."""
        return await self._inference.rerank(target, Rerank(query, tuple(documents)), self._call())

    async def transcribe(
        self,
        target: str,
        audio: bytes | str | Path,
        *,
        language: str | None = None,
        prompt: str = "",
        translate: bool = False,
        timestamps: bool = False,
        temperature: float | None = None,
    ) -> Answer:
        """Write down the speech in encoded audio or a file. With `timestamps`, `segments` of the answer have times."""
        data = await asyncio.to_thread(audio_bytes, audio)
        sampling = Sampling(temperature=temperature)
        return await self._gathered(target, Transcribe(data, language, prompt, translate, timestamps, sampling))

    async def analyze_image(self, image: bytes | str | Path, **options: Any) -> Findings:
        """What is found in one encoded image or a file. Arguments are those of `analyze_images`."""
        return (await self.analyze_images([image], **options)).images[0]

    async def analyze_images(self, images: Sequence[bytes | str | Path], **options: Any) -> ImageAnalysis:
        """What is found in images, and which models found it.

        Keyword arguments: `tasks` (of `classify`, `detect`, `describe`, `embed`), `model` (a name, or names by task),
        `top_k`, `threshold`, `prompt`, `max_tokens`; see `AnalyzeImages`. Raises what `ImageAnalyzer.analyze` does.
        """
        request = await asyncio.to_thread(image_request, images, **options)
        return await self._analysis.images.analyze(request, self._call())

    async def analyze_video(self, video: bytes | str | Path, **options: Any) -> VideoAnalysis:
        """What is found in an encoded video or a file, over time, and which models found it.

        Keyword arguments: `tasks` (of `classify`, `detect`, `scenes`, `track`, `describe`, `summarize`), `model` (a
        name, or names by task), `sampling` (a `VideoSampling` or its fields), `max_side`, `top_k`, `threshold`,
        `prompt`, `max_tokens`; see `AnalyzeVideo`. Raises what `VideoAnalyzer.analyze` does.
        """
        request = await asyncio.to_thread(video_request, video, **options)
        return await self._analysis.videos.analyze(request, self._call())

    async def video_events(self, video: bytes | str | Path, **options: Any) -> AsyncGenerator[VideoEvent]:
        """The same as it is found: `VideoOpened`, a `VideoProgress` for each picture, then the `VideoAnalysis`."""
        request = await asyncio.to_thread(video_request, video, **options)
        async with aclosing(self._analysis.videos.events(request, self._call())) as events:
            async for event in events:
                yield event

    async def tokenize(
        self, target: str, messages: Messages | None = None, *, prompt: str | None = None
    ) -> tuple[int, ...]:
        """The token ids of a conversation or a prompt, as the model would see them."""
        return await self._inference.tokenize(target, generation_request(messages, prompt, {}), self._call())

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

    def statistics(self, target: str) -> ModelStatistics:
        """What a model has done since the engine was opened. Raises `ModelNotFound`."""
        return self._models.statistics(self._models.resolve(target).ref)

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

    def statistics(self, target: str) -> ModelStatistics:
        """The counts of a model; they go on changing. See `AsyncEngine.statistics`."""
        return self._wait(self._statistics(target))

    async def _statistics(self, target: str) -> ModelStatistics:
        return self._engine.statistics(target)

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

    def _each(self, steps: AsyncGenerator[Result]) -> Iterator[Result]:
        async def following() -> Result | None:
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

    def predict(self, target: str, inputs: Mapping[str, Any], **sequence: Any) -> dict[str, Array]:
        """Output tensors by name; see `AsyncEngine.predict`."""
        return self._wait(self._engine.predict(target, inputs, **sequence)).outputs

    def predict_stream(self, target: str, inputs: Mapping[str, Any]) -> Iterator[dict[str, Array]]:
        """The output tensors of each response; see `AsyncEngine.predict_stream`. Closing the iterator ends it."""
        return (response.outputs for response in self._each(self._engine.predict_stream(target, inputs)))

    def chat(self, target: str, messages: Messages, **sampling: Any) -> str:
        """See `AsyncEngine.chat`."""
        return self._wait(self._engine.chat(target, messages, **sampling))

    def answer(self, target: str, messages: Messages, **sampling: Any) -> Answer:
        """See `AsyncEngine.answer`."""
        return self._wait(self._engine.answer(target, messages, **sampling))

    def embed(self, target: str, texts: str | Sequence[str], *, dimensions: int | None = None) -> Embeddings:
        """See `AsyncEngine.embed`."""
        return self._wait(self._engine.embed(target, texts, dimensions=dimensions))

    def rerank(self, target: str, query: str, documents: Sequence[str]) -> Ranking:
        """See `AsyncEngine.rerank`."""
        return self._wait(self._engine.rerank(target, query, documents))

    def transcribe(self, target: str, audio: bytes | str | Path, **options: Any) -> Answer:
        """See `AsyncEngine.transcribe`."""
        return self._wait(self._engine.transcribe(target, audio, **options))

    def analyze_image(self, image: bytes | str | Path, **options: Any) -> Findings:
        """See `AsyncEngine.analyze_image`."""
        return self._wait(self._engine.analyze_image(image, **options))

    def analyze_images(self, images: Sequence[bytes | str | Path], **options: Any) -> ImageAnalysis:
        """See `AsyncEngine.analyze_images`."""
        return self._wait(self._engine.analyze_images(images, **options))

    def analyze_video(self, video: bytes | str | Path, **options: Any) -> VideoAnalysis:
        """See `AsyncEngine.analyze_video`."""
        return self._wait(self._engine.analyze_video(video, **options))

    def tokenize(self, target: str, messages: Messages | None = None, *, prompt: str | None = None) -> tuple[int, ...]:
        """See `AsyncEngine.tokenize`."""
        return self._wait(self._engine.tokenize(target, messages, prompt=prompt))

    def generate(
        self, target: str, messages: Messages | None = None, *, prompt: str | None = None, **sampling: Any
    ) -> TextStream:
        """Stream an answer as pieces of text; see `AsyncEngine.generate`."""
        return TextStream(self._wait, self._engine.generate(target, messages, prompt=prompt, **sampling))


class TextStream:
    """Pieces of an answer's text as they come. After the last one, `usage` and `finish_reason` are set.

    `answer` holds what has come so far, reasoning and tool calls too. Leaving early needs `close()` (or `with`), which
    stops the compute.
    """

    def __init__(self, wait: Callable[[Coroutine[Any, Any, Any]], Any], deltas: AsyncGenerator[Delta]) -> None:
        self._wait = wait
        self._deltas = deltas
        self.answer = Answer()

    @property
    def usage(self) -> Usage | None:
        return self.answer.done.usage if self.answer.done else None

    @property
    def finish_reason(self) -> str | None:
        return self.answer.done.reason if self.answer.done else None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        text: str | None = self._wait(self._next())
        if text is None:
            raise StopIteration
        return text

    async def _next(self) -> str | None:
        async for delta in self._deltas:
            self.answer.add(delta)
            if isinstance(delta, TextDelta):
                return delta.text
        return None

    def close(self) -> None:
        """Stop the answer."""
        self._wait(self._deltas.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
