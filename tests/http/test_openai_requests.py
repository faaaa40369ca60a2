"""What OpenAI's fields become, which are ignored, which are refused, and by which name."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from inference_engine.adapters.http.openai.wire import REFUSED
from inference_engine.core.settings import Settings
from inference_engine.domain.requests import Chat, Complete, Grammar, JsonSchema, Message, Regex, Sampling
from inference_engine.domain.results import PositionLogprobs, TextDelta, TokenLogprob
from tests.http.support import World

CHAT: dict[str, Any] = {"model": "chatty", "messages": [{"role": "user", "content": "hi"}]}
PROMPT: dict[str, Any] = {"model": "chatty", "prompt": "hi"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


async def chat(http: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await http.post("/v1/chat/completions", json=CHAT | fields)


async def complete(http: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await http.post("/v1/completions", json=PROMPT | fields)


@pytest.mark.parametrize(
    ("fields", "sampling"),
    [
        ({"max_tokens": 5}, Sampling(max_tokens=5)),
        ({"max_completion_tokens": 5}, Sampling(max_tokens=5)),
        ({"max_completion_tokens": 5, "max_tokens": 5}, Sampling(max_tokens=5)),
        ({"temperature": 0, "top_p": 1}, Sampling(temperature=0, top_p=1)),
        ({"presence_penalty": 1, "frequency_penalty": -1}, Sampling(presence_penalty=1, frequency_penalty=-1)),
        ({"seed": 7}, Sampling(seed=7)),
        ({"stop": "a"}, Sampling(stop=("a",))),
        ({"stop": ["a", "b"]}, Sampling(stop=("a", "b"))),
        ({"logit_bias": {"42": -100}}, Sampling(logit_bias={42: -100.0})),
        ({"logprobs": True}, Sampling(logprobs=0)),
        ({"logprobs": True, "top_logprobs": 3}, Sampling(logprobs=3)),
        ({"logprobs": False}, Sampling()),
        ({"top_k": 40, "min_p": 0.1, "repeat_penalty": 1.1}, Sampling(top_k=40, min_p=0.1, repeat_penalty=1.1)),
        ({"top_k": -1, "repetition_penalty": 1.2}, Sampling(top_k=0, repeat_penalty=1.2)),
        ({"ignore_eos": True}, Sampling(ignore_eos=True)),
        ({"typical_p": 0.9, "repeat_last_n": 64}, Sampling(typical_p=0.9, repeat_last_n=64)),
        (dict.fromkeys(("stop", "seed", "tools", "n", "logit_bias", "stream", "max_tokens")), Sampling()),
        ({"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"}, Sampling()),
        ({"tools": [], "tool_choice": "none", "modalities": ["text"], "parallel_tool_calls": True}, Sampling()),
    ],
)
async def test_sampling(world: World, http: httpx.AsyncClient, fields: dict[str, Any], sampling: Sampling) -> None:
    answer = await chat(http, **fields)
    assert answer.status_code == 200, answer.text
    assert world.chatty.requests[-1].sampling == sampling


@pytest.mark.parametrize(
    ("wanted", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}, SCHEMA),
        ({"type": "json_schema", "schema": SCHEMA}, SCHEMA),
        ({"type": "json_object", "schema": SCHEMA}, SCHEMA),
    ],
)
async def test_response_format(world: World, http: httpx.AsyncClient, wanted: Any, schema: Any) -> None:
    for answer in (await chat(http, response_format=wanted), await complete(http, response_format=wanted)):
        assert answer.status_code == 200
        assert world.chatty.requests[-1].constraint == (None if schema is None else JsonSchema(schema))


async def test_messages(world: World, http: httpx.AsyncClient) -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "ann"},
        {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "user", "content": ""},
    ]
    await chat(http, messages=messages)
    request = world.chatty.requests[-1]
    assert isinstance(request, Chat)
    assert request.messages == (
        Message("system", "be brief"),
        Message("user", "ab", "ann"),
        Message("assistant", "c"),
        Message("user", ""),
    )


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"response_format": {"type": "regex", "pattern": "a+"}}, Regex("a+")),
        ({"response_format": {"type": "regex", "regex": "a+"}}, Regex("a+")),
        ({"response_format": {"type": "grammar", "grammar": 'root ::= "a"'}}, Grammar('root ::= "a"')),
        ({"structured_outputs": {"json": SCHEMA}}, JsonSchema(SCHEMA)),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, JsonSchema(SCHEMA)),
        ({"structured_outputs": {"json_object": True}}, JsonSchema({"type": "object"})),
        ({"structured_outputs": {"regex": "a+"}}, Regex("a+")),
        ({"structured_outputs": {"choice": ["yes", 'no "x"\n']}}, Grammar('root ::= "yes" | "no \\"x\\"\\n"')),
        ({"structured_outputs": {"grammar": "g"}}, Grammar("g")),
        ({"guided_json": SCHEMA}, JsonSchema(SCHEMA)),
        ({"guided_regex": "a+"}, Regex("a+")),
        ({"guided_choice": ["a", "b"]}, Grammar('root ::= "a" | "b"')),
        ({"guided_grammar": "g"}, Grammar("g")),
        ({"json_schema": SCHEMA}, JsonSchema(SCHEMA)),
        ({"grammar": "g"}, Grammar("g")),
        ({"grammar": "", "guided_json": None}, None),
    ],
)
async def test_other_servers_ways_to_bind_the_answer(
    world: World, http: httpx.AsyncClient, fields: dict[str, Any], constraint: Any
) -> None:
    for answer in (await chat(http, **fields), await complete(http, **fields)):
        assert answer.status_code == 200, answer.text
        assert world.chatty.requests[-1].constraint == constraint


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"grammar": "g", "guided_regex": "a"}, "grammar"),
        ({"response_format": {"type": "json_object"}, "guided_choice": ["a"]}, "guided_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "regex"}}, "response_format.regex"),
        ({"response_format": {"type": "grammar"}}, "response_format.grammar"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": [""]}, "guided_choice"),
    ],
)
async def test_bounds_that_make_no_sense(http: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    answer = await chat(http, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_the_priority_reaches_the_waiting_line(http: httpx.AsyncClient) -> None:
    assert (await chat(http, priority=3)).status_code == 200
    assert (await chat(http, priority=-3)).json()["error"]["param"] == "priority"
    assert (await chat(http, priority="high")).json()["error"]["param"] == "priority"


async def test_token_prompts_and_suffix(world: World, http: httpx.AsyncClient) -> None:
    await complete(http, prompt=[1, 2, 3])
    await complete(http, prompt=[[4, 5], [6]], suffix="end")
    found = [request for request in world.chatty.requests if isinstance(request, Complete)]
    assert {(request.prompt, request.suffix) for request in found} == {
        ((1, 2, 3), None),
        ((4, 5), "end"),
        ((6,), "end"),
    }


async def test_best_of_gives_the_likeliest(world: World, http: httpx.AsyncClient) -> None:
    def script(request: Any) -> Any:
        likely = -0.1 * (10 - len(world.chatty.requests))
        yield TextDelta(f"choice {likely:.1f}", (1,), (PositionLogprobs(TokenLogprob("c", likely, b"c")),))

    world.chatty.script = script
    answer = (await complete(http, prompt=["a", "b"], best_of=3)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    best = {choice["text"] for choice in answer["choices"]}
    assert "choice -0.4" in best  # the last of the six that began
    assert answer["usage"]["completion_tokens"] == 6


async def test_prompts(world: World, http: httpx.AsyncClient) -> None:
    await complete(http, prompt=["a", "b"], echo=True, best_of=1)
    assert [request.prompt for request in world.chatty.requests if isinstance(request, Complete)] == ["a", "b"]
    assert all(request.echo for request in world.chatty.requests if isinstance(request, Complete))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"prediction": {"type": "content"}}, "prediction"),
        ({"reasoning_effort": "endless"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ({"verbosity": "low"}, "verbosity"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e300}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"seed": 2**80}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 100}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 1000}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 100}, "logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"stream_options": {"surprise": 1}}, "stream_options.surprise"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "function", "content": "hi", "name": "f"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content[0].text"),
        ({"model": 7}, "model"),
        ({"model": ""}, "model"),
        ({"model": "../../etc/passwd"}, "model"),
        ({"model": "a" * 5000}, "model"),
    ],
)
async def test_refused_by_name(http: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    answer = await chat(http, **fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert param.rsplit(".", 1)[-1] in error["message"]
    assert len(error["message"]) < 500


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 3, "stream": True}, "best_of"),
        ({"best_of": 300}, "best_of"),
        ({"prompt": [1, -2, 3]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [[1, 2.5]]}, "prompt[0]"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [{}]}, "prompt[0]"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["x"] * 100}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": []}, "messages"),
    ],
)
async def test_completions_refuse_by_name(http: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    answer = await complete(http, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_every_refused_field_is_known() -> None:
    """A name in REFUSED that no request has would never be refused with its remedy."""
    from inference_engine.adapters.http.openai.wire import ChatRequest, CompletionRequest

    assert set(REFUSED) <= set(ChatRequest.__struct_fields__) | set(CompletionRequest.__struct_fields__)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"messages":' + b"[" * 100_000, b"\xff"])
@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/v2/rerank", "/tokenize"],
)
async def test_hostile_json(http: httpx.AsyncClient, path: str, body: bytes) -> None:
    answer = await http.post(path, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_deep_schema_is_only_data(http: httpx.AsyncClient) -> None:
    schema = json.loads('{"a":' * 200 + "1" + "}" * 200)
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert (await chat(http, response_format=wanted)).status_code == 200


async def test_the_default_model() -> None:
    for default, status in ((None, 400), ("chatty", 200)):
        world = World(Settings(default_model=default))
        await world.open()
        async with world.client() as http:
            answer = await http.post("/v1/chat/completions", json={"messages": CHAT["messages"]})
            assert answer.status_code == status


async def test_a_tabular_model_does_not_chat(http: httpx.AsyncClient) -> None:
    answer = await chat(http, model="echo")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unsupported_task"
