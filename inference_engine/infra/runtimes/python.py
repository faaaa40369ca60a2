"""Runs a model written as a plain Python class. Knows how to find, call and check it; the class knows nothing of us.

The manifest's `artifact` is "FILE.py:ClassName". The class needs no import from this project and offers what it can:

    class Model:
        inputs = [{"name": "x", "dtype": "float32", "shape": [-1, 4]}]    # or `signature` in model.yaml
        outputs = [{"name": "y", "dtype": "float32", "shape": [-1, 1]}]   # optional
        deterministic_stream = False
        concurrency = 1

        def load(self, folder, options): ...          # optional: pathlib.Path of the model, `options` of model.yaml
        def predict(self, inputs): return {"y": ...}  # tensors: dict of numpy arrays in and out
        def stream(self, messages, sampling):         # text: yields strings, answers chats and completions
            yield "Hello"
        def close(self): ...                          # optional

- `predict` gets arrays that are valid only during the call. Python lists are made arrays of the declared dtype.
- `stream` gets `[{"role": ..., "content": ...}]` (a completion comes as one user message) and the sampling values that
  were set, as a dict. One yielded string counts as one token; `max_tokens` and `stop` are enforced here.
- A stream cut by a runner's death is made again, and what was delivered is skipped, when `deterministic_stream` is
  true: then equal messages must give equal text. Otherwise the client gets an error.
- `concurrency` is how many streams may run together, each in its own thread.
- Other files in the model's folder can be imported by their plain names.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
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
    ModelError,
    ModelLoadFailed,
    RunnerLost,
    UnsupportedTask,
)
from inference_engine.domain.model import Manifest, Signature, TensorSpec
from inference_engine.domain.ports import Loaded, Sink
from inference_engine.domain.requests import Chat, Complete, Generate, Kind, Transcribe
from inference_engine.domain.results import Delivered, Done, FinishReason, TextDelta, Usage
from inference_engine.domain.runtime_defaults import RuntimeDefaults
from inference_engine.domain.tensors import Array, Tensors, dtype_name
from inference_engine.infra.runtimes.files import artifact_path

_import_lock = threading.Lock()  # imports of a model's siblings go through the process-wide sys.path


class PythonRuntime(RuntimeDefaults):
    """One instance of a user's class."""

    def __init__(self) -> None:
        self._model: Any = None
        self._module: ModuleType | None = None
        self._folder = Path()
        self._signature: Signature | None = None
        self._outputs: dict[str, TensorSpec] = {}
        self._predict: Callable[[dict[str, Array]], Any] | None = None

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        file, colon, name = manifest.artifact.partition(":")
        if not (colon and file.endswith(".py") and name.isidentifier()):
            raise InvalidManifest(
                f"artifact {manifest.artifact!r} must be FILE.py:ClassName for the python runtime", param="artifact"
            )
        path = artifact_path(folder, file)
        self._folder = folder
        with self._user_code(ModelLoadFailed), _siblings_importable(folder):
            self._module = _import(path)
            cls = getattr(self._module, name, None)
            if not inspect.isclass(cls):
                raise ModelLoadFailed(f"{path} has no class {name}", param="artifact")
            self._model = cls()
            if hasattr(self._model, "load"):
                self._model.load(folder, dict(manifest.options))
            elif manifest.options:
                raise InvalidManifest(f"{name} has no load method to take the options", param="options")
        kinds = self._kinds(name)
        self._signature = manifest.signature or self._own_signature()
        self._outputs = {spec.name: spec for spec in self._signature.outputs} if self._signature else {}
        self._predict = getattr(self._model, "predict", None)
        if "predict" in kinds and self._signature is None:
            raise InvalidManifest(
                f"{name}.predict needs a signature: declare it in model.yaml or as class attributes inputs and outputs",
                param="signature",
            )
        concurrency = int(getattr(self._model, "concurrency", 1))
        details = {"class": name, "file": file, "python": sys.version.partition(" ")[0]}
        return Loaded(kinds, self._signature, concurrency=concurrency, details=details)

    def run(self, batch: Tensors) -> Tensors:
        if self._predict is None:
            raise UnsupportedTask("this model's class has no predict method")
        try:  # not `_user_code`: for a quick model a context manager takes longer than the model
            result = self._predict(dict(batch))
        except EngineError:
            raise
        except (Exception, SystemExit) as error:
            raise self._blamed(InferenceFailed, error) from error
        if not isinstance(result, dict):
            raise InferenceFailed(f"predict must return a dict of arrays, it returned {type(result).__name__}")
        declared = self._outputs
        if declared and result.keys() != declared.keys():
            raise InferenceFailed(f"predict returned {sorted(map(str, result))}, the signature says {sorted(declared)}")
        return {name: _own(_output(name, value, declared.get(name)), batch) for name, value in result.items()}

    def generate(self, request: Generate, delivered: Delivered, sink: Sink) -> None:
        if not hasattr(self._model, "stream"):
            raise UnsupportedTask("this model's class has no stream method")
        if isinstance(request, Transcribe) or (not isinstance(request, Chat) and not isinstance(request.prompt, str)):
            raise UnsupportedTask("this model answers messages and text prompts only", param="prompt")
        if request.constraint is not None:
            raise InvalidRequest("this model cannot bind its answer to a schema or grammar", param="response_format")
        if isinstance(request, Chat) and request.tools and request.tool_choice.mode != "none":
            raise InvalidRequest("this model calls no tools: leave tools out", param="tools")
        if request.sampling.logprobs is not None:
            raise InvalidRequest("this model gives no log probabilities", param="logprobs")
        if delivered.text and not getattr(self._model, "deterministic_stream", False):
            raise RunnerLost("the answer was cut and the model's class does not declare deterministic_stream")
        with self._user_code(InferenceFailed):
            self._stream(request, _Outlet(request, delivered, sink), sink)

    def close(self) -> None:
        try:
            if hasattr(self._model, "close"):
                with self._user_code(InferenceFailed):
                    self._model.close()
        finally:
            self._model = self._predict = None
            if self._module is not None:
                sys.modules.pop(self._module.__name__, None)

    def _stream(self, request: Generate, outlet: _Outlet, sink: Sink) -> None:
        if isinstance(request, Chat):
            messages = [_without_none(msgspec.to_builtins(message)) for message in request.messages]
        else:
            messages = [{"role": "user", "content": _prompt(request)}]
        pieces = self._model.stream(messages, _without_none(msgspec.to_builtins(request.sampling)))
        if isinstance(pieces, str):
            pieces = iter([pieces])
        try:
            for piece in pieces:
                if sink.cancelled:
                    return
                if not isinstance(piece, str):
                    raise InferenceFailed(f"stream must yield strings, it yielded {type(piece).__name__}")
                if outlet.put(piece):
                    return
            if not sink.cancelled:
                outlet.end()
        finally:
            if hasattr(pieces, "close"):
                pieces.close()

    def _kinds(self, name: str) -> tuple[Kind, ...]:
        kinds: tuple[Kind, ...] = ("predict",) if hasattr(self._model, "predict") else ()
        if hasattr(self._model, "stream"):
            kinds += ("chat", "complete")
        if not kinds:
            raise ModelLoadFailed(f"{name} has neither a predict nor a stream method", param="artifact")
        return kinds

    def _own_signature(self) -> Signature | None:
        given = {key: getattr(self._model, key) for key in ("inputs", "outputs") if hasattr(self._model, key)}
        if "inputs" not in given:
            return None
        try:
            return msgspec.convert(given, Signature)
        except msgspec.ValidationError as error:
            raise InvalidManifest(f"the class attributes inputs and outputs: {error}", param="signature") from None

    @contextmanager
    def _user_code(self, kind: type[ModelError]) -> Iterator[None]:
        """Turn what the user's code raises into `kind`, naming the place in the user's file instead of ours."""
        try:
            yield
        except EngineError:
            raise
        except (Exception, SystemExit) as error:  # the border to foreign code: anything may come
            raise self._blamed(kind, error) from error

    def _blamed(self, kind: type[ModelError], error: BaseException) -> ModelError:
        return kind(f"{type(error).__name__}: {error}{_place(error, self._folder)}")


class _Outlet:
    """Passes pieces on: skips what was delivered, holds back what may begin a stop string, counts."""

    def __init__(self, request: Generate, delivered: Delivered, sink: Sink) -> None:
        self._stops = request.sampling.stop
        self._limit = request.sampling.max_tokens
        self._skip = len(delivered.text)
        self._sink = sink
        self._held = ""
        self._count = 0
        if isinstance(request, Complete) and request.echo:
            self._emit(_prompt(request))

    def put(self, piece: str) -> bool:
        """Take one piece; True when the answer is over."""
        self._count += 1
        self._held += piece
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self._emit(self._held[: min(found)])
            self._done("stop")
            return True
        over = self._limit is not None and self._count >= self._limit
        keep = 0 if over else self._possible_stop()
        self._emit(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]
        if over:
            self._done("length")
        return over

    def end(self) -> None:
        """The model has nothing more to say."""
        self._emit(self._held)
        self._done("stop")

    def _possible_stop(self) -> int:
        """The length of the longest end of the held text that begins a stop string."""
        longest = min(len(self._held), max(map(len, self._stops), default=1) - 1)
        return next(
            (size for size in range(longest, 0, -1) if any(s.startswith(self._held[-size:]) for s in self._stops)), 0
        )

    def _emit(self, text: str) -> None:
        fresh = text[self._skip :]
        self._skip = max(0, self._skip - len(text))
        if fresh:
            self._sink.emit(TextDelta(fresh))

    def _done(self, reason: FinishReason) -> None:
        self._sink.emit(Done(reason, Usage(completion_tokens=self._count)))


def _prompt(request: Generate) -> str:
    """The text to be continued; requests without one were refused before."""
    assert isinstance(request, Complete)
    assert isinstance(request.prompt, str)
    return request.prompt


def _import(path: Path) -> ModuleType:
    """Run `path` as a module of its own name, so that two models' model.py do not meet."""
    name = f"_model_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _siblings_importable(folder: Path) -> Iterator[None]:
    """Let plain imports find files in `folder`. The modules found are then forgotten, so that the next model in this
    process finds its own; imports made later, inside functions, find the folder that was loaded first."""
    home = str(folder.resolve())
    with _import_lock:
        before = set(sys.modules)
        if home not in sys.path:
            sys.path.insert(0, home)
        try:
            yield
        finally:
            for name in set(sys.modules) - before:
                file = getattr(sys.modules[name], "__file__", None) or ""
                if not name.startswith("_model_") and file.startswith(home):
                    del sys.modules[name]


def _place(error: BaseException, folder: Path) -> str:
    home = folder.resolve()
    if isinstance(error, SyntaxError):
        return ""  # its text names file and line already
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _inside(frame.filename, home)]
    if not frames:
        return ""
    last = frames[-1]
    return f" ({Path(last.filename).resolve().relative_to(home)}, line {last.lineno}, in {last.name})"


def _inside(file: str, home: Path) -> bool:
    return Path(file).resolve().is_relative_to(home)


@cache
def _dtype(name: str) -> np.dtype[Any] | None:
    """numpy's dtype object for a signature's word; none for `bytes`, which may be held in several ways."""
    return None if name == "bytes" else np.dtype(name)


def _is_as_declared(array: Array, spec: TensorSpec) -> bool:
    return type(array) is np.ndarray and array.dtype is _dtype(spec.dtype) and array.ndim == len(spec.shape)


def _output(name: Any, value: Any, spec: TensorSpec | None) -> Array:
    if spec is not None and isinstance(value, np.ndarray) and _is_as_declared(value, spec):
        return value
    if not isinstance(name, str):
        raise InferenceFailed(f"predict returned an output named {name!r}: names must be strings")
    try:
        if isinstance(value, np.ndarray) or spec is None or spec.dtype == "bytes":
            array = np.asarray(value)
        else:
            array = np.asarray(value, dtype=spec.dtype)
    except (TypeError, ValueError) as error:
        raise InferenceFailed(f"output {name!r} cannot be made an array: {error}", param=name) from None
    if array.dtype.kind in "OSU":
        array = _as_bytes(name, array)
    if spec is not None and (dtype_name(array) != spec.dtype or array.ndim != len(spec.shape)):
        raise InferenceFailed(
            f"output {name!r} is {dtype_name(array)} {list(array.shape)}, the signature says {spec.dtype} "
            f"{list(spec.shape)}: convert it in predict or correct the signature",
            param=name,
        )
    return array


def _as_bytes(name: str, array: Array) -> Array:
    flat = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
    if not all(isinstance(item, bytes) for item in flat):
        raise InferenceFailed(f"output {name!r} holds objects that are neither text nor bytes", param=name)
    result = np.empty(len(flat), dtype=object)
    result[:] = flat
    return result.reshape(array.shape)


def _own(array: Array, inputs: Tensors) -> Array:
    """`array`, copied when it may be a view of an input: inputs are gone after the call."""
    for given in inputs.values():
        if array is given or np.may_share_memory(array, given):
            return array.copy()
    return array


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
