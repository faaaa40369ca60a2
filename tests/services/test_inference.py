"""The use cases over fakes: routing, checks, choices, deadlines, accounting, and that leaving closes everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import msgspec
import numpy as np
import pytest

from inference_engine.domain.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidManifest,
    InvalidRequest,
    InvalidTensor,
    ModelNotFound,
    UnsupportedTask,
)
from inference_engine.domain.jobs import PRIORITY
from inference_engine.domain.model import Execution, Sequences, SequenceState
from inference_engine.domain.ports import BatchResult, Loaded
from inference_engine.domain.requests import (
    Call,
    Chat,
    Complete,
    Embed,
    ImagePart,
    Message,
    Predict,
    Principal,
    Rerank,
    Sampling,
    SequenceStep,
)
from inference_engine.domain.results import Done, TextDelta
from inference_engine.domain.tensors import Tensors
from inference_engine.domain.text_tensors import RERANK_SIGNATURE, embed_signature, texts_of
from inference_engine.services.inference import InferenceService
from inference_engine.services.models import ModelService
from inference_engine.testing import (
    ECHO_SIGNATURE,
    FakeClock,
    FakeExecutor,
    FakeRepository,
    FakeRoutes,
    RecordingTelemetry,
    manifest,
)

CALL = Call("1", Principal("default", "local"))
HELLO = Chat((Message("user", "hi"),))


class Bench:
    """An inference service over one predictive and one generative fake."""

    def __init__(self) -> None:
        self.echo = FakeExecutor(ECHO_SIGNATURE)
        self.talker = FakeExecutor(kinds=("chat", "complete"), concurrency=2)
        self.telemetry = RecordingTelemetry()
        self.clock = FakeClock()
        repository = FakeRepository(manifest("echo", "1", ECHO_SIGNATURE), manifest("talker"))
        self.models = ModelService(
            repository,
            lambda model: self.echo if model.manifest.name == "echo" else self.talker,
            FakeRoutes(),
            self.telemetry,
            self.clock,
        )
        self.service = InferenceService(self.models, self.telemetry, self.clock)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.models.open()
    yield made
    await made.models.close()


def row(*shape: int, dtype: type = np.float32) -> Predict:
    return Predict({"x": np.ones(shape, dtype)})


async def test_a_prediction_says_who_served_it(bench: Bench) -> None:
    answer = await bench.service.predict("echo", row(2, 4), CALL)
    assert answer.outputs["y"].shape == (2, 4)
    assert (str(answer.served.ref), answer.served.rule) == ("echo:1", "latest")
    assert (await bench.service.predict("echo:1", row(1, 4), CALL)).served.rule == "exact"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (row(2, 3), r"shape \[2, 3\].*\[-1, 4\]"),
        (row(0, 4), "empty"),
        (row(4), "shape"),
        (row(1, 4, dtype=np.float64), "float64.*float32"),
        (Predict({"y": np.ones((1, 4), np.float32)}), "'x' is missing"),
        (Predict({"x": np.ones((1, 4), np.float32), "z": np.ones(1)}), "'z' is unknown"),
        (Predict({"x": np.ones((1, 4), np.float32)}, ("nope",)), "output 'nope' is unknown"),
    ],
)
async def test_tensors_are_held_to_the_signature(bench: Bench, request_: Predict, words: str) -> None:
    with pytest.raises(InvalidTensor, match=words) as error:
        await bench.service.predict("echo", request_, CALL)
    assert error.value.param


async def test_a_generation_streams_to_its_end_and_is_counted(bench: Bench) -> None:
    generation = await bench.service.generate("talker", HELLO, CALL)
    deltas = [delta async for delta in generation.deltas]
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == "Hello, world!"
    assert isinstance(deltas[-1], Done)
    assert bench.models.status(generation.served.ref).in_flight == 0


async def test_choices_come_interleaved_each_with_its_own_end_and_seed(bench: Bench) -> None:
    request = Chat((Message("user", "hi"),), Sampling(seed=7), choices=3)
    generation = await bench.service.generate("talker", request, CALL)
    deltas = [delta async for delta in generation.deltas]
    for index in range(3):
        mine = [delta for delta in deltas if delta.index == index]
        assert "".join(delta.text for delta in mine if isinstance(delta, TextDelta)) == "Hello, world!"
        assert isinstance(mine[-1], Done)
    assert sorted(asked.sampling.seed or 0 for asked in bench.talker.requests) == [7, 8, 9]
    assert all(asked.choices == 1 for asked in bench.talker.requests)


async def test_one_failing_choice_fails_the_answer_and_closes_the_others(bench: Bench) -> None:
    bench.talker.fail = InferenceFailed("broken")
    bench.talker.fail_after = 1
    generation = await bench.service.generate("talker", Chat((Message("user", "hi"),), choices=2), CALL)
    with pytest.raises(InferenceFailed):
        [delta async for delta in generation.deltas]
    assert bench.models.status(generation.served.ref).in_flight == 0


async def test_leaving_closes_the_executor_and_frees_the_slot(bench: Bench) -> None:
    bench.talker.hold = 2
    for _ in range(5):  # more often than there are slots
        generation = await bench.service.generate("talker", HELLO, CALL)
        async with aclosing(generation.deltas) as deltas:
            await anext(deltas)
    assert bench.talker.closed == 5
    assert bench.models.status(generation.served.ref).in_flight == 0


async def test_a_generation_that_is_never_read_costs_nothing(bench: Bench) -> None:
    generation = await bench.service.generate("talker", HELLO, CALL)
    await generation.deltas.aclose()
    assert bench.talker.requests == []
    assert bench.models.status(generation.served.ref).state == "unloaded"


async def test_the_deadline_of_a_call_ends_a_generation(bench: Bench) -> None:
    bench.talker.hold = 1
    call = Call("1", CALL.principal, deadline_s=bench.clock() + 0.02)
    generation = await bench.service.generate("talker", HELLO, call)
    with pytest.raises(DeadlineExceeded):
        async with asyncio.timeout(5):
            [delta async for delta in generation.deltas]
    assert bench.talker.closed == 1


async def test_work_in_the_background_waits_longer_than_the_models_own_limit(bench: Bench) -> None:
    bench.echo.hold = 0
    patient = Call("2", CALL.principal, bench.clock() + 600, PRIORITY)
    live = asyncio.create_task(bench.service.predict("echo", row(1, 4), CALL))
    background = asyncio.create_task(bench.service.predict("echo", row(1, 4), patient))
    await bench.echo.waiting.wait()
    bench.clock.advance(31)
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(live, 5)
    assert not background.done()
    bench.echo.go.set()
    assert (await asyncio.wait_for(background, 5)).served.ref.name == "echo"


async def test_what_a_model_cannot_do_is_said(bench: Bench) -> None:
    with pytest.raises(UnsupportedTask, match="echo:1 does not answer chat requests, it answers: predict"):
        await anext((await bench.service.generate("echo", HELLO, CALL)).deltas)
    with pytest.raises(UnsupportedTask, match="predict"):
        await bench.service.predict("talker", row(1, 4), CALL)
    with pytest.raises(ModelNotFound, match="known models: echo, talker"):
        await bench.service.predict("nobody", row(1, 4), CALL)


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (Sampling(temperature=-1), "temperature"),
        (Sampling(temperature=float("nan")), "temperature"),
        (Sampling(top_p=1.5), "top_p"),
        (Sampling(max_tokens=0), "max_tokens"),
        (Sampling(presence_penalty=9), "presence_penalty"),
        (Sampling(logprobs=21), "logprobs"),
        (Sampling(logit_bias={1: 200.0}), "logit_bias"),
        (Sampling(stop=("",)), "stop"),
        (Sampling(stop=tuple("abcdefghijklmnopqrst")), "stop"),
        (Sampling(seed=2**70), "seed"),
    ],
)
async def test_absurd_sampling_is_refused_by_name(bench: Bench, sampling: Sampling, field: str) -> None:
    for request in (Chat((Message("user", "hi"),), sampling), Complete("hi", sampling)):
        with pytest.raises(InvalidRequest) as error:
            await bench.service.generate("talker", request, CALL)
        assert error.value.param == field


@pytest.mark.parametrize(("request_", "field"), [(Chat(()), "messages"), (Chat(HELLO.messages, choices=99), "n")])
async def test_nothing_to_answer_and_too_many_answers(bench: Bench, request_: Chat, field: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        await bench.service.generate("talker", request_, CALL)
    assert error.value.param == field


def _lengths(batch: Tensors) -> dict[str, object]:
    """A vector (length, 1, 0) for each text, and one token per text."""
    lengths = [len(text) for text in texts_of(batch["text"])]
    if any(length > 100 for length in lengths):
        raise InvalidRequest("too long", param="input")
    vectors = np.array([[length, 1, 0] for length in lengths], np.float32)
    return {"embedding": vectors, "tokens": np.ones(len(lengths), np.int32)}


async def texts_bench(executor: FakeExecutor, max_batch_size: int = 2) -> InferenceService:
    model = manifest("m", signature=executor.loaded.signature, execution=Execution(max_batch_size=max_batch_size))
    models = ModelService(FakeRepository(model), lambda _: executor, FakeRoutes(), RecordingTelemetry(), FakeClock())
    await models.open()
    return InferenceService(models, RecordingTelemetry(), FakeClock())


async def test_texts_are_embedded_in_batches_and_come_back_in_order() -> None:
    service = await texts_bench(FakeExecutor(embed_signature(3), kinds=("embed",), compute=_lengths))
    answer = await service.embed("m", Embed(("a", "bb", "ccc", "dddd", "eeeee")), CALL)
    assert answer.vectors[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert (answer.vectors.dtype, answer.prompt_tokens, str(answer.served.ref)) == (np.float32, 5, "m:1")
    cut = await service.embed("m", Embed(("aaa",), dimensions=2), CALL)
    assert np.allclose(cut.vectors, [[3 / 10**0.5, 1 / 10**0.5]])
    for wrong, field in ((Embed(()), "input"), (Embed(("a",), dimensions=4), "dimensions")):
        with pytest.raises(InvalidRequest) as refused:
            await service.embed("m", wrong, CALL)
        assert refused.value.param == field
    with pytest.raises(InvalidRequest, match="too long"):
        await service.embed("m", Embed(("a", "b", "c", "d" * 101)), CALL)
    with pytest.raises(UnsupportedTask):
        await service.rerank("m", Rerank("q", ("d",)), CALL)


async def test_documents_are_scored() -> None:
    def overlap(batch: Tensors) -> dict[str, object]:
        pairs = zip(texts_of(batch["query"]), texts_of(batch["document"]), strict=True)
        scores = [len(set(query) & set(document)) for query, document in pairs]
        return {"score": np.array(scores, np.float32), "tokens": np.full(len(scores), 2, np.int32)}

    service = await texts_bench(FakeExecutor(RERANK_SIGNATURE, kinds=("rerank",), compute=overlap))
    answer = await service.rerank("m", Rerank("abc", ("a", "xyz", "abc")), CALL)
    assert (answer.scores.tolist(), answer.prompt_tokens) == ([1, 0, 3], 6)


async def test_an_adapter_is_chosen_by_the_target() -> None:
    executor = FakeExecutor(kinds=("chat",))
    executor.loaded = msgspec.structs.replace(executor.loaded, adapters=("pirate",))
    service = await texts_bench(executor)
    generation = await service.generate("m@pirate", HELLO, CALL)
    async with aclosing(generation.deltas) as deltas:
        assert [delta async for delta in deltas]
    assert (generation.served.adapter, generation.served.route) == ("pirate", "m@pirate")
    assert executor.requests[-1].adapter == "pirate"
    generation = await service.generate("m:1@parrot", HELLO, CALL)
    with pytest.raises(ModelNotFound, match="known adapters: pirate"):
        await anext(generation.deltas)


async def test_what_a_model_does_not_see_is_refused(bench: Bench) -> None:
    picture = Chat((Message("user", (ImagePart(b"..."),)),))
    generation = await bench.service.generate("talker", picture, CALL)
    with pytest.raises(UnsupportedTask, match=r"messages\[0\] holds image"):
        await anext(generation.deltas)


async def test_a_prompt_is_told_in_tokens(bench: Bench) -> None:
    assert await bench.service.tokenize("talker", HELLO, CALL) == (0,)
    with pytest.raises(UnsupportedTask):
        await bench.service.tokenize("echo", HELLO, CALL)


async def test_loading_does_not_count_against_the_models_own_limit() -> None:
    clock = FakeClock()

    class Slow(FakeExecutor):
        async def start(self) -> Loaded:
            clock.advance(60)
            return await super().start()

        async def run(self, parts: Sequence[Tensors], rows: Sequence[int]) -> BatchResult:
            await asyncio.sleep(0.05)  # long enough for those whose time is over to be told
            return await super().run(parts, rows)

    executor = Slow(ECHO_SIGNATURE)
    repository = FakeRepository(manifest("echo", signature=ECHO_SIGNATURE))
    models = ModelService(repository, lambda _: executor, FakeRoutes(), RecordingTelemetry(), clock)
    await models.open()
    service = InferenceService(models, RecordingTelemetry(), clock)
    assert (await service.predict("echo", row(1, 4), CALL)).outputs["y"].shape == (1, 4)


# -- several responses --------------------------------------------------------------------------------------------

ROW = {"x": np.zeros((1, 4), np.float32)}


class Streaming(Bench):
    """The echo gives a response for each of its words; two such requests run together."""

    def __init__(self) -> None:
        super().__init__()
        self.echo = FakeExecutor(ECHO_SIGNATURE, kinds=("predict_stream",), concurrency=2)


@pytest.fixture
async def streaming() -> AsyncIterator[Streaming]:
    made = Streaming()
    await made.models.open()
    yield made
    await made.models.close()


async def test_every_response_is_told_and_counted(streaming: Streaming) -> None:
    stream = streaming.service.predict_stream("echo", Predict(ROW, ("y",)), CALL)
    async with aclosing(stream.responses) as responses:
        found = [list(response.outputs) async for response in responses]
    assert found == [["y"]] * 4
    assert stream.served.rule == "latest"
    assert [(kind, outcome) for _, kind, outcome in streaming.telemetry.requests] == [("predict_stream", "ok")]
    statistics = streaming.models.statistics(stream.served.ref)
    assert (statistics.success.count, statistics.executions, statistics.inferences) == (1, 1, 1)


async def test_one_response_is_answered_and_several_are_refused(streaming: Streaming) -> None:
    with pytest.raises(UnsupportedTask, match="several responses"):
        await streaming.service.predict("echo", Predict(ROW), CALL)
    assert streaming.echo.closed == 1
    streaming.echo.words = ["only"]
    assert list((await streaming.service.predict("echo", Predict(ROW), CALL)).outputs) == ["y"]
    streaming.echo.words = []
    with pytest.raises(InferenceFailed, match="no response"):
        await streaming.service.predict("echo", Predict(ROW), CALL)
    assert [outcome for _, _, outcome in streaming.telemetry.requests] == ["unsupported_task", "ok", "inference_failed"]


async def test_a_model_of_one_response_streams_it(bench: Bench) -> None:
    stream = bench.service.predict_stream("echo", Predict(ROW), CALL)
    async with aclosing(stream.responses) as responses:
        assert len([response async for response in responses]) == 1


async def test_bad_inputs_never_reach_a_streaming_model(streaming: Streaming) -> None:
    with pytest.raises(InvalidTensor, match="'z'"):
        await anext(streaming.service.predict_stream("echo", Predict({**ROW, "z": ROW["x"]}), CALL).responses)
    with pytest.raises(InvalidTensor, match="output 'z'"):
        await anext(streaming.service.predict_stream("echo", Predict(ROW, ("z",)), CALL).responses)
    assert not streaming.echo.ended.is_set()


async def test_streams_wait_for_a_slot_and_give_it_back_when_they_are_left(streaming: Streaming) -> None:
    streaming.echo.hold = 1
    streams = [streaming.service.predict_stream("echo", Predict(ROW), CALL).responses for _ in range(3)]
    for stream in streams[:2]:
        await anext(stream)
    third = asyncio.ensure_future(anext(streams[2]))
    await asyncio.sleep(0.02)
    assert not third.done()
    await streams[0].aclose()
    await third
    assert streaming.echo.closed == 1
    for stream in streams[1:]:
        await stream.aclose()
    assert [outcome for _, _, outcome in streaming.telemetry.requests] == ["cancelled"] * 3


async def test_a_stream_ends_at_its_deadline(streaming: Streaming) -> None:
    streaming.echo.hold = 1
    call = msgspec.structs.replace(CALL, deadline_s=streaming.clock() + 0.05)
    responses = streaming.service.predict_stream("echo", Predict(ROW), call).responses
    await anext(responses)
    with pytest.raises(DeadlineExceeded):
        await anext(responses)
    assert streaming.echo.closed == 1


async def test_a_sequence_is_refused_by_models_that_keep_none(bench: Bench, streaming: Streaming) -> None:
    request = Predict(ROW, (), SequenceStep(5, start=True))
    with pytest.raises(InvalidRequest, match="keeps nothing between requests"):
        await bench.service.predict("echo", request, CALL)
    with pytest.raises(InvalidRequest, match="keeps nothing between requests"):
        await anext(streaming.service.predict_stream("echo", request, CALL).responses)


async def test_an_open_sequence_keeps_its_model_loaded() -> None:
    made = Bench()
    execution = Execution(keep_alive_s=0, sequences=Sequences(states=(SequenceState("x", "y"),)))
    keeper = manifest("echo", "1", ECHO_SIGNATURE, execution=execution)
    made.models = ModelService(FakeRepository(keeper), lambda _: made.echo, FakeRoutes(), made.telemetry, made.clock)
    service = InferenceService(made.models, made.telemetry, made.clock)
    await made.models.open()
    made.models.keep_alive(keeper.ref, 0)
    await service.predict("echo", Predict({}, (), SequenceStep(5, start=True)), CALL)
    await asyncio.sleep(0)
    assert made.models.is_ready(keeper.ref)
    with pytest.raises(InvalidRequest, match="give a sequence_id"):
        await service.predict("echo", Predict({}), CALL)
    await made.models.unload(keeper.ref)
    with pytest.raises(InvalidRequest, match="has no sequence 5"):
        await service.predict("echo", Predict({}, (), SequenceStep(5)), CALL)
    await made.models.close()


async def test_sequences_are_for_models_that_predict() -> None:
    made = Bench()
    talker = manifest("talker", execution=Execution(sequences=Sequences()))
    models = ModelService(FakeRepository(talker), lambda _: made.talker, FakeRoutes(), made.telemetry, made.clock)
    await models.open()
    with pytest.raises(InvalidManifest, match=r"execution\.sequences is for models that predict"):
        await models.load(talker.ref)
    assert made.talker.state == "stopped"
    await models.close()
