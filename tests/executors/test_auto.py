"""`runtime: auto`: what it chooses, what it refuses, what it keeps. The candidates here are fakes of known speed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference_engine.domain.choices import Candidate
from inference_engine.domain.errors import InferenceFailed, InvalidManifest, ModelLoadFailed, ModelNotReady
from inference_engine.domain.model import Execution, Manifest
from inference_engine.domain.ports import BatchResult, ExecutorStatus, Loaded, RuntimeInfo, StoredModel
from inference_engine.domain.requests import Chat, Complete, Generate, Message
from inference_engine.domain.results import Delta, Done, PositionLogprobs, TextDelta, TokenLogprob, Usage
from inference_engine.domain.tensors import Tensors
from inference_engine.infra.choices_file import ChoicesFile
from inference_engine.infra.executors.auto import AutoExecutor, _best
from inference_engine.testing import FakeClock


@dataclass
class Behaviour:
    """How one fake runtime behaves. Greedy, it counts its tokens on from the last one of the prompt."""

    token_s: float = 0.005
    logprob: float = -1.0
    step: int = 1
    split: int = 3
    fails: str = ""
    version: str = "1"
    available: bool = True
    adapters: tuple[str, ...] = ()
    breaks_after: int = 10**9
    answered: int = 0
    starts: list[Manifest] = field(default_factory=list)
    running: int = 0


class FakeRuntimeExecutor:
    batches_in_flight = 1

    def __init__(self, model: StoredModel, behaviour: Behaviour, clock: FakeClock) -> None:
        self.model = model
        self.clock = clock
        self.behaviour = behaviour
        self.stopped = False

    async def start(self) -> Loaded:
        self.behaviour.starts.append(self.model.manifest)
        if self.behaviour.fails:
            raise ModelLoadFailed(self.behaviour.fails)
        self.behaviour.running += 1
        assert self.behaviour.running == 1
        return Loaded(
            ("chat", "complete"),
            concurrency=4,
            adapters=self.behaviour.adapters,
            details={"library": self.model.manifest.runtime},
        )

    def run(self, parts: Sequence[Tensors], rows: Sequence[int]) -> Awaitable[BatchResult]:
        raise NotImplementedError

    async def generate(self, request: Generate) -> AsyncGenerator[Delta]:
        assert isinstance(request, Complete | Chat)
        prompt = await self.tokenize(request)
        self.behaviour.answered += 1
        if self.behaviour.answered > self.behaviour.breaks_after:
            raise InferenceFailed("broken in the middle")
        for index in range(request.sampling.max_tokens or 8):
            self.clock.advance(self.behaviour.token_s)
            await asyncio.sleep(0)
            token = prompt[-1] + self.behaviour.step * (index + 1)
            chosen = TokenLogprob(f"{token} ", self.behaviour.logprob, f"{token} ".encode())
            yield TextDelta(f"{token} ", (token,), (PositionLogprobs(chosen),))
        yield Done("length", Usage(len(prompt), request.sampling.max_tokens or 8))

    async def tokenize(self, request: Generate) -> tuple[int, ...]:
        if isinstance(request, Complete):
            text = request.prompt
            return text if isinstance(text, tuple) else tuple(range(len(text) // self.behaviour.split + 1))
        return (1,)

    async def stop(self, grace_s: float) -> None:
        if not self.stopped and not self.behaviour.fails:
            self.behaviour.running -= 1
        self.stopped = True

    def status(self) -> ExecutorStatus:
        return ExecutorStatus("fake", "stopped" if self.stopped else "ready")


class Bench:
    """Auto over two fakes; `slow` and `quick` are of the reference and of the other one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "model.gguf").write_bytes(b"GGUF" + bytes(1000))
        self.behaviours = {"llama_cpp": Behaviour(token_s=0.02), "openvino": Behaviour(token_s=0.005)}
        self.choices = ChoicesFile(folder / "state")
        self.gate = asyncio.Lock()
        self.clock = FakeClock()
        self.busy = False

    def names(self) -> tuple[str, ...]:
        return tuple(self.behaviours)

    def describe(self, name: str) -> RuntimeInfo:
        found = self.behaviours[name]
        return RuntimeInfo(name, found.available, found.version, "pip install it")

    def executor(self, artifact: str = "model.gguf", threads: int = 1, **options: object) -> AutoExecutor:
        manifest = Manifest("m", "1", "auto", artifact, execution=Execution(threads=threads), options=options)
        return AutoExecutor(
            StoredModel(manifest, self.folder),
            lambda model: FakeRuntimeExecutor(model, self.behaviours[model.manifest.runtime], self.clock),
            self,
            self.choices,
            self.gate,
            self.clock,
            lambda: self.busy,
        )

    async def chosen(self, **options: object) -> dict[str, Any]:
        executor = self.executor(**options)  # type: ignore[arg-type]
        loaded = await executor.start()
        await executor.stop(1)
        assert all(behaviour.running == 0 for behaviour in self.behaviours.values())
        about: dict[str, Any] = loaded.details["auto"]
        assert loaded.details["library"] == about["chosen"]
        return about

    @property
    def starts(self) -> int:
        return sum(len(behaviour.starts) for behaviour in self.behaviours.values())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize(("aim", "streams"), [("latency", "1 stream"), ("throughput", "16 streams")])
async def test_the_faster_one_that_agrees_is_chosen_and_shown(bench: Bench, aim: str, streams: str) -> None:
    about = await bench.chosen(aim=aim)
    assert about["chosen"] == "openvino"
    assert about["aim"] == aim
    assert about["why"].endswith(f"x llama_cpp at {streams}")
    reference, other = about["candidates"]
    assert other["tokens_per_s"] > reference["tokens_per_s"] > 0
    assert other["first_token_s"] > 0
    assert (other["difference"], other["alike"]) == (0, 1)
    assert reference["difference"] is None


def test_a_little_faster_is_not_worth_the_change() -> None:
    def best(tokens_per_s: float, refused: str = "") -> str:
        return _best([Candidate("llama_cpp", "1", 100.0), Candidate("openvino", "1", tokens_per_s, refused=refused)])

    assert [best(50), best(104), best(106), best(200, "differs")] == ["llama_cpp", "llama_cpp", "openvino", "llama_cpp"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"logprob": -1.5}, "0.500 mean difference of logprobs (tolerance 0.1)"),
        ({"step": 2}, "0% of the tokens alike"),
        ({"split": 4}, "into other tokens than the reference"),
        ({"fails": "the file has a bad head"}, "the file has a bad head"),
        ({"available": False}, "not installed: pip install it"),
    ],
)
async def test_one_that_answers_otherwise_is_refused_with_the_reason(
    bench: Bench, change: dict[str, Any], reason: str
) -> None:
    for name, value in change.items():
        setattr(bench.behaviours["openvino"], name, value)
    about = await bench.chosen()
    assert about["chosen"] == "llama_cpp"
    assert reason in about["candidates"][1]["refused"]
    assert about["why"] == "no other runtime can run it here"


async def test_a_wider_tolerance_accepts_more(bench: Bench) -> None:
    bench.behaviours["openvino"].logprob = -1.5
    assert (await bench.chosen(tolerance=0.6))["chosen"] == "openvino"


async def test_without_its_reference_nothing_is_chosen(bench: Bench) -> None:
    bench.behaviours["llama_cpp"].fails = "damaged"
    with pytest.raises(ModelLoadFailed, match="damaged"):
        await bench.executor().start()


async def test_the_choice_is_kept_until_something_changes(bench: Bench) -> None:
    await bench.chosen()
    assert bench.starts == 3  # each once to be measured, the chosen one to serve
    await bench.chosen()
    assert bench.starts == 4
    for change in (
        lambda: setattr(bench.behaviours["openvino"], "version", "2"),
        lambda: (bench.folder / "model.gguf").write_bytes(b"GGUF" + bytes(999) + b"x"),
        lambda: bench.choices.forget("m:1"),
    ):
        before = bench.starts
        change()
        await bench.chosen()
        assert bench.starts == before + 3
    before = bench.starts
    await bench.chosen(threads=2)
    assert bench.starts == before + 3


async def test_what_was_measured_on_a_busy_machine_is_measured_again_when_it_is_quiet(bench: Bench) -> None:
    bench.busy = True
    assert (await bench.chosen())["busy"]
    before = bench.starts
    await bench.chosen()
    assert bench.starts == before + 1
    bench.busy = False
    assert not (await bench.chosen())["busy"]
    assert bench.starts == before + 4
    await bench.chosen()
    assert bench.starts == before + 5


async def test_a_choice_that_no_longer_loads_is_made_again(bench: Bench) -> None:
    await bench.chosen()
    bench.behaviours["openvino"].fails = "gone"
    assert (await bench.chosen())["chosen"] == "llama_cpp"


async def test_two_that_ask_at_once_measure_once(bench: Bench) -> None:
    first, second = bench.executor(), bench.executor(aim="throughput")
    started = await asyncio.gather(first.start(), return_exceptions=True)
    await first.stop(1)
    assert isinstance(started[0], Loaded)
    before = bench.starts
    await second.start()  # another aim is another choice
    await second.stop(1)
    assert bench.starts == before + 3
    assert [choice.aim for choice in bench.choices.all()] == ["latency", "throughput"]


async def test_measuring_never_overlaps(bench: Bench) -> None:
    async def whole(aim: str) -> None:
        executor = bench.executor(aim=aim)
        await executor.start()  # `running` is asserted to be one at most
        await executor.stop(1)

    async with bench.gate:
        waiting = [asyncio.create_task(whole("latency"))]
        await asyncio.sleep(0.05)
        assert bench.starts == 0
    await asyncio.gather(*waiting)


async def test_each_runtime_gets_the_common_options_and_its_own(bench: Bench) -> None:
    await bench.chosen(
        aim="throughput",
        context_length=1024,
        sampling={"temperature": 0.5},
        llama_cpp={"n_batch": 64},
        openvino={"precision": "bf16"},
    )
    common = {"context_length": 1024, "sampling": {"temperature": 0.5}}
    assert bench.behaviours["llama_cpp"].starts[0].options == common | {"n_batch": 64}
    assert bench.behaviours["openvino"].starts[0].options == common | {"parallel": 64, "precision": "bf16"}


async def test_it_delegates_everything_to_the_chosen_one(bench: Bench) -> None:
    executor = bench.executor()
    assert executor.status().state == "starting"
    with pytest.raises(ModelNotReady):
        await executor.tokenize(Complete("abc"))
    await executor.start()
    assert executor.status() == ExecutorStatus("fake", "ready")
    assert executor.batches_in_flight == 1
    assert await executor.tokenize(Chat((Message("user", "x"),))) == (1,)
    deltas = [delta async for delta in executor.generate(Chat((Message("user", "x"),)))]
    assert isinstance(deltas[-1], Done)
    with pytest.raises(NotImplementedError):
        await executor.run([], [])
    await executor.stop(1)
    assert executor.status().state == "stopped"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aim": "speed"}, "aim"),
        ({"n_batch": 5}, "options.n_batch is not an option of runtime auto"),
        ({"tolerance": 0}, "tolerance"),
    ],
)
def test_a_bad_option_is_named(bench: Bench, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidManifest, match=message):
        bench.executor(**options)


async def test_only_gguf_files_leave_a_choice(bench: Bench) -> None:
    with pytest.raises(InvalidManifest, match="GGUF"):
        await bench.executor("model.onnx").start()
    with pytest.raises(InvalidManifest, match="cannot be read"):
        await bench.executor("gone.gguf").start()


def test_a_damaged_file_of_choices_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "auto.json").write_text("{nonsense")
    assert ChoicesFile(tmp_path).all() == []
    assert ChoicesFile(tmp_path).forget() == 0


async def test_kept_choices_are_read_back_whole(bench: Bench) -> None:
    await bench.chosen()
    (kept,) = bench.choices.all()
    assert kept.model == "m:1"
    assert bench.choices.find(kept.key) == kept
    assert bench.choices.find("other") is None
    assert bench.choices.forget("other:1") == 0
    assert msgspec.structs.asdict(kept)["chosen"] == "openvino"
    assert bench.choices.forget() == 1


@pytest.mark.parametrize("answers", [0, 1, 6])
async def test_a_runtime_that_breaks_is_refused(bench: Bench, answers: int) -> None:
    bench.behaviours["openvino"].breaks_after = answers
    about = await bench.chosen(aim="throughput")
    assert about["candidates"][1]["refused"] == "broken in the middle"


async def test_a_runtime_that_offers_less_is_refused(bench: Bench) -> None:
    bench.behaviours["llama_cpp"].adapters = ("polite",)
    about = await bench.chosen()
    assert about["chosen"] == "llama_cpp"
    assert about["candidates"][1]["refused"] == "it does not offer adapters polite"
