"""The Responses API through the official client against a live server."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

import openai
import pydantic
import pytest
from openai.types.responses import ResponseFunctionToolCall, ResponseReasoningItem

from inference_engine.domain import errors
from inference_engine.domain.requests import Chat, Generate, ImagePart, JsonSchema
from inference_engine.domain.results import Delta, Done, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from inference_engine.testing import FakeExecutor, manifest
from tests.http.support import World, listening

PNG = base64.b64encode(b"\x89PNG not really").decode()
WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALLS: list[Delta] = [
    ReasoningDelta("Rome or "),
    ReasoningDelta("Paris?"),
    TextDelta("Let me "),
    TextDelta("look."),
    ToolCallDelta("", call=0, id="call_a", name="weather"),
    ToolCallDelta('{"city":', call=0),
    ToolCallDelta(' "Rome"}', call=0),
    ToolCallDelta('{"city": "Paris"}', call=1, id="call_b", name="weather"),
    Done("tool_calls", Usage(7, 12, 2, 3)),
]


class Scripted(FakeExecutor):
    """Answers with the deltas it was given."""

    def __init__(self) -> None:
        super().__init__(kinds=("chat",))
        self.loaded = type(self.loaded)(("chat",), concurrency=4, context_length=4096, media=("image",))
        self.script: list[Delta] = []

    async def _deltas(self, request: Generate) -> AsyncGenerator[Delta]:
        for delta in self.script:
            yield delta


@pytest.fixture(scope="module")
def live() -> Iterator[tuple[World, str, Scripted]]:
    world = World()
    scripted = Scripted()
    world.repository.models.append(manifest("player"))
    world.executors.executors["player:1"] = scripted
    with listening(world) as url:
        yield world, url, scripted


@pytest.fixture
def world(live: tuple[World, str, Scripted]) -> Iterator[World]:
    yield live[0]
    live[0].chatty.fail = live[0].chatty.fail_after = None
    live[0].chatty.words = ["Hello", ", ", "world", "!"]


@pytest.fixture
def actor(live: tuple[World, str, Scripted]) -> Scripted:
    live[2].script = list(CALLS)
    return live[2]


@pytest.fixture
def client(live: tuple[World, str, Scripted], world: World) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live[1]}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(live: tuple[World, str, Scripted]) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{live[1]}/v1", api_key="none", max_retries=0) as made:
        yield made


def last_chat(executor: FakeExecutor) -> Chat:
    chat = executor.requests[-1]
    assert isinstance(chat, Chat)
    return chat


# -- answers -------------------------------------------------------------------------------------------------------


def test_a_text(client: openai.OpenAI, world: World) -> None:
    answer = client.responses.create(
        model="chatty", input="hi there", instructions="Be brief.", temperature=0.5, metadata={"a": "b"}, user="me"
    )
    assert answer.output_text == "Hello, world!"
    assert (answer.status, answer.error, answer.incomplete_details, answer.model) == ("completed", None, None, "chatty")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (2, 4, 6)
    assert (answer.instructions, answer.temperature, answer.metadata, answer.user) == (
        "Be brief.",
        0.5,
        {"a": "b"},
        "me",
    )
    assert answer.model_extra["served_by"]["version"] == "1"
    assert [(message.role, message.text) for message in last_chat(world.chatty).messages] == [
        ("system", "Be brief."),
        ("user", "hi there"),
    ]


async def test_the_async_client(async_client: openai.AsyncOpenAI) -> None:
    answer = await async_client.responses.create(model="chatty", input="hi")
    assert answer.output_text == "Hello, world!"
    stream = await async_client.responses.create(model="chatty", input="hi", stream=True)
    assert [event.type async for event in stream][-1] == "response.completed"


def test_an_answer_that_is_cut_short(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="chatty", input="hi", max_output_tokens=2)
    assert (answer.status, answer.output_text) == ("incomplete", "Hello, ")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[0].status == "incomplete"
    events = list(client.responses.create(model="chatty", input="hi", max_output_tokens=2, stream=True))
    assert events[-1].type == "response.incomplete"


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model="chatty", input="hi", top_logprobs=1, include=["message.output_text.logprobs"]
    )
    part = answer.output[0].content[0]
    assert [(token.token, token.top_logprobs[0].token) for token in part.logprobs][:2] == [
        ("Hello", "Hello0"),
        (", ", ", 0"),
    ]


def test_reasoning_text_and_calls(client: openai.OpenAI, actor: Scripted) -> None:
    answer = client.responses.create(model="player", input="How warm?", tools=[WEATHER], reasoning={"effort": "low"})
    reasoning, message, first, second = answer.output
    assert isinstance(reasoning, ResponseReasoningItem)
    assert reasoning.content is not None
    assert (reasoning.content[0].text, reasoning.summary) == ("Rome or Paris?", [])
    assert message.content[0].text == "Let me look."
    assert isinstance(first, ResponseFunctionToolCall)
    assert (first.call_id, first.name, first.arguments) == ("call_a", "weather", '{"city": "Rome"}')
    assert isinstance(second, ResponseFunctionToolCall)
    assert second.arguments == '{"city": "Paris"}'
    assert answer.usage is not None
    assert answer.usage.output_tokens_details.reasoning_tokens == 3
    assert answer.usage.input_tokens_details.cached_tokens == 2
    chat = last_chat(actor)
    assert (chat.reasoning, chat.tools[0].name, chat.tools[0].parameters) == ("low", "weather", WEATHER["parameters"])


def test_an_answer_with_nothing_in_it_is_still_a_message(client: openai.OpenAI, actor: Scripted) -> None:
    actor.script = [Done("stop", Usage(1, 0))]
    answer = client.responses.create(model="player", input="hi")
    assert (answer.output_text, len(answer.output)) == ("", 1)


# -- streams -------------------------------------------------------------------------------------------------------


def test_the_order_of_events(client: openai.OpenAI, actor: Scripted) -> None:
    events = list(client.responses.create(model="player", input="How warm?", tools=[WEATHER], stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type.removeprefix("response.") for event in events] == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    last = events[-1]
    assert last.type == "response.completed"
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert [item.model_dump() for item in done] == [item.model_dump() for item in last.response.output]
    assert [event.output_index for event in events if event.type == "response.output_item.added"] == [0, 1, 2, 3]
    same = client.responses.create(model="player", input="How warm?", tools=[WEATHER])
    assert _plain(same.output) == _plain(last.response.output)


def _plain(output: Any) -> list[dict[str, Any]]:
    return [item.model_dump(exclude={"id"}) for item in output]


def test_what_was_thought_as_a_summary(client: openai.OpenAI, actor: Scripted) -> None:
    asked: dict[str, Any] = {"model": "player", "input": "hi", "reasoning": {"summary": "auto"}}
    types = [event.type.removeprefix("response.") for event in client.responses.create(**asked, stream=True)]
    assert types[2:9] == [
        *("output_item.added", "reasoning_summary_part.added"),
        *("reasoning_summary_text.delta", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
    ]
    assert client.responses.create(**asked).output[0].summary[0].text == "Rome or Paris?"


def test_the_stream_helper(client: openai.OpenAI, actor: Scripted) -> None:
    with client.responses.stream(model="player", input="How warm?", tools=[WEATHER]) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots == ["Let me ", "Let me look."]
    assert final.output_text == "Let me look."


def test_an_error_before_the_first_word(client: openai.OpenAI, world: World) -> None:
    world.fail_with(errors.ContextLengthExceeded("too long", param="input"))
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="too long") as caught:
            client.responses.create(model="chatty", input="hi", stream=stream)
        assert caught.value.code == "context_length_exceeded"


def test_an_error_in_mid_stream(client: openai.OpenAI, world: World) -> None:
    world.fail_with(errors.RunnerLost("the runner is gone"), after=2)
    events = list(client.responses.create(model="chatty", input="hi", stream=True))
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert (last.response.error.code, last.response.error.message) == ("server_error", "the runner is gone")
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(last.response.id)


# -- structured answers --------------------------------------------------------------------------------------------


class Person(pydantic.BaseModel):
    name: str
    age: int


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the client's own, as it writes `parsed` back
def test_parse(client: openai.OpenAI, world: World) -> None:
    world.chatty.words = ['{"name": "Ada",', ' "age": 36}']
    answer = client.responses.parse(model="chatty", input="Who?", text_format=Person)
    assert answer.output_parsed == Person(name="Ada", age=36)
    constraint = last_chat(world.chatty).constraint
    assert isinstance(constraint, JsonSchema)
    assert constraint.schema["required"] == ["name", "age"]
    again = client.responses.create(
        model="chatty",
        input=[{"role": "user", "content": "Who?"}, *answer.output, {"role": "user", "content": "Sure?"}],
    )
    assert again.status == "completed"


def test_parsed_tools(client: openai.OpenAI, actor: Scripted) -> None:
    tool = openai.pydantic_function_tool(Person, name="weather")["function"]
    answer = client.responses.parse(
        model="player", input="hi", tools=[{"type": "function", "strict": True, **tool}], tool_choice="required"
    )
    assert answer.output[2].type == "function_call"
    assert last_chat(actor).tool_choice.mode == "required"


# -- conversations -------------------------------------------------------------------------------------------------


def test_a_tool_is_called_and_answered(client: openai.OpenAI, actor: Scripted) -> None:
    """The loop of an agent, by previous_response_id and by sending everything again: the model sees the same."""
    first = client.responses.create(model="player", input="How warm?", tools=[WEATHER])
    outputs: list[Any] = [
        {"type": "function_call_output", "call_id": "call_a", "output": "20"},
        {"type": "function_call_output", "call_id": "call_b", "output": [{"type": "input_text", "text": "15"}]},
    ]
    actor.script = [TextDelta("20 and 15."), Done("stop", Usage(9, 3))]
    second = client.responses.create(model="player", previous_response_id=first.id, input=outputs, tools=[WEATHER])
    assert (second.output_text, second.previous_response_id) == ("20 and 15.", first.id)
    chained = last_chat(actor).messages
    client.responses.create(
        model="player", input=[{"role": "user", "content": "How warm?"}, *first.output, *outputs], store=False
    )
    assert last_chat(actor).messages == chained
    assert [message.role for message in chained] == ["user", "assistant", "tool", "tool"]
    assistant = chained[1]
    assert (assistant.reasoning, assistant.text) == ("Rome or Paris?", "Let me look.")
    assert [(call.id, call.arguments) for call in assistant.tool_calls] == [
        ("call_a", '{"city": "Rome"}'),
        ("call_b", '{"city": "Paris"}'),
    ]
    assert [(message.tool_call_id, message.text) for message in chained[2:]] == [("call_a", "20"), ("call_b", "15")]


def test_calls_without_outputs_are_refused(client: openai.OpenAI, actor: Scripted) -> None:
    first = client.responses.create(model="player", input="How warm?", tools=[WEATHER])
    output: Any = {"type": "function_call_output", "call_id": "call_a", "output": "20"}
    with pytest.raises(openai.BadRequestError, match="'call_b' has no output"):
        client.responses.create(model="player", previous_response_id=first.id, input=[output])
    with pytest.raises(openai.BadRequestError, match="no function_call before it") as caught:
        client.responses.create(model="player", input=[output])
    assert caught.value.param == "input[0].call_id"


def test_instructions_do_not_carry_over(client: openai.OpenAI, world: World) -> None:
    first = client.responses.create(model="chatty", input="one", instructions="Old.")
    client.responses.create(model="chatty", input="two", instructions="New.", previous_response_id=first.id)
    assert [message.text for message in last_chat(world.chatty).messages] == ["New.", "one", "Hello, world!", "two"]


def test_stored_responses(client: openai.OpenAI) -> None:
    made = client.responses.create(model="chatty", input=[{"role": "user", "content": n} for n in "abc"])
    assert client.responses.retrieve(made.id).output_text == "Hello, world!"
    texts = [item.content[0].text for item in client.responses.input_items.list(made.id, limit=2)]
    assert texts == ["c", "b", "a"]
    assert [item.content[0].text for item in client.responses.input_items.list(made.id, order="asc")] == ["a", "b", "c"]
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(made.id)
    after = client.responses.create(model="chatty", input="d", previous_response_id=made.id)
    client.responses.delete(made.id)
    for gone in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            gone(made.id)
    with pytest.raises(openai.NotFoundError, match=f"{after.id} continues it") as caught:
        client.responses.create(model="chatty", input="e", previous_response_id=after.id)
    assert caught.value.param == "previous_response_id"


def test_what_is_not_to_be_stored_is_not(client: openai.OpenAI) -> None:
    made = client.responses.create(model="chatty", input="x", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="chatty", input="y", previous_response_id=made.id)


def test_counting_the_input(client: openai.OpenAI) -> None:
    assert client.responses.input_tokens.count(model="chatty", input="three little words").input_tokens == 3


def test_images(client: openai.OpenAI, actor: Scripted) -> None:
    content: list[Any] = [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "detail": "auto", "image_url": f"data:image/png;base64,{PNG}"},
    ]
    made = client.responses.create(model="player", input=[{"role": "user", "content": content}])
    parts = last_chat(actor).messages[0].content
    assert isinstance(parts[1], ImagePart)
    assert (parts[1].data, parts[1].media_type) == (b"\x89PNG not really", "image/png")
    assert client.responses.input_items.list(made.id).data[0].content[1].image_url.startswith("data:image/png")


# -- what is refused -----------------------------------------------------------------------------------------------

TURN = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"reasoning": {"summary": "concise"}}, "reasoning.summary"),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort"),
        ({"include": ["everything"]}, "include[0]"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "f", "parameters": {"type": "array"}}]}, "tools[0].parameters"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}},
         "tool_choice.tools"),
        ({"previous_response_id": "../../etc/passwd"}, "previous_response_id"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
         "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
         "input[0].content[0].file_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x/y.png"}]}]},
         "input[0].content[0].image_url"),
        ({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "xyz"}, TURN]},
         "input[0].encrypted_content"),
        ({"surprise": 1}, "surprise"),
    ],
)  # fmt: skip
def test_refused_by_name(client: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    asked = {"model": "chatty", "input": "hi", **fields}
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as caught:
        client.post("/responses", body=asked, cast_to=object)
    assert caught.value.param == param, caught.value.message
    assert len(caught.value.message) > 20


def test_what_asks_for_nothing_is_taken(client: openai.OpenAI) -> None:
    client.responses.create(
        model="chatty",
        input="hi",
        background=False,
        truncation="disabled",
        service_tier="auto",
        prompt_cache_key="x",
        max_tool_calls=3,
        include=["reasoning.encrypted_content"],
        parallel_tool_calls=True,
        tool_choice="auto",
        tools=[],
        text={"format": {"type": "text"}, "verbosity": "medium"},
    )
