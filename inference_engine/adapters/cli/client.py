"""What the commands need: the sockets to the composition root and to the models, wherever these run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec

if TYPE_CHECKING:  # numpy comes with these; `--help` must not wait for it
    from inference_engine.adapters.python_api import AsyncEngine
    from inference_engine.core.settings import Origins, Settings
    from inference_engine.domain.analysis import ImageAnalysis
    from inference_engine.domain.answers import Answer
    from inference_engine.domain.choices import ChoiceStore
    from inference_engine.domain.hardware import Hardware
    from inference_engine.domain.model import Manifest
    from inference_engine.domain.model_store import Changes
    from inference_engine.domain.native import NativeStatus
    from inference_engine.domain.ports import ModelRepository, RuntimeInfo
    from inference_engine.domain.results import Embeddings, Ranking, Usage
    from inference_engine.domain.video_analysis import VideoAnalysis

Messages = Sequence[Mapping[str, str]]


class TextStream(Protocol):
    """Pieces of one answer. After the last piece `usage` and `finish_reason` are set; `close` stops the compute."""

    @property
    def usage(self) -> Usage | None: ...

    @property
    def finish_reason(self) -> str | None: ...

    def __iter__(self) -> Iterator[str]: ...

    def __next__(self) -> str: ...

    def close(self) -> None: ...


class Step(msgspec.Struct, frozen=True):
    """One step of a change of models. With a digest, `completed` of `total` bytes of that file are there."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


class NewModel(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is to be made from: another one, or files of this machine; and what is changed."""

    base: str | None = None
    files: tuple[Path, ...] = ()
    adapters: tuple[Path, ...] = ()
    system: str | None = None
    template: str | None = None
    licence: str | None = None
    parameters: dict[str, Any] = {}


class Engine(Protocol):
    """The Python API, as far as the commands use it (`adapters/python_api.py`)."""

    def models(self) -> Sequence[msgspec.Struct]: ...

    def show(self, target: str) -> tuple[msgspec.Struct, Manifest]: ...

    def load(self, target: str) -> msgspec.Struct: ...

    def unload(self, target: str) -> int: ...

    def predict(self, target: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]: ...

    def predict_stream(self, target: str, inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]: ...

    def generate(self, target: str, messages: Any = None, **sampling: Any) -> TextStream: ...

    def pull(self, name: str) -> Iterator[msgspec.Struct]: ...

    def create(
        self,
        name: str,
        *,
        base: str | None = None,
        files: Sequence[Path | str] = (),
        adapters: Sequence[Path | str] = (),
        changes: Changes | None = None,
    ) -> Iterator[msgspec.Struct]: ...

    def copy(self, source: str, destination: str) -> object: ...

    def delete(self, target: str) -> object: ...

    def embed(self, target: str, texts: Any, *, dimensions: int | None = None) -> Embeddings: ...

    def rerank(self, target: str, query: str, documents: Sequence[str]) -> Ranking: ...

    def transcribe(self, target: str, audio: Any, **options: Any) -> Answer: ...

    def analyze_images(self, images: Any, **options: Any) -> ImageAnalysis: ...

    def analyze_video(self, video: Any, **options: Any) -> VideoAnalysis: ...


class NativeLibrary(Protocol):
    """A library that can be built for this machine's processor. Raises `EngineError`."""

    def status(self) -> NativeStatus: ...

    def build(
        self, progress: Callable[[str, float], None], *, source: str | None = None, jobs: int | None = None
    ) -> NativeStatus:
        """Build it and have runners use it; takes minutes. `progress` is told what is done, and how much, 0 to 1."""

    def remove(self) -> bool:
        """Take it away; False when there was none."""


class Composition(Protocol):
    """What the composition root does for the commands. Every method imports what it needs when it is called."""

    @property
    def version(self) -> str:
        """The version of this program."""

    def settings(self, flags: Mapping[str, object]) -> tuple[Settings, Origins]:
        """Settings from these flags, the environment and the file. Raises `SettingsError`."""

    def serve(self, settings: Settings) -> None:
        """Serve until told to stop. Blocking."""

    def engine(self, settings: Settings) -> AbstractContextManager[Engine]:
        """The models in this process."""

    def async_engine(self, settings: Settings) -> AsyncEngine:
        """The same for a program with an event loop of its own; not entered yet."""

    def repository(self, settings: Settings) -> ModelRepository: ...

    def runtimes(self) -> Sequence[RuntimeInfo]: ...

    def choices(self, settings: Settings) -> ChoiceStore:
        """What `runtime: auto` has chosen."""

    def hardware(self) -> Hardware: ...

    def native_build(self, settings: Settings) -> NativeLibrary:
        """llama.cpp built for this machine."""

    def manifest_yaml(self, manifest: Manifest) -> str:
        """The manifest as the text of a `model.yaml`."""


class ModelView(msgspec.Struct, frozen=True):
    """One model as a server's admin interface describes it; the process's own models are brought to the same shape."""

    name: str
    version: str
    runtime: str = ""
    task: str = ""
    state: str = ""
    executor: str = ""
    pid: int | None = None
    memory_bytes: int = 0
    size_bytes: int = 0
    in_flight: int = 0
    queued: int = 0
    restarts: int = 0
    loaded_at: datetime | None = None
    last_used_at: datetime | None = None
    error: dict[str, Any] | None = None
    description: str = ""
    licence: str = ""
    tags: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    signature: dict[str, Any] | None = None
    context_length: int | None = None
    routes: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    details: dict[str, Any] = {}

    @property
    def target(self) -> str:
        return f"{self.name}:{self.version}"


class Output(msgspec.Struct, frozen=True):
    """One output tensor in plain Python: nested lists, strings for `bytes`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Any


class Vectors(msgspec.Struct, frozen=True):
    """A vector for each text, and the prompt tokens of all."""

    embeddings: list[list[float]]
    prompt_tokens: int


class Scores(msgspec.Struct, frozen=True):
    """A score for each document, in their order, and the prompt tokens of all."""

    scores: list[float]
    prompt_tokens: int


class Segment(msgspec.Struct, frozen=True):
    """What was spoken from `start_s` to `end_s`."""

    start_s: float
    end_s: float
    text: str


class Transcript(msgspec.Struct, frozen=True):
    """What was spoken; `segments` only where times were asked for."""

    text: str
    segments: list[Segment]


class SeenLabel(msgspec.Struct, frozen=True):
    label: str
    score: float


class SeenObject(msgspec.Struct, frozen=True):
    """`box` is x0, y0, x1, y1 in pixels of the upright image."""

    label: str
    score: float
    box: tuple[float, float, float, float]


class SeenImage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was found in one image; None is what was not asked."""

    labels: list[SeenLabel] | None = None
    objects: list[SeenObject] | None = None
    description: str | None = None
    embedding: list[float] | None = None


class SeenBy(msgspec.Struct, frozen=True):
    model: str
    version: str


class Seen(msgspec.Struct, frozen=True):
    """What was found in each image, and by which model for each task."""

    results: list[SeenImage]
    models: dict[str, SeenBy]


class SeenScene(msgspec.Struct, frozen=True):
    start_s: float
    end_s: float


class SeenTrack(msgspec.Struct, frozen=True):
    """An object that was followed, and from when to when."""

    id: int
    label: str
    first_s: float
    last_s: float


class SeenVideo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was found in a video; None is what was not asked."""

    sampled: int
    models: dict[str, SeenBy]
    labels: list[SeenLabel] | None = None
    scenes: list[SeenScene] | None = None
    tracks: list[SeenTrack] | None = None
    description: str | None = None


class Client(Protocol):
    """Models in this process or on a server. All methods block and raise `EngineError`."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def models(self) -> list[ModelView]: ...

    def broken(self) -> list[str]:
        """What is wrong with each folder that looks like a model and cannot be used."""

    def show(self, target: str) -> tuple[ModelView, Manifest]: ...

    def load(self, target: str) -> ModelView: ...

    def unload(self, target: str) -> int:
        """Unload a model; the bytes of memory that came back."""

    def predict(self, target: str, inputs: Mapping[str, Any]) -> list[Output]: ...

    def predict_stream(self, target: str, inputs: Mapping[str, Any]) -> Iterator[list[Output]]:
        """Each response of a model that may give several, as it comes."""

    def generate(self, target: str, messages: Messages, sampling: Mapping[str, Any]) -> TextStream: ...

    def pull(self, name: str) -> Iterator[Step]:
        """Fetch a model from a registry or hub."""

    def create(self, name: str, new: NewModel) -> Iterator[Step]:
        """Make a model from another one or from files of this machine."""

    def copy(self, source: str, destination: str) -> None: ...

    def delete(self, target: str) -> None: ...

    def embed(self, target: str, texts: Sequence[str], dimensions: int | None) -> Vectors: ...

    def rerank(self, target: str, query: str, documents: Sequence[str]) -> Scores: ...

    def transcribe(self, target: str, audio: bytes, *, timestamps: bool, translate: bool, **options: str) -> Transcript:
        """`options` are `language` and `prompt`."""

    def analyze_images(self, images: Sequence[bytes], tasks: Sequence[str], **options: Any) -> Seen:
        """`options` are `model`, `top_k`, `threshold`, `prompt` and `max_tokens`, where they were given."""

    def analyze_video(self, video: bytes, tasks: Sequence[str], *, every_s: float, **options: Any) -> SeenVideo:
        """A picture is looked at every `every_s` seconds; `options` are as for images."""
