"""The commands' client over a running server: its admin, OpenAI and Open Inference endpoints, through httpx."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx
import msgspec

from inference_engine.adapters.cli.client import (
    Messages,
    ModelView,
    NewModel,
    Output,
    Scores,
    Seen,
    SeenVideo,
    Segment,
    Step,
    Transcript,
    Vectors,
)
from inference_engine.core.yaml_source import suggestion
from inference_engine.domain.errors import (
    DeadlineExceeded,
    EngineError,
    InferenceFailed,
    InvalidRequest,
    InvalidTensor,
    ModelNotFound,
    Unauthenticated,
    Unavailable,
    error_from_code,
)
from inference_engine.domain.model import Manifest
from inference_engine.domain.results import Usage

if TYPE_CHECKING:
    from types import TracebackType

_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 900.0  # a first answer may wait for a model of many gigabytes to load
_DATATYPES = {"bool": "BOOL", "bytes": "BYTES", "float16": "FP16", "float32": "FP32", "float64": "FP64"} | {
    f"{sign}int{bits}": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)
}
_DTYPES = {datatype: dtype for dtype, datatype in _DATATYPES.items()}


class _Broken(msgspec.Struct):
    message: str


class _Models(msgspec.Struct):
    models: list[ModelView]
    broken: list[_Broken] = []


class _Details(ModelView, frozen=True, kw_only=True):
    manifest: Manifest


class _Unloaded(msgspec.Struct):
    memory_returned_bytes: int


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


class _Prediction(msgspec.Struct):
    outputs: list[_Tensor]


class _Response(msgspec.Struct):
    outputs: list[_Tensor] = []
    error: str | None = None


class _TextUsage(msgspec.Struct):
    prompt_tokens: int


class _Embedding(msgspec.Struct):
    embedding: list[float]


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]
    usage: _TextUsage


class _Rank(msgspec.Struct):
    index: int
    relevance_score: float


class _Reranked(msgspec.Struct):
    results: list[_Rank]
    usage: _TextUsage


class _Stretch(msgspec.Struct):
    start: float
    end: float
    text: str


class _Spoken(msgspec.Struct):
    text: str
    segments: list[_Stretch] = []


Answer = TypeVar("Answer")


class HttpClient:
    """A `Client` of the server at `url`. `transport` replaces the network in tests."""

    def __init__(self, url: str, api_key: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        self._url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self._url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            transport=transport,
            trust_env=False,  # a proxy meant for the internet must not see requests to this server
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def models(self) -> list[ModelView]:
        return self._json("GET", "/admin/models", kind=_Models).models

    def broken(self) -> list[str]:
        return [folder.message for folder in self._json("GET", "/admin/models", kind=_Models).broken]

    def show(self, target: str) -> tuple[ModelView, Manifest]:
        details = self._json("GET", self._admin(target), kind=_Details)
        view = {name: getattr(details, name) for name in ModelView.__struct_fields__}
        return ModelView(**view), details.manifest

    def load(self, target: str) -> ModelView:
        return self._json("POST", self._admin(target) + "/load", kind=ModelView)

    def unload(self, target: str) -> int:
        return self._json("POST", self._admin(target) + "/unload", kind=_Unloaded).memory_returned_bytes

    def predict(self, target: str, inputs: Mapping[str, Any]) -> list[Output]:
        path, request = self._infer(target, inputs, "infer")
        return [_output(item) for item in self._read(self.send(request), path, _Prediction).outputs]

    def predict_stream(self, target: str, inputs: Mapping[str, Any]) -> Iterator[list[Output]]:
        _, request = self._infer(target, inputs, "infer_stream")
        response = self.send(request, stream=True)
        try:
            for line in response.iter_lines():
                if line.startswith("data:"):
                    yield _response(line.removeprefix("data:"))
        except httpx.TransportError as error:
            raise _lost(self._url, error) from None
        finally:
            response.close()

    def _infer(self, target: str, inputs: Mapping[str, Any], method: str) -> tuple[str, httpx.Request]:
        view = self._resolve(target)
        if view.signature is None:
            view = self.load(target)
        dtypes = {spec["name"]: spec["dtype"] for spec in (view.signature or {}).get("inputs", ())}
        tensors = [_tensor(name, value, dtypes) for name, value in inputs.items()]
        name, _, version = target.partition(":")
        path = f"/v2/models/{name}/versions/{version}/{method}" if version else f"/v2/models/{name}/{method}"
        content, headers = _infer_body(tensors)
        return path, self._http.build_request("POST", path, content=content, headers=headers)

    def generate(self, target: str, messages: Messages, sampling: Mapping[str, Any]) -> HttpStream:
        body = {
            "model": target,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            **sampling,
        }
        return HttpStream(self, self._http.build_request("POST", "/v1/chat/completions", json=body))

    def pull(self, name: str) -> Iterator[Step]:
        return self._steps("/api/pull", {"model": name})

    def create(self, name: str, new: NewModel) -> Iterator[Step]:
        body: dict[str, Any] = {"model": name, "from": new.base, "system": new.system, "template": new.template}
        body |= {"license": new.licence, "parameters": new.parameters or None}
        body |= {"files": self._uploaded(new.files), "adapters": self._uploaded(new.adapters)}
        return self._steps("/api/create", {field: value for field, value in body.items() if value})

    def copy(self, source: str, destination: str) -> None:
        body = {"source": source, "destination": destination}
        self.send(self._http.build_request("POST", "/api/copy", json=body))

    def delete(self, target: str) -> None:
        self.send(self._http.build_request("DELETE", "/api/delete", json={"model": target}))

    def _uploaded(self, paths: Sequence[Path]) -> dict[str, str]:
        """Give files to the server that it has not yet; their digests by name."""
        digests: dict[str, str] = {}
        for path in paths:
            try:
                with path.open("rb") as file:
                    digest = digests[path.name] = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
                    file.seek(0)
                    request = self._http.build_request("HEAD", f"/api/blobs/{digest}")
                    if not self._http.send(request).is_success:
                        self.send(self._http.build_request("POST", f"/api/blobs/{digest}", content=file))
            except httpx.TransportError as error:
                raise _lost(self._url, error) from None
            except OSError as error:
                raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from None
        return digests

    def _steps(self, path: str, body: dict[str, Any]) -> Iterator[Step]:
        """The lines of a change. Ends with an error when the server breaks off before the success."""
        response = self.send(self._http.build_request("POST", path, json=body), stream=True)
        last = ""
        try:
            for line in response.iter_lines():
                found = json.loads(line)
                if "error" in found:
                    raise error_from_code("", str(found["error"]))
                step = msgspec.convert(found, Step)
                last = step.status
                yield step
        except httpx.TransportError as error:
            raise _lost(self._url, error) from None
        finally:
            response.close()
        if last != "success":
            raise InferenceFailed("the server broke off before it was done: try again, what was fetched is kept")

    def embed(self, target: str, texts: Sequence[str], dimensions: int | None) -> Vectors:
        body = {"model": target, "input": list(texts), "encoding_format": "float", "dimensions": dimensions}
        found = self._json("POST", "/v1/embeddings", body, kind=_Embeddings)
        return Vectors([item.embedding for item in found.data], found.usage.prompt_tokens)

    def rerank(self, target: str, query: str, documents: Sequence[str]) -> Scores:
        body = {"model": target, "query": query, "documents": list(documents), "return_documents": False}
        found = self._json("POST", "/v1/rerank", body, kind=_Reranked)
        scores = {item.index: item.relevance_score for item in found.results}
        return Scores([scores[index] for index in range(len(documents))], found.usage.prompt_tokens)

    def transcribe(self, target: str, audio: bytes, *, timestamps: bool, translate: bool, **options: str) -> Transcript:
        path = "/v1/audio/translations" if translate else "/v1/audio/transcriptions"
        fields = {"model": target, "response_format": "verbose_json" if timestamps else "json", **options}
        files = {"file": ("audio", audio)}
        response = self.send(self._http.build_request("POST", path, data=fields, files=files))
        found = self._read(response, path, _Spoken)
        return Transcript(found.text, [Segment(item.start, item.end, item.text.strip()) for item in found.segments])

    def analyze_images(self, images: Sequence[bytes], tasks: Sequence[str], **options: Any) -> Seen:
        path = "/inference/image"
        fields = {"tasks": ",".join(tasks), **{name: str(value) for name, value in options.items()}}
        files = [("file", ("image", image)) for image in images]
        return self._read(self.send(self._http.build_request("POST", path, data=fields, files=files)), path, Seen)

    def analyze_video(self, video: bytes, tasks: Sequence[str], *, every_s: float, **options: Any) -> SeenVideo:
        path = "/inference/video"
        fields = {"tasks": ",".join(tasks), "sample": json.dumps({"every_s": every_s})}
        fields |= {name: str(value) for name, value in options.items()}
        request = self._http.build_request("POST", path, data=fields, files={"file": ("video", video)})
        return self._read(self.send(request), path, SeenVideo)

    def send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        """Send a request; a status that tells of a failure becomes an `EngineError`."""
        try:
            response = self._http.send(request, stream=stream)
            if response.is_error:
                response.read()
        except httpx.TransportError as error:
            raise _lost(self._url, error) from None
        if response.is_error:
            raise _failure(response)
        return response

    def _json(self, method: str, path: str, body: Any = None, *, kind: type[Answer]) -> Answer:
        return self._read(self.send(self._http.build_request(method, path, json=body)), path, kind)

    def _read(self, response: httpx.Response, path: str, kind: type[Answer]) -> Answer:
        try:
            return msgspec.json.decode(response.content, type=kind)
        except msgspec.MsgspecError as error:
            raise InferenceFailed(
                f"{self._url}{path} gave an answer that is not understood ({error}): "
                "is it an inference-engine server of this version?"
            ) from None

    def _resolve(self, target: str) -> ModelView:
        models = self.models()
        for model in models:
            if target == model.target or target in model.routes:
                return model
        known = {model.target for model in models} | {route for model in models for route in model.routes}
        raise ModelNotFound(f"the server at {self._url} has no model {target!r}: {suggestion(target, known)}")

    def _admin(self, target: str) -> str:
        name, colon, version = target.partition(":")
        if not colon:
            model = self._resolve(target)
            name, version = model.name, model.version
        return f"/admin/models/{name}/{version}"


class HttpStream:
    """The pieces of one streamed chat answer. The request is sent when the first piece is wanted."""

    def __init__(self, client: HttpClient, request: httpx.Request) -> None:
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self._pieces = self._read(client, request)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop: closing the connection stops the compute."""
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _read(self, client: HttpClient, request: httpx.Request) -> Generator[str]:
        response = client.send(request, stream=True)
        try:
            for line in response.iter_lines():
                data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                if data == "[DONE]":
                    return
                if data:
                    yield from self._piece(json.loads(data))
        except httpx.TransportError as error:
            raise _lost(str(request.url.copy_with(raw_path=b"/")).rstrip("/"), error) from None
        finally:
            response.close()
        raise InferenceFailed("the answer ended before it was complete: the connection was closed")

    def _piece(self, event: dict[str, Any]) -> Iterator[str]:
        if event.get("error"):
            error = event["error"]
            raise error_from_code(str(error.get("code") or ""), str(error.get("message") or error))
        if usage := event.get("usage"):
            details = usage.get("prompt_tokens_details") or {}
            self.usage = Usage(
                usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0), details.get("cached_tokens", 0)
            )
        for choice in event.get("choices", ()):
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            if text := (choice.get("delta") or {}).get("content"):
                yield text


def _lost(url: str, error: httpx.TransportError) -> EngineError:
    if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
        return DeadlineExceeded(f"the server at {url} did not answer within {_READ_TIMEOUT_S:g} s")
    return Unavailable(f"the server at {url} cannot be reached ({error}): is it running? Start one with `serve`")


def _failure(response: httpx.Response) -> EngineError:
    """The error in whichever shape the server answered: OpenAI's object or the bare text of Open Inference."""
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        error = f"the server answered {response.status_code} {response.reason_phrase}"
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return Unauthenticated("the server wants an API key: set INFERENCE_ENGINE_API_KEY or give --api-key")
    if isinstance(error, dict):
        return error_from_code(
            str(error.get("code") or ""),
            str(error.get("message") or error),
            param=error.get("param") or error.get("field"),
        )
    return error_from_code("model_not_found" if response.status_code == httpx.codes.NOT_FOUND else "", str(error))


def _tensor(name: str, value: Any, dtypes: Mapping[str, str]) -> dict[str, Any]:
    if dtypes and name not in dtypes:
        raise InvalidTensor(f"input {name!r} is unknown; the model takes {sorted(dtypes)}", param=name)
    shape, data = _flat(name, value)
    dtype = dtypes.get(name) or _guess(data)
    return {"name": name, "datatype": _DATATYPES.get(dtype, dtype), "shape": shape, "data": data}


def _infer_body(tensors: list[dict[str, Any]]) -> tuple[bytes, dict[str, str]]:
    """A request of the Open Inference Protocol and its headers; `bytes`, which JSON cannot hold, follow the JSON."""
    tail = b""
    for tensor in tensors:
        if any(isinstance(element, bytes) for element in tensor["data"]):
            raw = b"".join(_sized(element) for element in tensor.pop("data"))
            tensor["parameters"] = {"binary_data_size": len(raw)}
            tail += raw
    head = json.dumps({"inputs": tensors}).encode()
    headers = {"content-type": "application/octet-stream" if tail else "application/json"}
    if tail:
        headers["inference-header-content-length"] = str(len(head))
    return head + tail, headers


def _sized(element: str | bytes) -> bytes:
    data = element.encode() if isinstance(element, str) else element
    return len(data).to_bytes(4, "little") + data


def _flat(name: str, value: Any) -> tuple[list[int], list[Any]]:
    """Shape and row-major elements of nested lists."""
    if not isinstance(value, list):
        return [], [value]
    parts = [_flat(name, item) for item in value]
    if any(shape != parts[0][0] for shape, _ in parts):
        raise InvalidTensor(f"input {name!r} is ragged: all its rows must have the same length", param=name)
    inner = parts[0][0] if parts else []
    return [len(value), *inner], [element for _, data in parts for element in data]


def _guess(data: list[Any]) -> str:
    kinds = {type(element) for element in data}
    if kinds <= {bool}:
        return "bool"
    if kinds <= {str}:
        return "bytes"
    return "int64" if kinds <= {int} else "float32"


def _response(text: str) -> list[Output]:
    """One event of a streamed prediction. Raises the error that it may be."""
    response = msgspec.json.decode(text, type=_Response)
    if response.error is not None:
        raise InferenceFailed(response.error)
    return [_output(item) for item in response.outputs]


def _output(item: _Tensor) -> Output:
    dtype = _DTYPES.get(item.datatype, item.datatype)
    return Output(item.name, dtype, item.shape, _nested(item.data, item.shape))


def _nested(data: list[Any], shape: tuple[int, ...]) -> Any:
    """Row-major elements as nested lists; data that is nested already stays as it is."""
    if not shape:
        return data[0] if data else None
    if len(shape) == 1 or (data and isinstance(data[0], list)):
        return data
    step = len(data) // shape[0] if shape[0] else 0
    return [_nested(data[row * step : (row + 1) * step], shape[1:]) for row in range(shape[0])]
