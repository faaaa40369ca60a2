"""Equal requests: one computation, whoever comes and goes; kept answers, within bounds, never for another tenant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_engine.domain.errors import DeadlineExceeded, InferenceFailed, RequestCancelled
from inference_engine.domain.model import Execution, ModelRef
from inference_engine.domain.requests import (
    Call,
    Chat,
    Complete,
    Embed,
    Message,
    Predict,
    Principal,
    Rerank,
    Sampling,
    Tool,
)
from inference_engine.domain.results import Delta, Done, Prediction, Usage
from inference_engine.domain.tensors import Tensors
from inference_engine.domain.text_tensors import RERANK_SIGNATURE, embed_signature
from inference_engine.services.equality import DELTAS, OUTPUTS, key_of, reuses_generation
from inference_engine.services.inference import Generation, InferenceService
from inference_engine.services.models import ModelService
from inference_engine.services.reuse import AHEAD, Flight, Key, Memory, ReuseService
from inference_engine.testing import (
    ECHO_SIGNATURE,
    FakeClock,
    FakeExecutor,
    FakeExecutors,
    FakeRepository,
    FakeRoutes,
    NullTelemetry,
    manifest,
)

REF = ModelRef("m", "1")
CALL = Call("1", Principal("default", "local"))
OTHER = Call("2", Principal("another", "key"))
GREEDY = Chat((Message("user", "hi there"),), Sampling(temperature=0.0))


async def turns(count: int = 6) -> None:
    """Let everything that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


# -- one computation and its readers -------------------------------------------------------------------------------


class Source:
    """A computation that makes what it is told to. `closed` says that it has ended, in whatever way."""

    def __init__(self) -> None:
        self.steps: asyncio.Queue[int | Exception | None] = asyncio.Queue()
        self.closed = False

    async def results(self) -> AsyncGenerator[int]:
        try:
            while True:
                step = await self.steps.get()
                if step is None:
                    return
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            self.closed = True


class Reader:
    """A task that reads a flight to its end."""

    def __init__(self, flight: Flight) -> None:
        self.seen: list[int] = []
        self.task = asyncio.create_task(self._read(flight))

    async def _read(self, flight: Flight) -> None:
        async with aclosing(flight.read(None, FakeClock())) as results:
            async for result in results:
                self.seen.append(result)


STEPS = st.lists(
    st.one_of(
        st.just(("join", 0)),
        st.tuples(st.just("leave"), st.integers(0, 7)),
        st.just(("result", 0)),
        st.just(("wait", 0)),
        st.just(("finish", 0)),
        st.just(("fail", 0)),
    ),
    max_size=30,
)


@given(STEPS)
def test_readers_come_and_go_as_they_like(steps: list[tuple[str, int]]) -> None:
    """Whatever the order: each reader sees a prefix of the results, who stays sees all, nothing runs for nobody."""
    asyncio.run(_scenario(steps))


async def _scenario(steps: list[tuple[str, int]]) -> None:
    source = Source()
    ended: list[Flight] = []
    flight = Flight(source.results(), ended.append)
    readers = [Reader(flight)]
    await turns(1)
    left: list[Reader] = []
    made: list[int] = []
    final: str | None = None
    for step, which in [*steps, ("wait", 0)]:
        if step == "join" and not flight.over:
            readers.append(Reader(flight))
            await turns(1)
        elif step == "leave" and readers:
            leaver = readers.pop(which % len(readers))
            leaver.task.cancel()
            left.append(leaver)
            await turns()
        elif step == "result" and final is None:
            made.append(len(made))
            source.steps.put_nowait(made[-1])
        elif step == "wait":
            await turns(20)
        elif step in ("finish", "fail") and final is None:
            final = step
            source.steps.put_nowait(None if step == "finish" else InferenceFailed("broken"))
    await turns(20)
    for reader in left:
        assert reader.seen == made[: len(reader.seen)]
    if not readers:
        assert flight.over
        assert source.closed
    for reader in readers:
        assert reader.seen == made
        assert reader.task.done() == (final is not None)
        if final is not None:
            assert isinstance(reader.task.exception(), InferenceFailed) == (final == "fail")
    assert len(ended) == int(flight.over)
    if final == "finish" and readers:
        assert flight.whole
    for reader in readers:
        reader.task.cancel()
    await asyncio.gather(*(reader.task for reader in [*readers, *left]), return_exceptions=True)
    assert source.closed
    assert len(ended) == 1
    assert len(asyncio.all_tasks()) == 1, "a computation outlived its readers"


async def test_a_computation_waits_for_its_fastest_reader() -> None:
    made = 0

    async def endless() -> AsyncGenerator[int]:
        nonlocal made
        while True:
            made += 1
            yield made

    flight = Flight(endless(), lambda _: None)
    async with aclosing(flight.read(None, FakeClock())) as results:
        assert await anext(results) == 1
        await turns(2 * AHEAD)
        assert made <= AHEAD + 1
        for _ in range(AHEAD):
            await anext(results)
        assert made > AHEAD


async def test_each_reader_has_its_own_deadline() -> None:
    source = Source()
    flight = Flight(source.results(), lambda _: None)
    patient = Reader(flight)
    clock = FakeClock(0.0)
    with pytest.raises(DeadlineExceeded):
        async for _ in flight.read(0.01, clock):
            pass
    assert not source.closed
    source.steps.put_nowait(None)
    await patient.task
    with pytest.raises(DeadlineExceeded):
        async for _ in Flight(Source().results(), lambda _: None).read(0.01, clock):
            pass
    assert len(asyncio.all_tasks()) == 1


async def test_a_computation_that_is_cancelled_from_below_is_an_error_of_its_readers() -> None:
    async def cut() -> AsyncGenerator[int]:
        yield 1
        raise asyncio.CancelledError

    seen = []
    with pytest.raises(RequestCancelled, match="ask again"):
        async for item in Flight(cut(), lambda _: None).read(None, FakeClock()):
            seen.append(item)
    assert seen == [1]


# -- what is kept --------------------------------------------------------------------------------------------------


def key(number: int, tenant: str = "a", ref: ModelRef = REF) -> Key:
    return Key(tenant, ref, number.to_bytes(4, "big"))


def done(tokens: int) -> list[Delta]:
    return [Done("stop", Usage(tokens, tokens))]


def test_what_is_kept_has_an_age_and_a_size() -> None:
    clock = FakeClock()
    memory = Memory(10_000, 60.0, clock)
    memory.put(key(1), done(1), DELTAS)
    assert memory.get(key(1)) == done(1)
    assert memory.get(key(1, tenant="b")) is None
    clock.advance(60)
    assert memory.get(key(1)) is None
    assert (len(memory), memory.bytes) == (0, 0)
    outputs = [{"y": np.zeros(4, np.float32)}]
    for number in range(100):
        memory.put(key(number), outputs, OUTPUTS)
        memory.get(key(0))
    assert memory.bytes <= 10_000
    assert memory.get(key(0)) is not None, "what is used goes last"
    assert memory.get(key(1)) is None
    assert memory.evictions == 100 - len(memory)
    memory.put(key(500), [{"y": np.zeros(4000, np.float32)}], OUTPUTS)
    assert memory.get(key(500)) is None, "one answer must not push out the others"


def test_what_is_kept_is_a_copy_that_nobody_changes() -> None:
    memory = Memory(10_000, 60.0, FakeClock())
    array = np.arange(3)
    memory.put(key(1), [{"y": array}], OUTPUTS)
    array[0] = 9
    kept = memory.get(key(1))
    assert kept is not None
    assert kept[0]["y"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="read-only"):
        kept[0]["y"][0] = 1


@given(st.lists(st.tuples(st.sampled_from(["put", "get", "age", "clear"]), st.integers(0, 9), st.integers(0, 3000))))
def test_the_memory_never_loses_count(steps: list[tuple[str, int, int]]) -> None:
    clock = FakeClock()
    memory = Memory(8_000, 50.0, clock)
    for step, number, size in steps:
        if step == "put":
            memory.put(key(number), [{"y": np.zeros(size, np.uint8)}], OUTPUTS)
        elif step == "get":
            memory.get(key(number))
        elif step == "age":
            clock.advance(size / 100)
        else:
            memory.clear()
        assert 0 <= memory.bytes <= 8_000
        assert (memory.bytes == 0) == (len(memory) == 0)


def test_what_makes_requests_equal() -> None:
    def of(request: Any, call: Call = CALL, ref: ModelRef = REF, kind: Any = "chat") -> Key:
        return key_of(kind, ref, request, call)

    same = msgspec.structs.replace(GREEDY, messages=(Message("user", "hi there"),))
    assert of(GREEDY) == of(same)
    assert of(GREEDY) == of(GREEDY, msgspec.structs.replace(CALL, id="9", deadline_s=3.0, priority=2))
    changes: list[dict[str, Any]] = [
        {"choices": 2},
        {"adapter": "a"},
        {"reasoning": "low"},
        {"tools": (Tool("f"),)},
        {"sampling": Sampling(temperature=0.0, logprobs=1)},
        {"sampling": Sampling(temperature=0.0, stop=("x",))},
        {"messages": (Message("system", "hi there"),)},
    ]
    different = [of(GREEDY), of(GREEDY, OTHER), of(GREEDY, ref=ModelRef("m", "2"))]
    different += [of(msgspec.structs.replace(GREEDY, **change)) for change in changes]
    different += [of(Complete("hi there", Sampling(temperature=0.0)), kind="complete")]
    assert len(set(different)) == len(different)

    rows = {"x": np.zeros((1, 4), np.float32)}
    tensors: list[Tensors] = [
        rows,
        {"z": rows["x"]},
        {"x": rows["x"].astype(np.float64)},
        {"x": rows["x"].reshape(2, 2)},
        {"x": rows["x"] + 1},
        {"x": np.array([b"a", b"bc"], object)},
        {"x": np.array([b"ab", b"c"], object)},
    ]
    keys = [of(each, kind="predict") for each in tensors]
    assert len({*keys, of(rows, kind="embed")}) == len(tensors) + 1
    assert of({"x": np.asfortranarray(np.arange(4.0).reshape(2, 2))}) == of({"x": np.arange(4.0).reshape(2, 2)})


@pytest.mark.parametrize(
    ("sampling", "options", "expected"),
    [
        (Sampling(), {}, False),
        (Sampling(temperature=0.0), {}, True),
        (Sampling(temperature=0.7), {}, False),
        (Sampling(temperature=0.7, seed=3), {}, True),
        (Sampling(temperature=0.7, top_k=1), {}, True),
        (Sampling(), {"sampling": {"temperature": 0}}, True),
        (Sampling(temperature=1.0), {"sampling": {"temperature": 0}}, False),
        (Sampling(), {"sampling": "odd"}, False),
    ],
)
def test_which_answers_would_be_the_same(sampling: Sampling, options: dict[str, Any], expected: bool) -> None:
    model = manifest("m", options=options)
    request = msgspec.structs.replace(GREEDY, sampling=sampling)
    assert reuses_generation(model, request, CALL) is expected
    assert reuses_generation(model, request, msgspec.structs.replace(CALL, reuse="always"))
    assert not reuses_generation(model, request, msgspec.structs.replace(CALL, reuse="never"))
    never = manifest("m", options=options, execution=Execution(cache=False))
    assert not reuses_generation(never, request, msgspec.structs.replace(CALL, reuse="always"))


# -- the use cases -------------------------------------------------------------------------------------------------


class Counting(FakeExecutor):
    """Counts the rows and batches it computes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.rows: list[int] = []

    async def run(self, parts: Any, rows: Any) -> Any:
        self.rows.append(sum(rows))
        return await super().run(parts, rows)


class Bench:
    """An inference service with a cache over a talker, an embedder, a ranker and a predictor."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.talker = FakeExecutor(kinds=("chat", "complete"), concurrency=2)
        self.embedder = Counting(embed_signature(2), kinds=("embed",), compute=embed)
        self.ranker = Counting(RERANK_SIGNATURE, kinds=("rerank",), compute=rank)
        self.echo = Counting(ECHO_SIGNATURE)
        executors = {
            "talker:1": self.talker,
            "talker:2": FakeExecutor(kinds=("chat",), words=("other",)),
            "embedder:1": self.embedder,
            "ranker:1": self.ranker,
            "echo:1": self.echo,
            "often:1": self.echo,
        }
        self.models = ModelService(
            FakeRepository(
                *(manifest("talker", version) for version in "12"),
                manifest("embedder"),
                manifest("ranker"),
                manifest("echo", signature=ECHO_SIGNATURE),
                manifest("often", signature=ECHO_SIGNATURE, execution=Execution(cache=True)),
            ),
            FakeExecutors(executors),
            FakeRoutes(),
            NullTelemetry(),
            self.clock,
        )
        self.reuse = ReuseService(NullTelemetry(), self.clock, max_bytes=1 << 20, ttl_s=60.0)
        self.service = InferenceService(self.models, NullTelemetry(), self.clock, self.reuse)

    async def say(self, target: str = "talker:1", request: Any = GREEDY, call: Call = CALL) -> tuple[str, str | None]:
        """The text of an answer and what became of the question whether to compute it."""
        generation = await self.service.generate(target, request, call)
        return await text_of(generation), generation.served.cache


async def text_of(generation: Generation) -> str:
    async with aclosing(generation.deltas) as deltas:
        return "".join([delta.text async for delta in deltas if not isinstance(delta, Done)])


def embed(batch: Tensors) -> dict[str, Any]:
    count = len(batch["text"])
    lengths = [len(text) for text in batch["text"]]
    return {"embedding": np.array([[x, 1] for x in lengths], np.float32), "tokens": np.ones(count, np.int32)}


def rank(batch: Tensors) -> dict[str, Any]:
    count = len(batch["query"])
    return {"score": np.arange(count, dtype=np.float32), "tokens": np.ones(count, np.int32)}


@pytest.fixture
async def bench() -> Any:
    made = Bench()
    await made.models.open()
    yield made
    await made.models.close()


async def test_an_answer_is_kept(bench: Bench) -> None:
    assert await bench.say() == ("Hello, world!", "miss")
    assert await bench.say() == ("Hello, world!", "hit")
    assert len(bench.talker.requests) == 1
    sampled = msgspec.structs.replace(GREEDY, sampling=Sampling(temperature=1.0))
    assert await bench.say(request=sampled) == ("Hello, world!", None)
    assert await bench.say(request=sampled, call=msgspec.structs.replace(CALL, reuse="always")) == (
        "Hello, world!",
        "miss",
    )
    bench.clock.advance(60)
    assert (await bench.say())[1] == "miss"


async def test_a_hit_is_the_same_deltas(bench: Bench) -> None:
    request = msgspec.structs.replace(GREEDY, choices=2, sampling=Sampling(seed=1, logprobs=2))
    first = [delta async for delta in (await bench.service.generate("talker:1", request, CALL)).deltas]
    again = [delta async for delta in (await bench.service.generate("talker:1", request, CALL)).deltas]
    assert first == again
    assert len(bench.talker.requests) == 2, "two choices, computed once"


async def test_tenants_versions_and_adapters_never_meet(bench: Bench) -> None:
    await bench.say()
    assert (await bench.say(call=OTHER))[1] == "miss"
    assert await bench.say("talker:2") == ("other", "miss")
    assert (await bench.say("talker:1"))[1] == "hit"
    await asyncio.gather(bench.say(call=CALL, request=longer(1)), bench.say(call=OTHER, request=longer(1)))
    assert len(bench.talker.requests) == 4


def longer(number: int) -> Chat:
    return msgspec.structs.replace(GREEDY, messages=(Message("user", f"question {number}"),))


async def test_fifty_equal_requests_are_one_computation(bench: Bench) -> None:
    bench.talker.hold = 2
    asked = [asyncio.create_task(bench.say()) for _ in range(50)]
    await bench.talker.waiting.wait()
    await turns(60)
    bench.talker.go.set()
    answers = await asyncio.gather(*asked)
    assert {text for text, _ in answers} == {"Hello, world!"}
    assert sorted(str(outcome) for _, outcome in answers) == ["miss"] + ["shared"] * 49
    assert len(bench.talker.requests) == 1
    assert bench.reuse.stats().shared == 49


async def test_who_comes_late_hears_it_from_the_start_and_keeps_it_going(bench: Bench) -> None:
    bench.talker.hold = 2
    leader = asyncio.create_task(bench.say())
    await bench.talker.waiting.wait()
    follower = await bench.service.generate("talker:1", GREEDY, CALL)
    assert follower.served.cache == "shared"
    async with aclosing(follower.deltas) as deltas:
        assert (await anext(deltas)).text == "Hello"  # type: ignore[union-attr]
        leader.cancel()
        await turns(20)
        assert bench.talker.closed == 0
        bench.talker.go.set()
        assert len([delta async for delta in deltas]) == 4
    assert (await bench.say())[1] == "hit"


async def test_when_all_have_left_it_is_over(bench: Bench) -> None:
    bench.talker.hold = 2
    asked = [asyncio.create_task(bench.say()) for _ in range(3)]
    await bench.talker.waiting.wait()
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert bench.talker.closed == 1
    assert bench.reuse.stats().in_flight == 0
    bench.talker.hold = None
    assert await bench.say() == ("Hello, world!", "miss")


async def test_what_failed_is_not_kept(bench: Bench) -> None:
    bench.talker.fail, bench.talker.fail_after = InferenceFailed("broken"), 2
    results = await asyncio.gather(*(bench.say() for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, InferenceFailed) for result in results)
    assert len(bench.talker.requests) == 1
    bench.talker.fail = None
    assert await bench.say() == ("Hello, world!", "miss")


async def test_the_client_may_ask_for_a_new_one(bench: Bench) -> None:
    await bench.say()
    bench.talker.words = ["new"]
    assert (await bench.say())[0] == "Hello, world!"
    assert await bench.say(call=msgspec.structs.replace(CALL, reuse="never")) == ("new", None)
    assert (await bench.say())[0] == "Hello, world!"
    assert await bench.say(call=msgspec.structs.replace(CALL, reuse="refresh")) == ("new", "miss")
    assert await bench.say() == ("new", "hit")


async def test_unloading_forgets(bench: Bench) -> None:
    await bench.say()
    await bench.say("talker:2")
    await bench.models.unload(ModelRef("talker", "1"))
    assert bench.reuse.stats().entries == 1
    assert (await bench.say())[1] == "miss"
    assert bench.reuse.clear() == 2


async def test_a_hit_keeps_the_model_loaded(bench: Bench) -> None:
    await bench.say()
    before = bench.models.status(ModelRef("talker", "1")).last_used_at
    bench.clock.advance(30)
    await bench.say()
    after = bench.models.status(ModelRef("talker", "1")).last_used_at
    assert before is not None
    assert after is not None
    assert (after - before).total_seconds() < 5, "30 s of the fake clock went by, and none of them idle"


async def test_embeddings_and_rankings_are_kept(bench: Bench) -> None:
    one = await bench.service.embed("embedder", Embed(("a", "bb")), CALL)
    two = await bench.service.embed("embedder", Embed(("a", "bb"), dimensions=1), CALL)
    other = await bench.service.embed("embedder", Embed(("a", "bb")), OTHER)
    assert (one.served.cache, two.served.cache, other.served.cache) == ("miss", "hit", "miss")
    assert one.vectors.tolist() == [[1, 1], [2, 1]]
    assert two.vectors.tolist() == [[1], [1]]
    assert two.prompt_tokens == 2
    ranked = [await bench.service.rerank("ranker", Rerank("q", ("a", "b")), CALL) for _ in range(2)]
    assert [ranking.served.cache for ranking in ranked] == ["miss", "hit"]
    assert (bench.embedder.rows, bench.ranker.rows) == ([2, 2], [2])


async def test_predictions_are_kept_only_where_it_is_asked_for(bench: Bench) -> None:
    request = Predict({"x": np.ones((1, 4), np.float32)})

    async def predict(target: str, call: Call = CALL) -> Prediction:
        return await bench.service.predict(target, request, call)

    assert [(await predict("echo")).served.cache for _ in range(2)] == [None, None]
    assert [(await predict("often")).served.cache for _ in range(2)] == ["miss", "hit"]
    always = msgspec.structs.replace(CALL, reuse="always")
    assert [(await predict("echo", always)).served.cache for _ in range(2)] == ["miss", "hit"]
    assert (await predict("often")).outputs["y"].tolist() == [[1, 1, 1, 1]]
    assert (await predict("often", msgspec.structs.replace(CALL, reuse="never"))).served.cache is None
    assert len(bench.echo.rows) == 5


async def test_equal_predictions_in_flight(bench: Bench) -> None:
    bench.echo.hold = 0
    request = Predict({"x": np.ones((1, 4), np.float32)})
    asked = [asyncio.create_task(bench.service.predict("often", request, CALL)) for _ in range(5)]
    await bench.echo.waiting.wait()
    await turns()
    asked[0].cancel()
    await turns()
    bench.echo.go.set()
    answers = await asyncio.gather(*asked[1:])
    assert {answer.served.cache for answer in answers} == {"shared"}
    assert bench.echo.rows == [1]


async def test_off_is_off() -> None:
    bench = Bench()
    service = InferenceService(bench.models, NullTelemetry(), bench.clock)
    await bench.models.open()
    for _ in range(2):
        generation = await service.generate("talker:1", GREEDY, CALL)
        await text_of(generation)
        assert generation.served.cache is None
    assert len(bench.talker.requests) == 2
    await bench.models.close()
