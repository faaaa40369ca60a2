"""Ensembles over fakes: what is checked before they run, and how a request goes through the stages."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import numpy as np
import pytest

from inference_engine.domain.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidManifest,
    InvalidTensor,
    ModelLoadFailed,
    ModelNotReady,
    QueueFull,
    UnsupportedTask,
)
from inference_engine.domain.jobs import PRIORITY
from inference_engine.domain.model import EnsembleSpec, Execution, Manifest, ModelRef, Signature, Stage, TensorSpec
from inference_engine.domain.requests import Call, Chat, Message, Predict, Principal
from inference_engine.domain.tensors import Tensors
from inference_engine.services.inference import InferenceService
from inference_engine.services.models import ModelService
from inference_engine.testing import (
    FakeClock,
    FakeExecutor,
    FakeExecutors,
    FakeRepository,
    FakeRoutes,
    RecordingTelemetry,
    manifest,
)

CALL = Call("1", Principal("default", "local"))
ROWS = np.array([[1, 2], [3, 4]], np.float32)


def signature(width: int = 2, out: int | None = None, dtype: str = "float32") -> Signature:
    return Signature((TensorSpec("x", dtype, (-1, width)),), (TensorSpec("y", dtype, (-1, out or width)),))


PAIR = Signature(
    (TensorSpec("a", "float32", (-1, 2)), TensorSpec("b", "float32", (-1, 2))), (TensorSpec("y", "float32", (-1, 2)),)
)


def ensemble(name: str, *stages: tuple[str, dict[str, str], dict[str, str]], **fields: Any) -> Manifest:
    made = EnsembleSpec(tuple(Stage(model, inputs, outputs) for model, inputs, outputs in stages))
    return Manifest(name=name, version="1", runtime="ensemble", ensemble=made, **fields)


def model(compute: Any = None, shape: Signature | None = None, **options: Any) -> FakeExecutor:
    return FakeExecutor(shape or signature(), compute=compute, **options)


def adds(number: float) -> Any:
    return lambda batch: {"y": batch["x"] + np.float32(number)}


CHAIN = ensemble("chain", ("first", {"x": "in"}, {"y": "middle"}), ("second", {"x": "middle"}, {"y": "out"}))
DIAMOND = ensemble(
    "diamond",
    ("first", {"x": "in"}, {"y": "shared"}),
    ("left", {"x": "shared"}, {"y": "l"}),
    ("right", {"x": "shared"}, {"y": "r"}),
    ("join", {"a": "l", "b": "r"}, {"y": "out"}),
)


class World:
    """A service over ensembles and fake models, whose names are keywords."""

    def __init__(self, *ensembles: Manifest, execution: Execution | None = None, **models: FakeExecutor) -> None:
        self.fakes = FakeExecutors({f"{name}:1": executor for name, executor in models.items()})
        self.clock = FakeClock()
        self.telemetry = RecordingTelemetry()
        plain = [manifest(name, execution=execution or Execution()) for name in models]
        self.repository = FakeRepository(*plain, *ensembles)
        self.models = ModelService(self.repository, self.fakes, FakeRoutes(), self.telemetry, self.clock)
        self.models.refresh()
        self.inference = InferenceService(self.models, self.telemetry, self.clock)

    def add(self, name: str, version: str, executor: FakeExecutor) -> None:
        self.repository.models.append(manifest(name, version))
        self.fakes.executors[f"{name}:{version}"] = executor
        self.models.refresh()

    async def load(self, name: str) -> None:
        await self.models.load(ModelRef(name, "1"))

    async def ask(self, name: str, call: Call = CALL, **inputs: Any) -> Tensors:
        return (await self.inference.predict(name, Predict(inputs or {"in": ROWS}), call)).outputs

    def state(self, name: str) -> tuple[str, str | None]:
        status = self.models.status(ModelRef(name, "1"))
        return status.state, status.error.message if status.error else None


def chain(**models: FakeExecutor) -> World:
    return World(CHAIN, **{"first": model(adds(1)), "second": model(adds(10)), **models})


def diamond(**models: FakeExecutor) -> World:
    fakes = {
        "first": model(adds(1)),
        "left": model(adds(10)),
        "right": model(adds(100)),
        "join": model(lambda batch: {"y": batch["a"] * 1000 + batch["b"]}, PAIR),
    }
    return World(DIAMOND, **{**fakes, **models})


# -- computing ---------------------------------------------------------------------------------------------------------


async def test_stages_follow_each_other_and_everything_is_counted() -> None:
    world = chain()
    answer = await world.inference.predict("chain", Predict({"in": ROWS}), CALL)
    assert np.array_equal(answer.outputs["out"], ROWS + 11)
    assert list(answer.outputs) == ["out"]
    assert (answer.served.ref, answer.served.rule) == (ModelRef("chain", "1"), "latest")
    assert [(ref.name, outcome) for ref, _, outcome in world.telemetry.requests] == [
        ("first", "ok"),
        ("second", "ok"),
        ("chain", "ok"),
    ]
    for name in ("first", "second", "chain"):
        counts = world.models.statistics(ModelRef(name, "1"))
        assert (counts.success.count, counts.inferences, counts.executions) == (1, 2, 1)
    assert world.models.signature(ModelRef("chain", "1")) == Signature(
        (TensorSpec("in", "float32", (-1, 2)),), (TensorSpec("out", "float32", (-1, 2)),)
    )


async def test_branches_run_at_the_same_time_and_join() -> None:
    left, right = model(adds(10), hold=0), model(adds(100), hold=0)
    world = diamond(left=left, right=right)
    asked = asyncio.create_task(world.ask("diamond"))
    await asyncio.wait_for(asyncio.gather(left.waiting.wait(), right.waiting.wait()), 5)
    right.go.set()
    left.go.set()
    shared = ROWS + 1
    assert np.array_equal((await asked)["out"], (shared + 10) * 1000 + shared + 100)


async def test_requests_are_merged_in_each_stage_on_its_own() -> None:
    world = chain(second=model(adds(10), hold=0))
    second = world.fakes.executors["second:1"]
    first = asyncio.create_task(world.ask("chain"))
    await asyncio.wait_for(second.waiting.wait(), 5)
    others = [asyncio.create_task(world.ask("chain", **{"in": ROWS + number})) for number in range(3)]
    while world.models.status(ModelRef("second", "1")).queued < 3:
        await asyncio.sleep(0)
    second.go.set()
    await first
    for number, other in enumerate(others):
        assert np.array_equal((await other)["out"], ROWS + number + 11)
    assert sorted(world.models.statistics(ModelRef("second", "1")).batches) == [2, 6]


async def test_an_ensemble_inside_an_ensemble_and_outputs_that_are_asked_for() -> None:
    outer = ensemble("outer", ("chain:1", {"in": "a"}, {"out": "b"}), ("first", {"x": "b"}, {"y": "c"}))
    outer = outer.__class__(**{**_fields(outer), "signature": Signature(*_outer_signature())})
    world = World(CHAIN, outer, first=model(adds(1)), second=model(adds(10)))
    answer = await world.inference.predict("outer", Predict({"a": ROWS}, ("c",)), CALL)
    assert list(answer.outputs) == ["c"]
    assert np.array_equal(answer.outputs["c"], ROWS + 12)
    assert world.models.statistics(ModelRef("first", "1")).success.count == 2
    assert world.models.status(ModelRef("outer", "1")).details == {"stages": ["chain:1", "first:1"]}
    with pytest.raises(InvalidTensor, match="output 'd' is unknown"):
        await world.inference.predict("outer", Predict({"a": ROWS}, ("d",)), CALL)


def _fields(made: Manifest) -> dict[str, Any]:
    return {name: getattr(made, name) for name in made.__struct_fields__}


def _outer_signature() -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    a, b, c = (TensorSpec(name, "float32", (-1, -1)) for name in "abc")
    return (a,), (b, c)


async def test_a_tensor_that_nobody_will_take_any_more_is_let_go() -> None:
    made: list[weakref.ref[Any]] = []

    def compute(batch: Tensors) -> dict[str, Any]:
        array = batch["x"] + 1
        made.append(weakref.ref(array))
        return {"y": array}

    third = model(adds(0), hold=0)
    spec = ensemble(
        "long",
        ("first", {"x": "in"}, {"y": "a"}),
        ("second", {"x": "a"}, {"y": "b"}),
        ("third", {"x": "b"}, {"y": "out"}),
    )
    world = World(spec, first=model(compute), second=model(adds(0)), third=third)
    asked = asyncio.create_task(world.ask("long"))
    await asyncio.wait_for(third.waiting.wait(), 5)
    gc.collect()
    assert made[0]() is None
    third.go.set()
    await asked


async def test_an_input_may_go_to_several_stages_and_must_suit_all() -> None:
    wide = Signature((TensorSpec("x", "float32", (-1, -1)),), (TensorSpec("y", "float32", (-1, -1)),))
    spec = ensemble("both", ("first", {"x": "in"}, {"y": "a"}), ("second", {"x": "in"}, {"y": "b"}))
    world = World(spec, first=model(adds(1), wide), second=model(adds(2)))
    found = await world.ask("both")
    assert np.array_equal(found["a"] + 1, found["b"])
    assert world.models.signature(ModelRef("both", "1")).inputs == (TensorSpec("in", "float32", (-1, 2)),)  # type: ignore[union-attr]
    with pytest.raises(InvalidTensor, match=r"input 'in' has shape \[2, 3\]"):
        await world.ask("both", **{"in": np.zeros((2, 3), np.float32)})


# -- when something goes wrong ----------------------------------------------------------------------------------------


async def test_a_stage_that_fails_is_named_and_the_others_are_cancelled() -> None:
    left, right = model(hold=0), model(fail=InferenceFailed("it is broken"))
    world = diamond(left=left, right=right)
    with pytest.raises(InferenceFailed, match=r"^ensemble.stages\[2\] \(right:1\): it is broken$"):
        await world.ask("diamond")
    await asyncio.wait_for(left.ended.wait(), 5)
    assert left.closed == 1
    assert (ModelRef("diamond", "1"), "predict", "inference_failed") in world.telemetry.requests
    assert (ModelRef("left", "1"), "predict", "cancelled") in world.telemetry.requests
    assert all(world.models.status(ref).in_flight == 0 for ref in world.models._entries)


async def test_the_client_leaves() -> None:
    left, right = model(hold=0), model(hold=0)
    world = diamond(left=left, right=right)
    asked = asyncio.create_task(world.ask("diamond"))
    await asyncio.wait_for(asyncio.gather(left.waiting.wait(), right.waiting.wait()), 5)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await asyncio.wait_for(asyncio.gather(left.ended.wait(), right.ended.wait()), 5)
    assert (left.closed, right.closed) == (1, 1)
    assert all(world.models.status(ref).in_flight == 0 for ref in world.models._entries)


async def test_the_deadline_is_one_for_the_whole() -> None:
    second = model(hold=0)
    world = chain(second=second)
    call = Call("1", CALL.principal, deadline_s=world.clock() + 5)
    asked = asyncio.create_task(world.ask("chain", call))
    await asyncio.wait_for(second.waiting.wait(), 5)
    world.clock.advance(6)
    with pytest.raises(DeadlineExceeded, match=r"stages\[1\] \(second:1\)"):
        await asyncio.wait_for(asked, 5)
    await asyncio.wait_for(second.ended.wait(), 5)


async def test_the_ensembles_own_limit_counts_but_not_in_the_background() -> None:
    second = model(hold=0)
    slow = ensemble(
        "slow",
        ("first", {"x": "in"}, {"y": "a"}),
        ("second", {"x": "a"}, {"y": "b"}),
        execution=Execution(timeout_s=2),
    )
    world = World(slow, first=model(), second=second)
    background = Call("1", CALL.principal, deadline_s=world.clock() + 1000, priority=PRIORITY)
    patient = asyncio.create_task(world.ask("slow", background))
    asked = asyncio.create_task(world.ask("slow"))
    await asyncio.wait_for(second.waiting.wait(), 5)
    await asyncio.sleep(0.05)
    world.clock.advance(3)
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(asked, 5)
    second.go.set()
    assert (await asyncio.wait_for(patient, 5))["b"].shape == (2, 2)


async def test_a_stage_that_answers_fewer_rows() -> None:
    world = chain(first=model(lambda batch: {"y": batch["x"][:1]}))
    with pytest.raises(InferenceFailed, match=r"stages\[0\] \(first:1\): it gave 'y' with shape \[1, 2\] for 2 rows"):
        await world.ask("chain")


async def test_a_stage_that_leaves_an_output_out() -> None:
    world = chain(first=model(lambda batch: {"z": batch["x"]}))
    with pytest.raises(InferenceFailed, match=r"stages\[0\] \(first:1\): it gave no 'y', only \['z'\]"):
        await world.ask("chain")


async def test_whose_fault_a_bad_tensor_is() -> None:
    open_shape = Signature((TensorSpec("x", "float32", (-1, -1)),), (TensorSpec("y", "float32", (-1, -1)),))
    world = chain(first=model(adds(0), open_shape))
    with pytest.raises(InferenceFailed, match=r"stages\[1\] \(second:1\): input 'x' has shape \[1, 3\]"):
        await world.ask("chain", **{"in": np.zeros((1, 3), np.float32)})
    refused = InvalidTensor("row 0 is no image", param="x")
    world = chain(first=model(fail=refused))
    with pytest.raises(InvalidTensor, match=r"stages\[0\] \(first:1\): row 0 is no image") as caught:
        await world.ask("chain")
    assert caught.value.param == "in"
    with pytest.raises(InvalidTensor, match="input 'in' is missing"):
        await world.ask("chain", x=ROWS)


async def test_a_full_queue_is_told_as_such() -> None:
    world = World(CHAIN, execution=Execution(queue_limit=1, max_batch_size=1), first=model(), second=model(hold=0))
    asked = [asyncio.create_task(world.ask("chain")) for _ in range(4)]
    found = await asyncio.wait(asked, return_when=asyncio.FIRST_EXCEPTION)
    error = next(iter(found[0])).exception()
    assert isinstance(error, QueueFull)
    assert error.retry_after_s
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


async def test_it_does_not_chat() -> None:
    world = chain()
    answer = await world.inference.generate("chain", Chat((Message("user", "hi"),)), CALL)
    with pytest.raises(UnsupportedTask, match="chain:1 does not answer chat requests"):
        await anext(answer.deltas)


# -- loading ----------------------------------------------------------------------------------------------------------


async def test_it_is_ready_when_its_stages_are() -> None:
    world = chain()
    assert world.state("chain") == ("unloaded", None)
    await world.load("chain")
    assert world.state("chain") == ("ready", None)
    assert world.models.status(ModelRef("second", "1")).state == "ready"
    status = world.models.status(ModelRef("chain", "1"))
    assert (status.runtime, status.executor, status.pid, status.memory_bytes) == ("ensemble", "ensemble", None, 0)
    await world.models.unload(ModelRef("second", "1"))
    assert world.state("chain") == ("unloaded", "ensemble.stages[1] (second:1) is unloaded")
    assert np.array_equal((await world.ask("chain"))["out"], ROWS + 11)
    assert world.state("chain") == ("ready", None)


async def test_a_stage_that_cannot_be_loaded_is_named() -> None:
    world = chain()
    world.repository.refuse[ModelRef("second", "1")] = ModelLoadFailed("model.fake is missing")
    with pytest.raises(ModelLoadFailed, match=r"stages\[1\] \(second:1\): model.fake is missing"):
        await world.load("chain")
    assert world.state("chain")[0] == "failed"
    del world.repository.refuse[ModelRef("second", "1")]
    await world.load("chain")  # an explicit load tries the stage anew
    assert world.state("chain") == ("ready", None)


async def test_unloading_a_stage_lets_requests_through_the_ensemble_finish() -> None:
    first = model(adds(1), hold=0)
    world = chain(first=first)
    asked = asyncio.create_task(world.ask("chain"))
    await asyncio.wait_for(first.waiting.wait(), 5)
    unloading = asyncio.create_task(world.models.unload(ModelRef("second", "1")))
    await asyncio.sleep(0.01)
    assert world.models.own_state(ModelRef("second", "1")) == "draining"
    later = asyncio.create_task(world.ask("chain"))
    await asyncio.sleep(0.01)
    first.go.set()
    assert np.array_equal((await asyncio.wait_for(asked, 5))["out"], ROWS + 11)
    await asyncio.wait_for(unloading, 5)
    assert np.array_equal((await asyncio.wait_for(later, 5))["out"], ROWS + 11)
    assert world.fakes.made.count(ModelRef("second", "1")) == 2


async def test_a_stage_that_is_deleted() -> None:
    world = chain()
    await world.ask("chain")
    await world.models.unload(ModelRef("second", "1"))
    world.repository.models = [one for one in world.repository.models if one.name != "second"]
    world.models.refresh()
    with pytest.raises(InvalidManifest, match=r"stages\[1\] \(second\): model 'second' does not exist"):
        await world.ask("chain")
    state, why = world.state("chain")
    assert state == "failed"
    assert "stages[1]: model 'second' does not exist" in str(why)


async def test_a_route_that_moves_is_followed_where_it_fits() -> None:
    world = chain()
    await world.ask("chain")
    world.add("second", "2", model(adds(20)))
    assert world.state("chain") == ("unloaded", "ensemble.stages[1] (second:2) is unloaded")
    assert np.array_equal((await world.ask("chain"))["out"], ROWS + 21)
    assert world.models.status(ModelRef("chain", "1")).details == {"stages": ["first:1", "second:2"]}
    world.models.pin_route("second", ModelRef("second", "1"))
    assert np.array_equal((await world.ask("chain"))["out"], ROWS + 11)
    world.add("second", "3", model(adds(30), signature(3)))
    world.models.unpin_route("second")
    with pytest.raises(InvalidManifest, match=r"'middle' is float32 \[-1, 2\] as first:1 gives it .*second:3 takes it"):
        await world.ask("chain")
    world.add("second", "4", model(adds(0), signature(2, 5)))
    with pytest.raises(ModelNotReady, match="other tensors than when it was loaded"):
        await world.ask("chain")


async def test_a_route_that_makes_a_circle_while_it_is_loaded() -> None:
    outer = ensemble("outer", ("name", {"in": "a"}, {"out": "b"}))
    world = World(CHAIN, outer, first=model(), second=model())
    world.models.pin_route("name", ModelRef("chain", "1"))
    await world.ask("outer", a=ROWS)
    world.models.pin_route("name", ModelRef("outer", "1"))
    with pytest.raises(InvalidManifest, match="in a circle: outer:1 -> outer:1"):
        await world.ask("outer", a=ROWS)


async def test_stages_stay_loaded_as_long_as_an_ensemble_needs_them() -> None:
    world = World(CHAIN, execution=Execution(keep_alive_s=0), first=model(), second=model())
    await world.ask("chain")
    await asyncio.sleep(0.01)
    assert world.state("chain") == ("ready", None)
    await world.models.unload(ModelRef("chain", "1"))
    await world.inference.predict("first", Predict({"x": ROWS}), CALL)
    assert world.models.own_state(ModelRef("first", "1")) == "ready"


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ((("nowhere", {"x": "in"}, {"y": "out"}),), r"ensemble.stages\[0\].model: model 'nowhere' does not exist"),
        ((("first:9", {"x": "in"}, {"y": "out"}),), r"stages\[0\].model: model 'first' has no version '9'"),
        ((("first", {"z": "in"}, {"y": "out"}),), r"stages\[0\].inputs.z: first:1 has no such input, it takes \['x'\]"),
        ((("first", {"x": "in"}, {"z": "out"}),), r"stages\[0\].outputs.z: first:1 has no such output"),
        ((("join", {"a": "in"}, {"y": "out"}),), r"stages\[0\].inputs: join:1 takes \['a', 'b'\], 'b' is not given"),
        ((("talks", {"x": "in"}, {"y": "out"}),), r"stages\[0\] \(talks:1\): it answers chat, a stage must answer"),
        ((("silent", {"x": "in"}, {"y": "out"}),), r"stages\[0\] \(silent:1\): it does not tell its inputs"),
        (
            (("first", {"x": "in"}, {"y": "a"}), ("ints", {"x": "a"}, {"y": "out"})),
            r"stages\[1\].inputs.x: 'a' is float32 \[-1, 2\] as first:1 gives it \(output 'y'\), but int64 \[-1, 2\] "
            r"as ints:1 takes it \(input 'x'\)",
        ),
        (
            (("first", {"x": "in"}, {"y": "a"}), ("ints", {"x": "in"}, {"y": "b"})),
            r"stages\[1\].inputs.x: 'in' is float32 \[-1, 2\] as first:1 takes it",
        ),
    ],
)
async def test_what_does_not_fit_is_found_at_load(stages: Any, problem: str) -> None:
    world = World(
        ensemble("bad", *stages),
        first=model(),
        join=model(shape=PAIR),
        ints=model(shape=signature(dtype="int64")),
        talks=FakeExecutor(kinds=("chat",)),
        silent=FakeExecutor(),
    )
    with pytest.raises((InvalidManifest, UnsupportedTask), match=problem):
        await world.load("bad")
    assert world.state("bad")[0] == "failed"


async def test_circles_through_several_ensembles() -> None:
    one, two, three = (
        ensemble(name, (other, {"in": "in"}, {"out": "out"}))
        for name, other in (("one", "two"), ("two", "three"), ("three", "one"))
    )
    world = World(one, two, three)
    with pytest.raises(InvalidManifest, match="in a circle: one:1 -> two:1 -> three:1 -> one:1"):
        await asyncio.wait_for(world.load("one"), 5)


async def test_ensembles_that_multiply_are_refused() -> None:
    inner = [ensemble("e0", *[("first", {"x": "in"}, {"y": f"o{n}"}) for n in range(4)])]
    for level in range(1, 12):
        inner.append(ensemble(f"e{level}", *[(f"e{level - 1}", {"in": "in"}, {"o0": f"o{n}"}) for n in range(4)]))
    world = World(*inner, first=model())
    with pytest.raises(InvalidManifest, match="with the ensembles inside there are 16777216"):
        await world.load("e11")
    deep = [ensemble("d0", ("first", {"x": "in"}, {"y": "out"}))]
    deep += [ensemble(f"d{n}", (f"d{n - 1}", {"in": "in"}, {"out": "out"})) for n in range(1, 40)]
    world = World(*deep, first=model(adds(1)))
    with pytest.raises(InvalidManifest, match="more than 16 ensembles stand inside each other"):
        await world.load("d39")
    assert np.array_equal((await world.ask("d15"))["out"], ROWS + 1)


async def test_closing_lets_requests_finish() -> None:
    second = model(adds(10), hold=0)
    world = chain(second=second)
    asked = asyncio.create_task(world.ask("chain"))
    await asyncio.wait_for(second.waiting.wait(), 5)
    closing = asyncio.create_task(world.models.close())
    await asyncio.sleep(0.01)
    second.go.set()
    assert np.array_equal((await asyncio.wait_for(asked, 5))["out"], ROWS + 11)
    await asyncio.wait_for(closing, 5)


async def test_a_stage_that_is_cut_while_branches_compute() -> None:
    left, right = model(hold=0), model(hold=0)
    world = diamond(left=left, right=right)
    asked = asyncio.create_task(world.ask("diamond"))
    await asyncio.wait_for(asyncio.gather(left.waiting.wait(), right.waiting.wait()), 5)
    live = world.models._entries[ModelRef("left", "1")].live
    assert live is not None
    await live.batches.close()  # what unloading does when the time to drain is over
    with pytest.raises(ModelNotReady, match=r"stages\[1\] \(left:1\): it was unloaded"):
        await asyncio.wait_for(asked, 5)
