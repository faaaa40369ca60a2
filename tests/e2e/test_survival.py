"""Runners are killed and stopped, clients leave, files are damaged: what a client sees, through the official client."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import httpx
import openai
import pytest

from tests.conftest import LiveServer

QUESTION = "Explain the architecture"


@pytest.fixture
def client(fragile: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{fragile.url}/v1", api_key="any", max_retries=0)


def ask(client: openai.OpenAI, **options: object) -> str:
    answer = client.chat.completions.create(
        model="guide:1",
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=120,
        **options,  # type: ignore[call-overload]
    )
    return str(answer.choices[0].message.content)


def streamed(client: openai.OpenAI, fragile: LiveServer, after: int, act: signal.Signals) -> tuple[str, int]:
    """The whole text of a streamed answer whose runner gets `act` after some chunks, and the tokens it cost."""
    stream = client.chat.completions.create(
        model="guide:1",
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=120,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, tokens = "", 0
    for chunk in stream:
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
        if chunk.choices and chunk.choices[0].delta.content:
            text += chunk.choices[0].delta.content
            after -= 1
            if after == 0:
                os.kill(fragile.pid_of("guide"), act)
    return text, tokens


@pytest.mark.parametrize("after", range(1, 21))
def test_a_killed_runner_does_not_change_the_answer(client: openai.OpenAI, fragile: LiveServer, after: int) -> None:
    whole = ask(client)
    text, tokens = streamed(client, fragile, after * 2, signal.SIGKILL)
    assert text == whole
    assert tokens <= 120


def test_a_stopped_runner_is_replaced(client: openai.OpenAI, fragile: LiveServer) -> None:
    whole = ask(client)
    assert streamed(client, fragile, 7, signal.SIGSTOP)[0] == whole


def test_a_json_schema_answer_survives_too(client: openai.OpenAI, fragile: LiveServer) -> None:
    schema = {
        "type": "object",
        "properties": {"topic": {"type": "string", "maxLength": 40}, "score": {"type": "integer"}},
        "required": ["topic", "score"],
        "additionalProperties": False,
    }
    asked = {
        "model": "guide:1",
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 80,
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
    }
    whole = client.chat.completions.create(**asked).choices[0].message.content
    text = ""
    for number, chunk in enumerate(client.chat.completions.create(**asked, stream=True)):
        text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        if number == 5:
            os.kill(fragile.pid_of("guide"), signal.SIGKILL)
    assert text == whole


@pytest.mark.parametrize("after", [1, 2, 5, 9])
def test_a_tool_call_survives_too(client: openai.OpenAI, fragile: LiveServer, after: int) -> None:
    parameters = {
        "type": "object",
        "properties": {"topic": {"type": "string", "maxLength": 40}, "score": {"type": "integer"}},
        "required": ["topic", "score"],
        "additionalProperties": False,
    }
    asked = {
        "model": "guide:1",
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 120,
        "tools": [{"type": "function", "function": {"name": "rate", "parameters": parameters}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    whole = client.chat.completions.create(**asked).choices[0]
    names, ids, arguments, reason = [], [], "", None
    for chunk in client.chat.completions.create(**asked, stream=True):
        reason = chunk.choices[0].finish_reason
        for call in chunk.choices[0].delta.tool_calls or ():
            names += [call.function.name] if call.function.name else []
            ids += [call.id] if call.id else []
            arguments += call.function.arguments or ""
            after -= 1
            if after == 0:
                os.kill(fragile.pid_of("guide"), signal.SIGKILL)
    assert after <= 0, "the call was over before its runner was killed"
    assert (names, len(ids), reason) == (["rate"], 1, whole.finish_reason)
    assert arguments == whole.message.tool_calls[0].function.arguments
    assert set(json.loads(arguments)) == {"topic", "score"}


def test_other_models_do_not_notice(client: openai.OpenAI, fragile: LiveServer) -> None:
    infer = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]}
    ask(client)
    os.kill(fragile.pid_of("guide"), signal.SIGKILL)
    answer = httpx.post(f"{fragile.url}/v2/models/iris/infer", json=infer)
    assert answer.status_code == 200
    assert ask(client)


def trace(fragile: LiveServer) -> Path:
    return Path(str(fragile._folder)) / "models" / "slow" / "1" / "trace"


def settled(file: Path) -> int:
    """The number in a trace file once it has stopped growing."""
    last = None
    give_up = time.monotonic() + 10
    while (now := file.read_text()) != last or not now:
        assert time.monotonic() < give_up, "the computation goes on though the client has left"
        last = now
        time.sleep(0.15)
    return int(now)


@pytest.mark.parametrize("stream", [True, False])
def test_compute_stops_when_the_client_leaves(fragile: LiveServer, stream: bool) -> None:
    body = {"model": "slow", "messages": [{"role": "user", "content": "count"}], "stream": stream}
    httpx.post(f"{fragile.url}/admin/models/slow/1/load", timeout=30)
    trace(fragile).unlink(missing_ok=True)
    with (
        pytest.raises(httpx.ReadTimeout),
        httpx.stream("POST", f"{fragile.url}/v1/chat/completions", json=body, timeout=0.5) as answer,
    ):
        for chunk in answer.iter_bytes():
            if b"3 " in chunk:
                raise httpx.ReadTimeout("leaving")
    assert settled(trace(fragile)) < 2_000


def test_a_client_that_leaves_in_mid_prefill_frees_its_slot(client: openai.OpenAI, fragile: LiveServer) -> None:
    words = " ".join(f"word{number}" for number in range(280))
    for _ in range(12):
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.01).chat.completions.create(
                model="guide:1", messages=[{"role": "user", "content": words}], max_tokens=500
            )
    started = time.monotonic()
    assert ask(client)
    assert time.monotonic() - started < 20
    give_up = time.monotonic() + 10
    while fragile.model("guide")["in_flight"]:
        assert time.monotonic() < give_up, "requests of clients that left are still in flight"
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["cut-gguf", "noise-gguf"])
def test_a_damaged_gguf_is_a_clear_error(client: openai.OpenAI, fragile: LiveServer, name: str) -> None:
    for _ in range(2):
        with pytest.raises(openai.InternalServerError, match=r"model\.gguf"):
            client.chat.completions.create(model=name, messages=[{"role": "user", "content": "hi"}])
    assert fragile.model(name)["state"] == "failed"
    assert ask(client)


@pytest.mark.parametrize("name", ["cut-onnx", "noise-onnx"])
def test_a_damaged_onnx_is_a_clear_error(fragile: LiveServer, name: str) -> None:
    infer = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    answer = httpx.post(f"{fragile.url}/v2/models/{name}/infer", json=infer, timeout=30)
    assert answer.status_code >= 500
    assert "model.onnx" in answer.json()["error"]
    assert fragile.model(name)["state"] == "failed"


def test_a_full_queue_says_when_to_come_back(fragile: LiveServer) -> None:
    import concurrent.futures

    infer = {"inputs": [{"name": "seconds", "shape": [1, 1], "datatype": "FP32", "data": [0.4]}]}

    def post(_: int) -> httpx.Response:
        return httpx.post(f"{fragile.url}/v2/models/slow/infer", json=infer, timeout=30)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(post, range(12)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in refused} == {429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert 3 <= len(answers) - len(refused) <= 5
    assert "queue_limit" in refused[0].json()["error"]


def test_unloading_gives_the_memory_back(client: openai.OpenAI, fragile: LiveServer) -> None:
    ask(client)
    pid = fragile.pid_of("guide")
    answer = httpx.post(f"{fragile.url}/admin/models/guide/1/unload", timeout=30).json()
    assert answer["state"] == "unloaded"
    assert answer["memory_returned_bytes"] > 20_000_000
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_route_can_be_seen_and_changed_and_survives_a_restart(client: openai.OpenAI, fragile: LiveServer) -> None:
    def served() -> tuple[str, str]:
        answer = client.chat.completions.with_raw_response.create(
            model="guide", messages=[{"role": "user", "content": "hello"}], max_tokens=1
        )
        return answer.headers["x-model-version"], answer.headers["x-model-rule"]

    assert served() == ("2", "latest")
    httpx.put(f"{fragile.url}/admin/routes/guide", json={"target": "guide:1"}).raise_for_status()
    assert served() == ("1", "pinned")
    assert fragile.stop() == 0
    fragile.start()
    assert served() == ("1", "pinned")
    routes = httpx.get(f"{fragile.url}/admin/routes").json()["routes"]
    assert {"name": "guide", "rule": "pinned", "target": {"name": "guide", "version": "1"}} in routes
    httpx.delete(f"{fragile.url}/admin/routes/guide").raise_for_status()
    assert served() == ("2", "latest")
