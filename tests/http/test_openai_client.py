"""The official client against a live server: what it sends is understood, what it raises is right."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from inference_engine.domain import errors
from inference_engine.domain.errors import EngineError
from tests.http.support import World

Live = tuple[World, str]
HI = [{"role": "user", "content": "hi there"}]


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    world, url = live
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made
    world.chatty.fail = world.chatty.fail_after = None


@pytest.fixture
async def async_client(live: Live) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{live[1]}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_models(client: openai.OpenAI) -> None:
    ids = [model.id for model in client.models.list()]
    assert {"chatty", "chatty:1", "echo", "echo:2"} <= set(ids)
    assert client.models.retrieve("echo").model_extra["version"] == "2"


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="chatty", messages=HI, temperature=0.5, user="me", seed=3)
    assert answer.choices[0].message.content == "Hello, world!"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (2, 4, 6)
    assert answer.model_extra["served_by"] == {"name": "chatty", "version": "1", "route": "chatty", "rule": "latest"}


def test_headers_say_who_served(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="chatty:1", messages=HI)
    assert raw.headers["x-model-version"] == "1"
    assert raw.headers["x-model-route"] == "chatty:1"
    assert raw.headers["x-model-rule"] == "exact"
    assert raw.parse().model == "chatty:1"


def test_an_answer_can_be_sent_back(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(model="chatty", messages=HI).choices[0].message
    again = [*HI, message.model_dump(), {"role": "user", "content": [{"type": "text", "text": "more"}]}]
    assert client.chat.completions.create(model="chatty", messages=again).choices[0].message.content


def test_streaming(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="chatty", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello, world!"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 6


def test_the_stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="chatty", messages=HI) as stream:
        assert stream.get_final_completion().choices[0].message.content == "Hello, world!"


def test_several_choices_with_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="chatty", messages=HI, n=2, logprobs=True, top_logprobs=2, max_completion_tokens=2
    )
    assert [choice.message.content for choice in answer.choices] == ["Hello, ", "Hello, "]
    assert answer.choices[1].finish_reason == "length"
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [token.token for token in logprobs.content] == ["Hello", ", "]
    assert logprobs.content[0].bytes == list(b"Hello")
    assert [top.token for top in logprobs.content[0].top_logprobs] == ["Hello0", "Hello1"]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 4)


def test_several_streamed_choices(client: openai.OpenAI) -> None:
    texts = {0: "", 1: ""}
    for chunk in client.chat.completions.create(model="chatty", messages=HI, n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: "Hello, world!", 1: "Hello, world!"}


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="chatty", prompt=["one", "two words"], n=2, echo=True, max_tokens=2)
    assert [choice.text for choice in answer.choices] == ["oneHello, "] * 2 + ["two wordsHello, "] * 2
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 8)


def test_completion_logprobs(client: openai.OpenAI) -> None:
    found = client.completions.create(model="chatty", prompt="x", logprobs=1).choices[0].logprobs
    assert found is not None
    assert found.tokens == ["Hello", ", ", "world", "!"]
    assert found.text_offset == [0, 5, 7, 12]
    assert found.token_logprobs == [-0.5] * 4
    assert found.top_logprobs is not None
    assert found.top_logprobs[0] == {"Hello0": -1.0}


def test_streamed_completions(client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(model="chatty", prompt=["a", "b"], stream=True, logprobs=0))
    for index in (0, 1):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert "".join(choice.text for choice in mine) == "Hello, world!"
        assert [choice.logprobs.text_offset for choice in mine if choice.logprobs] == [[0], [5], [7], [12]]
        assert mine[-1].finish_reason == "stop"


async def test_the_async_client(async_client: openai.AsyncOpenAI) -> None:
    answer = await async_client.chat.completions.create(model="chatty", messages=HI)
    assert answer.choices[0].message.content == "Hello, world!"
    stream = await async_client.chat.completions.create(model="chatty", messages=HI, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == "Hello, world!"


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (errors.ContextLengthExceeded("too long"), openai.BadRequestError),
        (errors.Unauthenticated("who?"), openai.AuthenticationError),
        (errors.Forbidden("no"), openai.PermissionDeniedError),
        (errors.QueueFull("later"), openai.RateLimitError),
        (errors.InferenceFailed("broken"), openai.InternalServerError),
        (errors.ModelNotReady("later"), openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_error_classes(
    live: Live, client: openai.OpenAI, error: EngineError, raised: type[openai.APIStatusError], stream: bool
) -> None:
    live[0].fail_with(error)
    with pytest.raises(raised) as caught:
        client.chat.completions.create(model="chatty", messages=HI, stream=stream)
    assert caught.value.body["message"] == error.message


def test_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=HI)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_unsupported_fields(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="chatty", messages=HI, functions=[{"name": "f", "parameters": {}}])
    assert caught.value.param == "functions"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="chatty", messages=HI, extra_body={"surprise": 1})
    assert caught.value.param == "surprise"


def test_an_error_in_mid_stream_is_raised(live: Live, client: openai.OpenAI) -> None:
    live[0].fail_with(errors.RunnerLost("the runner is gone"), after=2)
    heard = ""
    with pytest.raises(openai.APIError, match="the runner is gone"):
        for chunk in client.chat.completions.create(model="chatty", messages=HI, stream=True):
            heard += chunk.choices[0].delta.content or ""
    assert heard == "Hello, "


def test_the_client_retries_what_is_worth_it(live: Live) -> None:
    world, url = live
    world.fail_with(errors.InferenceFailed("broken"))
    before = len(world.chatty.requests)
    patient = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=2)
    with patient, pytest.raises(openai.InternalServerError):
        patient.chat.completions.create(model="chatty", messages=HI)
    assert len(world.chatty.requests) == before + 1
    world.chatty.fail = None


def test_closing_a_stream_stops_the_compute(live: Live, client: openai.OpenAI) -> None:
    world = live[0]
    world.chatty.hold = 2
    before = world.chatty.closed
    stream = client.chat.completions.create(model="chatty", messages=HI, stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content == ", ":
            break
    stream.close()
    while world.chatty.closed == before:  # the server notices in its own time; pytest-timeout bounds this
        pass
    world.chatty.hold = None
