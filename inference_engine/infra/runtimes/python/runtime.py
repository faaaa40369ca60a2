"""The runtime behind a user's class: finds what it offers, calls it, and refuses what it does not."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np

from inference_engine.domain.errors import (
    EngineError,
    InferenceFailed,
    InvalidManifest,
    InvalidRequest,
    ModelLoadFailed,
    RunnerLost,
    UnsupportedTask,
)
from inference_engine.domain.model import Manifest, Signature, TensorSpec
from inference_engine.domain.ports import Loaded, Media, Sink, TensorSink
from inference_engine.domain.requests import Chat, Complete, Generate, Kind, Message, TextPart, Transcribe
from inference_engine.domain.results import Delivered
from inference_engine.domain.runtime_defaults import RuntimeDefaults
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.domain.text_tensors import (
    DOCUMENT,
    EMBEDDING,
    QUERY,
    RERANK_SIGNATURE,
    SCORE,
    TEXT,
    TOKENS,
    embed_signature,
    texts_of,
)
from inference_engine.infra.runtimes.files import artifact_path
from inference_engine.infra.runtimes.python.devices import placed
from inference_engine.infra.runtimes.python.outputs import numbers, predicted
from inference_engine.infra.runtimes.python.pieces import Outlet
from inference_engine.infra.runtimes.python.triton_model import CLASS as TRITON_CLASS
from inference_engine.infra.runtimes.python.triton_model import DecoupledModel, provide_utils, triton_model
from inference_engine.infra.runtimes.user_code import blamed, import_file, siblings_importable, user_code

_KINDS: dict[str, tuple[Kind, ...]] = {
    "predict": ("predict",),
    "predict_stream": ("predict_stream",),
    "stream": ("chat", "complete"),
    "embed": ("embed",),
    "rerank": ("rerank",),
    "transcribe": ("transcribe",),
}
"""The methods of a class, and the requests that each answers."""
_END = object()


class PythonRuntime(RuntimeDefaults):
    """One instance of a user's class."""

    def __init__(self) -> None:
        self._model: Any = None
        self._module: ModuleType | None = None
        self._folder = Path()
        self._signature: Signature | None = None
        self._outputs: dict[str, TensorSpec] = {}
        self._predict: Callable[[dict[str, Array]], Any] | None = None
        self._takes: frozenset[str] = frozenset()

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        file, colon, name = manifest.artifact.partition(":")
        if not (colon and file.endswith(".py") and name.isidentifier()):
            raise InvalidManifest(
                f"artifact {manifest.artifact!r} must be FILE.py:ClassName for the python runtime", param="artifact"
            )
        path = artifact_path(folder, file)
        self._folder = folder
        with user_code(ModelLoadFailed, folder), siblings_importable(folder):
            if name == TRITON_CLASS:
                provide_utils()
            self._module = import_file(path)
            cls = getattr(self._module, name, None)
            if not inspect.isclass(cls):
                raise ModelLoadFailed(f"{path} has no class {name}", param="artifact")
            self._model = triton_model(cls, manifest, folder) if name == TRITON_CLASS else cls()
            if hasattr(self._model, "load"):
                self._load_model(manifest, folder)
            elif manifest.options:
                raise InvalidManifest(f"{name} has no load method to take the options", param="options")
        kinds = self._kinds(name)
        self._signature = manifest.signature or self._own_signature(kinds)
        self._outputs = {spec.name: spec for spec in self._signature.outputs} if self._signature else {}
        self._predict = getattr(self._model, "predict", None)
        if {"predict", "predict_stream"} & set(kinds) and self._signature is None:
            raise InvalidManifest(
                f"{name}.{kinds[0]} needs a signature: declare it in model.yaml or as class attributes inputs and "
                "outputs",
                param="signature",
            )
        if "chat" in kinds:
            self._takes = frozenset(inspect.signature(self._model.stream).parameters)
        concurrency = int(getattr(self._model, "concurrency", 1))
        details = {"class": name, "file": file, "python": sys.version.partition(" ")[0]}
        return Loaded(kinds, self._signature, concurrency=concurrency, media=self._media(), details=details)

    def _load_model(self, manifest: Manifest, folder: Path) -> None:
        more = {}
        if "device" in inspect.signature(self._model.load).parameters:
            more["device"] = placed(manifest.execution.device)
        self._model.load(folder, dict(manifest.options), **more)

    def run(self, batch: Tensors) -> Tensors:
        if self._predict is None:
            return self._texts(batch)
        try:  # not `user_code`: for a quick model a context manager takes longer than the model
            result = self._predict(dict(batch))
        except EngineError:
            raise
        except (Exception, SystemExit) as error:
            raise blamed(InferenceFailed, error, self._folder) from error
        return predicted(result, batch, self._outputs)

    def run_stream(self, inputs: Tensors, sink: TensorSink) -> None:
        if not hasattr(self._model, "predict_stream"):
            raise UnsupportedTask("this model's class has no predict_stream method")
        with user_code(InferenceFailed, self._folder):
            if isinstance(self._model, DecoupledModel):
                self._model.predict_stream(inputs, sink, lambda result: predicted(result, inputs, self._outputs))
                return
            responses = iter(self._model.predict_stream(dict(inputs)))
            try:
                while not sink.cancelled and (result := next(responses, _END)) is not _END:
                    sink.send(predicted(result, inputs, self._outputs))
            finally:
                if hasattr(responses, "close"):
                    responses.close()

    def _texts(self, batch: Tensors) -> Tensors:
        if TEXT in batch and hasattr(self._model, "embed"):
            return self._embed(batch)
        if QUERY in batch and hasattr(self._model, "rerank"):
            return self._rerank(batch)
        raise UnsupportedTask("this model's class has no predict method")

    def _embed(self, batch: Tensors) -> Tensors:
        texts = texts_of(batch[TEXT])
        with user_code(InferenceFailed, self._folder):
            found = self._model.embed(texts)
        vectors = numbers(found, "embed", (len(texts), -1))
        return {EMBEDDING: vectors, TOKENS: np.array([self._count(text) for text in texts], np.int32)}

    def _rerank(self, batch: Tensors) -> Tensors:
        """A batch may hold several queries: each is asked with its own documents."""
        queries, documents = texts_of(batch[QUERY]), texts_of(batch[DOCUMENT])
        scores = np.empty(len(queries), np.float32)
        for query in dict.fromkeys(queries):
            rows = [row for row, other in enumerate(queries) if other == query]
            with user_code(InferenceFailed, self._folder):
                found = self._model.rerank(query, [documents[row] for row in rows])
            scores[rows] = numbers(found, "rerank", (len(rows),))
        tokens = [self._count(query) + self._count(text) for query, text in zip(queries, documents, strict=True)]
        return {SCORE: scores, TOKENS: np.array(tokens, np.int32)}

    def generate(self, request: Generate, delivered: Delivered, sink: Sink) -> None:
        method = "transcribe" if isinstance(request, Transcribe) else "stream"
        if not hasattr(self._model, method):
            raise UnsupportedTask(f"this model's class has no {method} method")
        self._check(request)
        if delivered.text and not getattr(self._model, "deterministic_stream", False):
            raise RunnerLost("the answer was cut and the model's class does not declare deterministic_stream")
        with user_code(InferenceFailed, self._folder):
            outlet = Outlet(request, delivered, sink, self._prompt_tokens(request))
            _pump(self._begin(request), outlet, sink)

    def tokenize(self, request: Generate) -> tuple[int, ...]:
        if not hasattr(self._model, "tokenize"):
            raise UnsupportedTask("this model's class has no tokenize method: its tokens are unknown", param="model")
        if isinstance(request, Transcribe):
            raise UnsupportedTask("speech has no prompt to be split into tokens", param="model")
        self._check(request)
        return self._tokens(_messages(request))

    def close(self) -> None:
        try:
            if hasattr(self._model, "close"):
                with user_code(InferenceFailed, self._folder):
                    self._model.close()
        finally:
            self._model = self._predict = None
            if self._module is not None:
                sys.modules.pop(self._module.__name__, None)

    # -- what is refused -------------------------------------------------------------------------------------------

    def _check(self, request: Generate) -> None:
        if request.sampling.logprobs is not None:
            raise InvalidRequest("this model gives no log probabilities", param="logprobs")
        if isinstance(request, Transcribe):
            return
        if request.constraint is not None and "constraint" not in self._takes:
            raise InvalidRequest("this model cannot bind its answer to a schema or grammar", param="response_format")
        if isinstance(request, Complete):
            self._check_completion(request)
            return
        if request.tools and request.tool_choice.mode != "none" and "tools" not in self._takes:
            raise InvalidRequest("this model calls no tools: leave tools out", param="tools")
        if request.reasoning not in (None, "none") and "reasoning" not in self._takes:
            raise InvalidRequest("this model's reasoning cannot be steered: leave it out", param="reasoning")

    @staticmethod
    def _check_completion(request: Complete) -> None:
        if not isinstance(request.prompt, str):
            raise UnsupportedTask("this model takes text, no token ids: send prompt as a string", param="prompt")
        if request.suffix is not None:
            raise UnsupportedTask("this model cannot insert text before a suffix: leave it out", param="suffix")

    # -- the user's class ------------------------------------------------------------------------------------------

    def _begin(self, request: Generate) -> Iterable[Any]:
        sampling = _plain(request.sampling)
        if isinstance(request, Transcribe):
            options = {
                "language": request.language,
                "prompt": request.prompt,
                "translate": request.translate,
                "timestamps": request.timestamps,
            }
            pieces = self._model.transcribe(request.audio, options | sampling)
        else:
            pieces = self._stream_of(request)(_messages(request), sampling)
        return iter([pieces]) if isinstance(pieces, str) else pieces

    def _stream_of(self, request: Chat | Complete) -> Callable[..., Any]:
        """The class's `stream` with those of the request's other parts that it has parameters for."""
        offered: dict[str, Any] = {"constraint": request.constraint and _plain(request.constraint)}
        if isinstance(request, Chat):
            offered["tools"] = [_plain(tool) for tool in request.tools] if request.tool_choice.mode != "none" else []
            offered["tool_choice"] = _plain(request.tool_choice)
            offered["reasoning"] = request.reasoning
        else:
            offered |= {"tools": [], "tool_choice": {"mode": "none"}, "reasoning": None}
        return partial(self._model.stream, **{name: offered[name] for name in offered if name in self._takes})

    def _prompt_tokens(self, request: Generate) -> int:
        if isinstance(request, Transcribe) or not hasattr(self._model, "tokenize"):
            return 0
        return len(self._tokens(_messages(request)))

    def _count(self, text: str) -> int:
        return len(self._tokens([{"role": "user", "content": text}])) if hasattr(self._model, "tokenize") else 0

    def _tokens(self, messages: list[dict[str, Any]]) -> tuple[int, ...]:
        with user_code(InferenceFailed, self._folder):
            return tuple(map(int, self._model.tokenize(messages)))

    def _kinds(self, name: str) -> tuple[Kind, ...]:
        kinds = tuple(kind for method, kinds in _KINDS.items() if hasattr(self._model, method) for kind in kinds)
        if not kinds:
            raise ModelLoadFailed(
                f"{name} has neither a predict nor a stream, predict_stream, embed, rerank or transcribe method",
                param="artifact",
            )
        if {"predict", "predict_stream"} & set(kinds) and {"embed", "rerank"} & set(kinds):
            raise ModelLoadFailed(
                f"{name} has {kinds[0]} beside embed or rerank: make them two models", param="artifact"
            )
        return kinds

    def _media(self) -> tuple[Media, ...]:
        try:
            return msgspec.convert(getattr(self._model, "media", ()), tuple[Media, ...])
        except msgspec.ValidationError as error:
            raise InvalidManifest(f"the class attribute media: {error}", param="media") from None

    def _own_signature(self, kinds: tuple[Kind, ...]) -> Signature | None:
        if "embed" in kinds or "rerank" in kinds:
            return embed_signature(-1) if "embed" in kinds else RERANK_SIGNATURE
        given = {key: getattr(self._model, key) for key in ("inputs", "outputs") if hasattr(self._model, key)}
        if "inputs" not in given:
            return None
        try:
            return msgspec.convert(given, Signature)
        except msgspec.ValidationError as error:
            raise InvalidManifest(f"the class attributes inputs and outputs: {error}", param="signature") from None


def _pump(pieces: Any, outlet: Outlet, sink: Sink) -> None:
    try:
        for piece in pieces:
            if sink.cancelled or outlet.put(piece):
                return
        if not sink.cancelled:
            outlet.end()
    finally:
        if hasattr(pieces, "close"):
            pieces.close()


def _messages(request: Chat | Complete) -> list[dict[str, Any]]:
    """The conversation as plain values; a completion is one user message."""
    if isinstance(request, Chat):
        return [_message(message) for message in request.messages]
    return [{"role": "user", "content": request.prompt}]


def _message(message: Message) -> dict[str, Any]:
    content = message.content
    if not isinstance(content, str) and all(isinstance(part, TextPart) for part in content):
        message = msgspec.structs.replace(message, content=message.text)
    return _plain(message)


def _plain(value: msgspec.Struct) -> dict[str, Any]:
    """A struct as a dict of what is set, with lists for tuples; images and audio stay bytes."""
    values: dict[str, Any] = msgspec.to_builtins(value, builtin_types=(bytes,))
    return {key: list(item) if isinstance(item, tuple) else item for key, item in values.items() if item is not None}
