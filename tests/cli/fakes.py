"""A composition root of fakes: an engine with one chat model and one tabular model, and the same behind HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np

from inference_engine.adapters.cli.client import ModelView, Step
from inference_engine.core.settings import Origins, Settings
from inference_engine.domain.analysis import Detection, Findings, ImageAnalysis, Label, TaskReport
from inference_engine.domain.answers import Answer
from inference_engine.domain.errors import EngineError, InvalidTensor, ModelNotFound, Unavailable, UnsupportedTask
from inference_engine.domain.hardware import Cpu, Hardware, Memory
from inference_engine.domain.model import Manifest, ModelRef
from inference_engine.domain.model_store import Changes
from inference_engine.domain.native import NativeStatus
from inference_engine.domain.ports import BrokenModel, RuntimeInfo, StoredModel
from inference_engine.domain.results import Embeddings, Ranking, SegmentDelta, Served, TextDelta, Usage
from inference_engine.domain.video import VideoInfo
from inference_engine.domain.video_analysis import FrameFindings, Scene, Sighting, Track, VideoAnalysis
from inference_engine.infra.choices_file import ChoicesFile

IRIS = {"inputs": [{"name": "input", "dtype": "float32", "shape": [-1, 4]}], "outputs": []}


class FakeStream:
    """Pieces that were thought of before. `stop_after` raises Ctrl-C at that piece."""

    def __init__(self, pieces: Sequence[str], stop_after: int | None = None) -> None:
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.closed = False
        self._pieces = self._give(pieces, stop_after)

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def __next__(self) -> str:
        return next(self._pieces)

    def _give(self, pieces: Sequence[str], stop_after: int | None) -> Iterator[str]:
        for index, piece in enumerate(pieces):
            if index == stop_after:
                raise KeyboardInterrupt
            yield piece
        self.usage, self.finish_reason = Usage(7, len(pieces), 3), "stop"

    def close(self) -> None:
        self.closed = True


class FakeEngine:
    """Answers a conversation with what it was sent, and a table with the sums of its rows."""

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.made: list[tuple[str, dict[str, Any]]] = []
        self.deleted: list[str] = []
        self.asked: list[tuple[list[dict[str, str]], dict[str, Any]]] = []
        self.stop_after: int | None = None
        self.streams: list[FakeStream] = []
        self.heard: list[tuple[bytes, dict[str, Any]]] = []

    def models(self) -> list[ModelView]:
        return [self._status("guide"), self._status("iris")]

    def _status(self, target: str) -> ModelView:
        name = target.partition(":")[0]
        if target not in ("guide", "guide:1", "iris", "iris:1"):
            raise ModelNotFound(f"there is no model {target!r}: did you mean 'guide'?")
        tabular = name == "iris"
        return ModelView(
            name=name,
            version="1",
            runtime="onnx" if tabular else "llama_cpp",
            task="tabular-classification" if tabular else "text-generation",
            state="ready" if name in self.loaded else "unloaded",
            size_bytes=1536,
            memory_bytes=64 << 20 if name in self.loaded else 0,
            signature=IRIS if tabular else None,
            routes=(name,),
        )

    def show(self, target: str) -> tuple[ModelView, Manifest]:
        status = self._status(target)
        manifest = Manifest(name=status.name, version="1", runtime=status.runtime, artifact="a", task=status.task)
        return status, manifest

    def load(self, target: str) -> ModelView:
        self.loaded.add(self._status(target).name)
        return self._status(target)

    def unload(self, target: str) -> int:
        self.loaded.discard(self._status(target).name)
        return 64 << 20

    def predict(self, target: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if self._status(target).name != "iris":
            raise UnsupportedTask(f"{target} does not predict")
        if set(inputs) != {"input"}:
            raise InvalidTensor(f"input {next(iter(inputs))!r} is unknown; the model takes ['input']", param="input")
        rows = np.asarray(inputs["input"], dtype="float32")
        labels = np.array([b"big" if total > 10 else b"small" for total in rows.sum(axis=1)], dtype=object)
        return {"sum": rows.sum(axis=1), "label": labels, "twice": rows * 2}

    def generate(self, target: str, messages: Any = None, **sampling: Any) -> FakeStream:
        if self._status(target).name != "guide":
            raise UnsupportedTask(f"{target} does not chat")
        self.asked.append((list(messages), sampling))
        self.streams.append(FakeStream(["You ", "said: ", messages[-1]["content"]], self.stop_after))
        return self.streams[-1]

    def pull(self, name: str) -> Iterator[Step]:
        if name == "nobody":
            raise ModelNotFound("model nobody is not found: check the name and the tag")
        yield Step("pulling manifest")
        yield Step("pulling abc", "sha256:abc", 10, 4)
        if name == "broken":
            raise Unavailable("the registry broke off")
        yield Step("pulling abc", "sha256:abc", 10, 10)
        yield Step("success")

    def create(self, name: str, **what: Any) -> Iterator[Step]:
        self.made.append((name, what))
        yield Step("success")

    def copy(self, source: str, destination: str) -> None:
        self.made.append((destination, {"base": self._status(source).name}))

    def delete(self, target: str) -> None:
        self.deleted.append(self._status(target).name)

    def embed(self, target: str, texts: Sequence[str], *, dimensions: int | None = None) -> Embeddings:
        vectors = np.array([[len(text), text.count(" ") + 1, 1, 0, 0.5] for text in texts], np.float32)
        return Embeddings(vectors[:, :dimensions], 7, self._served(target))

    def rerank(self, target: str, query: str, documents: Sequence[str]) -> Ranking:
        return Ranking(np.array([query in text for text in documents], np.float32), 9, self._served(target))

    def transcribe(self, target: str, audio: bytes, *, timestamps: bool, translate: bool, **options: str) -> Answer:
        self._served(target)
        self.heard.append((audio, {"timestamps": timestamps, "translate": translate, **options}))
        answer = Answer()
        for second, word in enumerate((" one", " two")):
            answer.add(SegmentDelta(word, start_s=second, end_s=second + 1) if timestamps else TextDelta(word))
        return answer

    def analyze_images(self, images: Sequence[bytes], *, tasks: Sequence[str] = (), **options: Any) -> ImageAnalysis:
        if options.get("model") is not None:
            self._served(options["model"])
        self.heard.append((b"".join(images), {"tasks": list(tasks), **options}))
        found = [
            Findings((Label("cat", 0.75),), (Detection("cat", 0.5, (1, 2, 30, 40)),), None, None)
            if image != b"empty"
            else Findings((), (), "Nothing\x1b[2J\nhere.", np.array([1, 2], np.float32))
            for image in images
        ]
        served = Served(ModelRef("guide", "1"), "guide", "latest")
        return ImageAnalysis(tuple(found), (TaskReport("classify", served, 0.1),), 0.1)

    def analyze_video(self, video: bytes, *, tasks: Sequence[str] = (), **options: Any) -> VideoAnalysis:
        self.heard.append((video, {"tasks": list(tasks), **options}))
        served = Served(ModelRef("guide", "1"), "guide", "latest")
        box = (1.0, 2.0, 30.0, 40.0)
        track = Track(1, "cat", (Sighting(0, 0.0, 0.9, box), Sighting(1, 1.0, 0.8, box)))
        return VideoAnalysis(
            VideoInfo("mp4", "h264", 64, 48, 10.0, 2.0, 20),
            0,
            (FrameFindings(0, 0.0), FrameFindings(1, 1.0)),
            None,
            (Scene(0.0, 2.0, 0, 1),),
            (track,),
            None,
            None,
            (TaskReport("detect", served, 0.1),),
            0.1,
        )

    def _served(self, target: str) -> Served:
        if self._status(target).name != "guide":
            raise UnsupportedTask(f"{target} does not do that")
        return Served(ModelRef("guide", "1"), target, "latest")


class FakeRepository:
    def __init__(self, models: list[StoredModel], broken: list[BrokenModel]) -> None:
        self._found = models, broken

    def scan(self) -> tuple[list[StoredModel], list[BrokenModel]]:
        return self._found

    def verify(self, model: StoredModel) -> None:
        raise NotImplementedError


class FakeNative:
    """A native build that takes no time; `fail` is raised instead."""

    def __init__(self) -> None:
        self.current = NativeStatus("absent", "/state/native", features=("avx512_vnni",))
        self.fail: EngineError | None = None
        self.asked: list[tuple[str | None, int | None]] = []

    def status(self) -> NativeStatus:
        return self.current

    def build(
        self, progress: Callable[[str, float], None], *, source: str | None = None, jobs: int | None = None
    ) -> NativeStatus:
        self.asked.append((source, jobs))
        if self.fail is not None:
            raise self.fail
        for share in (0.0, 0.01, 0.5, 0.51, 1.0):
            progress("compiling", share)
        self.current = NativeStatus("active", "/state/native", "1.0")
        return self.current

    def remove(self) -> bool:
        found, self.current = self.current.state != "absent", NativeStatus("absent", "/state/native")
        return found


class FakeComposition:
    """A `Composition` whose parts a test can replace before it runs a command."""

    version = "1.2.3"

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        self.port = 1  # no server is there: nothing that happens to run on this machine may answer a test
        self.environ = {"HOME": str(cwd)}
        self.served: list[Settings] = []
        self.fake = FakeEngine()
        self.native = FakeNative()
        self.stored: list[StoredModel] = []
        self.broken: list[BrokenModel] = []
        self.known = [RuntimeInfo("onnx", True, "1.2"), RuntimeInfo("torch", False, remedy="pip install torch")]

    def settings(self, flags: Mapping[str, object]) -> tuple[Settings, Origins]:
        return Settings.load({"port": self.port} | dict(flags), self.environ, self.cwd)

    def native_build(self, settings: Settings) -> FakeNative:
        return self.native

    def serve(self, settings: Settings) -> None:
        self.served.append(settings)

    def engine(self, settings: Settings) -> AbstractContextManager[FakeEngine]:
        @contextmanager
        def opened() -> Iterator[FakeEngine]:
            yield self.fake

        return opened()

    def async_engine(self, settings: Settings) -> Any:
        raise NotImplementedError("what needs one is tested with the real composition")

    def repository(self, settings: Settings) -> FakeRepository:
        return FakeRepository(self.stored, self.broken)

    def runtimes(self) -> list[RuntimeInfo]:
        return self.known

    def choices(self, settings: Settings) -> ChoicesFile:
        return ChoicesFile(settings.state_dir)

    def hardware(self) -> Hardware:
        return Hardware(Cpu("Test CPU", "x86_64", 8, 4, None, ("avx2",)), Memory(8 << 30, 4 << 30))

    def manifest_yaml(self, manifest: Manifest) -> str:
        return f"name: {manifest.name}\n"


def _lines(steps: Iterator[Step]) -> httpx.Response:
    """Steps as lines of JSON; an error before the first is the answer's own, a later one the last line."""
    lines = [msgspec.json.encode(next(steps))]
    try:
        lines += [msgspec.json.encode(step) for step in steps]
    except EngineError as error:
        lines.append(json.dumps({"error": error.message}).encode())
    return httpx.Response(200, content=b"\n".join(lines) + b"\n")


class FakeServer:
    """The server's endpoints over a `FakeEngine`, as a handler for `httpx.MockTransport`."""

    def __init__(self, engine: FakeEngine, broken: Sequence[BrokenModel] = ()) -> None:
        self.engine = engine
        self.broken = broken
        self.requests: list[httpx.Request] = []
        self.cut = False
        self.blobs: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        try:
            return self._answer(request)
        except EngineError as error:
            status = 404 if isinstance(error, ModelNotFound) else 400
            if request.url.path.startswith(("/v2", "/api")):
                return httpx.Response(status, json={"error": error.message})
            return httpx.Response(status, json={"error": {"message": error.message, "code": error.code, "param": None}})

    def _answer(self, request: httpx.Request) -> httpx.Response:  # noqa: PLR0911 - one for each kind of endpoint
        match request.method, request.url.path.strip("/").split("/"):
            case "POST", ["v2", "models", name, *_, "infer"]:
                return self._infer(name, json.loads(request.content))
            case "POST", ["v1", "audio", kind]:
                return self._listen(kind, request.content.decode())
            case "POST", ["inference", kind]:
                return self._watch(request) if kind == "video" else self._look(request)
            case "POST", ["v1", kind, *_]:
                answers = {"chat": self._chat, "embeddings": self._embed, "rerank": self._rerank}
                return answers[kind](json.loads(request.content))
            case method, ["admin", "models", *rest]:
                return httpx.Response(200, json=self._admin(method, rest))
            case method, ["api", what, *rest]:
                return self._store(method, what, rest, request)
        return httpx.Response(404, text="nothing here")

    def _store(self, method: str, what: str, rest: list[str], request: httpx.Request) -> httpx.Response:
        """Ollama's endpoints that change models."""
        if what == "blobs":
            self.blobs += [rest[0]] if method == "POST" else []
            return httpx.Response(201 if method == "POST" or rest[0] in self.blobs else 404)
        body = json.loads(request.content)
        match what:
            case "pull":
                return _lines(self.engine.pull(body["model"]))
            case "create":
                files = tuple(body.get("files", ()))
                changes = Changes(system=body.get("system"), parameters=body.get("parameters", {}))
                return _lines(self.engine.create(body["model"], base=body.get("from"), files=files, changes=changes))
            case "copy":
                self.engine.copy(body["source"], body["destination"])
            case "delete":
                self.engine.delete(body["model"])
        return httpx.Response(200)

    def _admin(self, method: str, rest: list[str]) -> Any:
        target = ":".join(rest[:2])
        match method, rest[2:]:
            case "POST", ["load"]:
                return msgspec.to_builtins(self.engine.load(target))
            case "POST", ["unload"]:
                return {"memory_returned_bytes": self.engine.unload(target)}
        if not rest:
            broken = [{"folder": str(item.folder), "message": item.message} for item in self.broken]
            return {"models": msgspec.to_builtins(self.engine.models()), "broken": broken}
        status, manifest = self.engine.show(target)
        return msgspec.to_builtins(status) | {"manifest": msgspec.to_builtins(manifest)}

    def _infer(self, name: str, body: Any) -> httpx.Response:
        inputs = {item["name"]: np.reshape(item["data"], item["shape"]) for item in body["inputs"]}
        datatypes = {"float32": "FP32", "object": "BYTES"}
        outputs = [
            {
                "name": key,
                "datatype": datatypes[array.dtype.name],
                "shape": list(array.shape),
                "data": [item.decode() if isinstance(item, bytes) else item for item in array.ravel().tolist()],
            }
            for key, array in self.engine.predict(name, inputs).items()
        ]
        return httpx.Response(200, json={"model_name": name, "outputs": outputs})

    def _embed(self, body: Any) -> httpx.Response:
        found = self.engine.embed(body["model"], body["input"], dimensions=body["dimensions"])
        data = [{"index": index, "embedding": vector} for index, vector in enumerate(found.vectors.tolist())]
        return httpx.Response(200, json={"data": data, "usage": {"prompt_tokens": found.prompt_tokens}})

    def _rerank(self, body: Any) -> httpx.Response:
        found = self.engine.rerank(body["model"], body["query"], body["documents"])
        results = [{"index": i, "relevance_score": score} for i, score in enumerate(found.scores.tolist())]
        results.sort(key=lambda result: -result["relevance_score"])
        return httpx.Response(200, json={"results": results, "usage": {"prompt_tokens": found.prompt_tokens}})

    def _listen(self, kind: str, form: str) -> httpx.Response:
        fields = {
            part.partition('name="')[2].partition('"')[0]: part.partition("\r\n\r\n")[2].rstrip("\r\n")
            for part in form.split(form.partition("\r\n")[0])
        }
        timestamps, translate = fields["response_format"] == "verbose_json", kind == "translations"
        options = {name: fields[name] for name in ("language", "prompt") if name in fields}
        audio = fields["file"].encode()
        found = self.engine.transcribe(fields["model"], audio, timestamps=timestamps, translate=translate, **options)
        spans = [{"start": span.start_s, "end": span.end_s, "text": span.text} for span in found.segments]
        return httpx.Response(200, json={"text": found.text.strip(), **({"segments": spans} if timestamps else {})})

    def _watch(self, request: httpx.Request) -> httpx.Response:
        fields, (video,) = self._form(request)
        sampling = json.loads(fields.pop("sample"))
        found = self.engine.analyze_video(video, tasks=fields.pop("tasks").split(","), sampling=sampling, **fields)
        models = {one.task: {"model": one.served.ref.name, "version": "1", "latency_ms": 1} for one in found.reports}
        tracks = [
            {"id": one.id, "label": one.label, "first_s": one.sightings[0].time_s, "last_s": one.sightings[-1].time_s}
            for one in found.tracks or ()
        ]
        scenes = [{"start_s": one.start_s, "end_s": one.end_s} for one in found.scenes or ()]
        body = {"sampled": len(found.frames), "models": models, "scenes": scenes, "tracks": tracks, "latency_ms": 1}
        return httpx.Response(200, json=body)

    @staticmethod
    def _form(request: httpx.Request) -> tuple[dict[str, Any], list[bytes]]:
        """The fields and the files."""
        mark = b"\r\n--" + request.headers["content-type"].partition("boundary=")[2].encode()
        parts = [part.partition(b"\r\n\r\n") for part in (b"\r\n" + request.content).split(mark)[1:-1]]
        named = [(head.partition(b'name="')[2].partition(b'"')[0].decode(), data) for head, _, data in parts]
        fields: dict[str, Any] = {name: data.decode() for name, data in named if name != "file"}
        return fields, [data for name, data in named if name == "file"]

    def _look(self, request: httpx.Request) -> httpx.Response:
        fields, images = self._form(request)
        tasks = [task for task in fields.pop("tasks").split(",") if task]
        fields |= {name: int(fields[name]) for name in ("top_k", "max_tokens") if name in fields}
        fields |= {name: float(fields[name]) for name in ("threshold",) if name in fields}
        found = self.engine.analyze_images(images, tasks=tasks, **fields)
        results = [
            {
                "labels": [{"label": one.name, "score": one.score} for one in image.labels or ()],
                "objects": [{"label": one.label, "score": one.score, "box": one.box} for one in image.objects or ()],
                "description": image.description,
                "embedding": None if image.embedding is None else image.embedding.tolist(),
            }
            for image in found.images
        ]
        models = {one.task: {"model": one.served.ref.name, "version": "1", "latency_ms": 1} for one in found.reports}
        return httpx.Response(200, json={"results": results, "models": models, "latency_ms": 1})

    def _chat(self, body: Any) -> httpx.Response:
        known = {"model", "messages", "stream", "stream_options"}
        sampling = {name: value for name, value in body.items() if name not in known}
        stream = self.engine.generate(body["model"], body["messages"], **sampling)
        events = [{"choices": [{"delta": {"role": "assistant"}, "finish_reason": None}]}]
        events += [{"choices": [{"delta": {"content": piece}, "finish_reason": None}]} for piece in stream]
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 3}}
        events += [{"choices": [{"delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": usage}]
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        return httpx.Response(
            200, text=": hello\n\n" + "".join(lines[:2] if self.cut else [*lines, "data: [DONE]\n\n"])
        )
