"""Named resources that models share: never more than there is, in fair turns, and nothing leaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from inference_engine.domain.errors import EngineError, InferenceFailed, InvalidManifest
from inference_engine.domain.model import Execution, InstanceGroup
from inference_engine.domain.ports import Executor, StoredModel
from inference_engine.infra.executors.factory import Executors
from inference_engine.infra.executors.instances import InstancesExecutor
from inference_engine.infra.executors.resources import Claim, ResourcePool
from inference_engine.infra.runtimes.catalog import EntryPointCatalog
from inference_engine.testing import FakeClock, FakeRuntime, manifest
from tests.executors.conftest import SUPERVISION, python_model
from tests.executors.test_contract import rows


def claim(pool: ResourcePool, name: str, priority: int = 1, device: str = "cpu", **needs: int) -> Claim:
    execution = Execution(resources=needs, resource_priority=priority)
    return pool.claim(manifest(name, execution=execution), device)


def later(work: Any) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(work)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_only_as_much_is_granted_as_there_is() -> None:
    pool = ResourcePool(["memory=4"])
    first, second, third = (claim(pool, name, memory=amount) for name, amount in (("a", 3), ("b", 1), ("c", 1)))
    await pool.take(first)
    await pool.take(second)
    waiting = later(pool.take(third))
    await settle()
    assert (pool.free["memory"], pool.waiting) == (0, 1)
    pool.give_back(second)
    await waiting
    pool.give_back(first)
    pool.give_back(third)
    assert pool.free["memory"] == 4


async def test_a_large_claim_is_not_overtaken_for_ever_and_others_are_not_held_up() -> None:
    pool = ResourcePool(["memory=4", "disk=1"])
    small, large, other = claim(pool, "s", memory=1), claim(pool, "l", memory=4), claim(pool, "o", disk=1)
    await pool.take(small)
    waiting = later(pool.take(large))
    await settle()
    overtaking = later(pool.take(small))
    await settle()
    assert not overtaking.done()
    await asyncio.wait_for(pool.take(other), 1)
    pool.give_back(small)
    await waiting
    assert not overtaking.done()
    pool.give_back(large)
    await overtaking


async def turns(pool: ResourcePool, claims: dict[str, Claim], count: int) -> list[str]:
    """Who is served when everybody always wants the next turn."""
    served: list[str] = []

    async def one(name: str) -> None:
        while len(served) < count:
            await pool.take(claims[name])
            served.append(name)
            await asyncio.sleep(0)
            pool.give_back(claims[name])

    await asyncio.gather(*(one(name) for name in claims for _ in range(3)))
    return served[:count]


async def test_a_lower_priority_number_gets_more_turns_and_none_starves() -> None:
    pool = ResourcePool(["gpu=1"])
    claims = {"one": claim(pool, "one", 1, gpu=1), "three": claim(pool, "three", 3, gpu=1)}
    served = await turns(pool, claims, 40)
    assert served[0] == "one"
    assert 8 <= served.count("three") <= 12


async def test_who_was_away_has_saved_nothing_up() -> None:
    pool = ResourcePool(["gpu=1"])
    claims = {name: claim(pool, name, 1, gpu=1) for name in ("busy", "away")}
    await turns(pool, {"busy": claims["busy"]}, 50)
    served = await turns(pool, claims, 20)
    assert served.count("busy") >= 8


async def test_who_leaves_the_line_takes_nothing_along() -> None:
    pool = ResourcePool(["gpu=2"])
    large, small = claim(pool, "large", gpu=2), claim(pool, "small", gpu=1)
    await pool.take(small)
    gone, behind = later(pool.take(large)), later(pool.take(small))
    await settle()
    assert not behind.done()
    gone.cancel()
    await asyncio.wait_for(behind, 1)
    granted = later(pool.take(small))
    await settle()
    pool.give_back(small)
    granted.cancel()  # it has its turn, and does not know yet
    await settle()
    pool.give_back(small)
    assert (pool.free["gpu"], pool.waiting) == (2, 0)


def test_an_amount_for_a_device_counts_there_and_the_plain_one_elsewhere() -> None:
    pool = ResourcePool(["memory=1", "memory@cuda:0=8"])
    assert claim(pool, "a", device="cuda:0", memory=8).needs == {"memory@cuda:0": 8}
    assert claim(pool, "a", device="cpu", memory=1).needs == {"memory": 1}
    with pytest.raises(InvalidManifest, match=r"resources.memory is 2, and this server has 1.*memory=2"):
        claim(pool, "a", device="cpu", memory=2)


SLOW = """
def load(self, folder, options):
    self.folder = folder
def predict(self, inputs):
    if inputs["x"][0, 0] < 0:
        raise ValueError("below 0")
    started = time.monotonic()
    time.sleep(0.05)
    with open(self.folder.parent / "spans", "a") as file:
        file.write(f"{started} {time.monotonic()}\\n")
    return {"y": inputs["x"]}
"""


def factory(pool: ResourcePool, create: Callable[[Any], Any] | None = None) -> Executors:
    return Executors(
        create or (lambda made: EntryPointCatalog().create(made.runtime)),
        FakeClock(),
        lambda _: None,
        SUPERVISION,
        EntryPointCatalog(),
        None,  # type: ignore[arg-type]  # only `runtime: auto` asks for it
        resources=pool,
    )


def spans(folder: Path) -> list[tuple[float, float]]:
    lines = (folder / "spans").read_text().splitlines()
    return sorted((float(line.split()[0]), float(line.split()[1])) for line in lines)


def overlap(found: list[tuple[float, float]]) -> bool:
    return any(second[0] < first[1] for first, second in pairwise(found))


async def started(pool: ResourcePool, folder: Path, count: int, **execution: Any) -> list[Executor]:
    executors = []
    for index in range(count):
        own = folder / str(index)
        own.mkdir()
        executors.append(factory(pool)(python_model(own, SLOW, resources={"gpu": 1}, **execution)))
    await asyncio.gather(*(executor.start() for executor in executors))
    return executors


@pytest.mark.parametrize("kind", ["thread", "runner"])
async def test_models_that_share_never_compute_together(tmp_path: Path, kind: str) -> None:
    pool = ResourcePool(["gpu=1"])
    executors = await started(pool, tmp_path, 2, executor=kind, instances=2)
    works = [asyncio.ensure_future(executor.run([rows(1)], [1])) for executor in executors for _ in range(4)]
    await asyncio.gather(*works)
    assert len(spans(tmp_path)) == 8
    assert not overlap(spans(tmp_path))
    with pytest.raises(InferenceFailed):
        await executors[0].run([rows(-1)], [1])
    assert (pool.free["gpu"], pool.waiting) == (1, 0)
    for executor in executors:
        await executor.stop(1.0)


@pytest.mark.parametrize("kind", ["thread", "runner"])
async def test_what_was_cancelled_counts_until_it_has_ended(tmp_path: Path, kind: str) -> None:
    pool = ResourcePool(["gpu=1"])
    first, second = await started(pool, tmp_path, 2, executor=kind)
    gone = asyncio.ensure_future(first.run([rows(1)], [1]))
    await asyncio.sleep(0.02)
    gone.cancel()
    await second.run([rows(1)], [1])
    for _ in range(100):
        await asyncio.sleep(0.01)
        if pool.free["gpu"] == 1:
            break
    assert not overlap(spans(tmp_path))
    held = [asyncio.ensure_future(executor.run([rows(1)], [1])) for executor in (first, second) for _ in range(2)]
    await asyncio.sleep(0.02)
    for work in held:
        work.cancel()
    await asyncio.gather(first.stop(1.0), second.stop(1.0), *held, return_exceptions=True)
    assert (pool.free["gpu"], pool.waiting) == (1, 0)


# -- groups of instances ------------------------------------------------------------------------------------------


class Placed(FakeRuntime):
    """A runtime that knows two devices and tells where it is."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__("predict")
        self._seen = seen

    def load(self, manifest: Any, folder: Path) -> Any:
        device = manifest.execution.device
        if device not in ("cpu", "cuda:0"):
            raise InvalidManifest(f"there is no device {device}")
        self._seen.append(device)
        return super().load(manifest, folder)


def grouped(*groups: InstanceGroup, **execution: Any) -> StoredModel:
    made = manifest("net", execution=Execution(executor="thread", instances=groups, **execution))
    return StoredModel(made, Path())


async def test_each_instance_is_told_its_own_device() -> None:
    seen: list[str] = []
    make = factory(ResourcePool(), lambda _: Placed(seen))
    executor = make(grouped(InstanceGroup(2, "cpu"), InstanceGroup(1, "cuda:0")))
    assert isinstance(executor, InstancesExecutor)
    await executor.start()
    assert sorted(seen) == ["cpu", "cpu", "cuda:0"]
    assert executor.batches_in_flight == 3
    await executor.stop(1.0)


async def test_a_device_that_is_not_there_is_named() -> None:
    make = factory(ResourcePool(), lambda _: Placed([]))
    with pytest.raises(EngineError, match="the instance on cuda:7: there is no device cuda:7"):
        await make(grouped(InstanceGroup(1, "cpu"), InstanceGroup(1, "cuda:7"))).start()


def test_claims_follow_the_device_of_the_instance() -> None:
    make = factory(ResourcePool(["memory=1", "memory@cuda:0=4"]), lambda _: Placed([]))
    make(grouped(InstanceGroup(1, "cuda:0"), resources={"memory": 4}))
    with pytest.raises(InvalidManifest, match="this server has 1"):
        make(grouped(InstanceGroup(1, "cuda:0"), InstanceGroup(1, "cpu"), resources={"memory": 4}))


async def test_a_python_class_is_told_its_device_and_a_missing_gpu_is_named(tmp_path: Path) -> None:
    body = """
    def load(self, folder, options, device):
        self.device = device
    def predict(self, inputs):
        return {"y": np.array([[len(self.device)]], np.float32)}
    """
    make = factory(ResourcePool())
    executor = make(python_model(tmp_path, body, executor="thread", device="cpu"))
    await executor.start()
    assert (await executor.run([rows(1)], [1])).outputs[0]["y"][0, 0] == 3
    await executor.stop(1.0)
    with pytest.raises(EngineError, match="'cuda:96'"):
        await make(python_model(tmp_path, body, executor="thread", device="cuda:96")).start()
