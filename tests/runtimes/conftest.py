"""Models and a sink for the runtime tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import inference_engine
from inference_engine.domain.model import Execution, Manifest
from inference_engine.domain.ports import Runtime
from inference_engine.domain.requests import Generate
from inference_engine.domain.results import Delivered, Delta, Done, TextDelta
from inference_engine.infra.runtimes.llama_cpp import LlamaCppRuntime
from tests.fixtures.tiny_gguf import Size, tiny_gguf

GUIDE = Path(inference_engine.__file__).parent / "infra/builtin_models/guide/1"


class Recorder:
    """A sink that keeps every delta; `cancel_when` is asked after each look at `cancelled`."""

    def __init__(self, cancel_when: Callable[[list[Delta]], bool] = lambda _: False) -> None:
        self.deltas: list[Delta] = []
        self.looks = 0
        self._cancel_when = cancel_when

    @property
    def cancelled(self) -> bool:
        self.looks += 1
        return self._cancel_when(self.deltas)

    def emit(self, *deltas: Delta) -> None:
        self.deltas.extend(deltas)

    @property
    def texts(self) -> list[TextDelta]:
        return [delta for delta in self.deltas if isinstance(delta, TextDelta)]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.texts)

    @property
    def done(self) -> Done:
        last = self.deltas[-1]
        assert isinstance(last, Done)
        return last


def answer(runtime: Runtime, request: Generate, delivered: Delivered = Delivered()) -> Recorder:  # noqa: B008  frozen
    sink = Recorder()
    runtime.generate(request, delivered, sink)
    assert [type(delta) for delta in sink.deltas].count(Done) == 1
    return sink


def delivered_of(deltas: list[TextDelta]) -> Delivered:
    """What a client has after these deltas, as an executor would note it."""
    pieces = tuple(delta.tokens or delta.text for delta in deltas)
    return Delivered("".join(d.text for d in deltas), pieces)


def llama_manifest(artifact: str = "model.gguf", **options: object) -> Manifest:
    return Manifest("m", "1", "llama_cpp", artifact, execution=Execution(threads=1), options={"parallel": 2, **options})


@pytest.fixture(scope="session")
def guide() -> Iterator[LlamaCppRuntime]:
    """The built-in chat model: trained, so that its greedy text is not on a knife's edge."""
    runtime = LlamaCppRuntime()
    runtime.load(llama_manifest("guide.gguf"), GUIDE)
    yield runtime
    runtime.close()


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model of a long context."""
    folder = tmp_path_factory.mktemp("random")
    tiny_gguf(folder / "model.gguf", Size(context=8192))
    return folder


@pytest.fixture(scope="session")
def random_model(random_folder: Path) -> Iterator[LlamaCppRuntime]:
    runtime = LlamaCppRuntime()
    runtime.load(llama_manifest(n_batch=64), random_folder)
    yield runtime
    runtime.close()
