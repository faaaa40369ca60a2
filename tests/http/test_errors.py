"""Every error of the domain has its status and its shape in every dialect."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from inference_engine.adapters.http.admin import errors as admin_errors
from inference_engine.adapters.http.anthropic import errors as anthropic_errors
from inference_engine.adapters.http.endpoints import ErrorAnswer
from inference_engine.adapters.http.exchange import HttpError
from inference_engine.adapters.http.inference_api import errors as inference_errors
from inference_engine.adapters.http.ollama import errors as ollama_errors
from inference_engine.adapters.http.openai import errors as openai_errors
from inference_engine.adapters.http.v2 import errors as v2_errors
from inference_engine.domain import errors
from inference_engine.domain.errors import EngineError, all_errors
from tests.http.support import World

RENDERERS = {
    "anthropic": anthropic_errors.render,
    "openai": openai_errors.render,
    "v2": v2_errors.render,
    "admin": admin_errors.render,
    "ollama": ollama_errors.render,
    "inference": inference_errors.render,
}


def shape_of(dialect: str, answer: ErrorAnswer) -> str:
    """Check the shape; give back the message."""
    body: dict[str, Any] = json.loads(answer.body)
    if dialect == "anthropic":
        assert list(body) == ["type", "error", "request_id"]
        assert body["type"] == "error"
    else:
        assert list(body) == ["error"]
    if dialect in ("v2", "ollama"):
        assert isinstance(body["error"], str)
        return body["error"]
    expected = {
        "anthropic": ["type", "message", "param", "code"],
        "openai": ["message", "type", "param", "code"],
        "admin": ["code", "message", "param"],
        "inference": ["code", "message", "field"],
    }
    assert list(body["error"]) == expected[dialect]
    return str(body["error"]["message"])


@pytest.mark.parametrize("dialect", RENDERERS)
@pytest.mark.parametrize("kind", all_errors())
def test_every_error_is_mapped(dialect: str, kind: type[EngineError]) -> None:
    error = kind("do this instead", param="field", retry_after_s=2.5)
    answer = RENDERERS[dialect](error)
    assert shape_of(dialect, answer) == "do this instead"
    assert 400 <= answer.status < 600
    assert (b"retry-after", b"3") in answer.headers


@pytest.mark.parametrize("dialect", RENDERERS)
def test_errors_of_the_way_are_mapped(dialect: str) -> None:
    answer = RENDERERS[dialect](HttpError(413, "body_too_large", "send less", headers=((b"connection", b"close"),)))
    assert answer.status == 413
    assert shape_of(dialect, answer) == "send less"
    assert answer.headers == ((b"connection", b"close"),)


@pytest.mark.parametrize("dialect", RENDERERS)
@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.InvalidRequest, 400),
        (errors.ModelNotFound, 404),
        (errors.Unauthenticated, 401),
        (errors.Forbidden, 403),
        (errors.QueueFull, 429),
        (errors.ShuttingDown, 503),
        (errors.DeadlineExceeded, 504),
        (errors.InferenceFailed, 500),
    ],
)
def test_statuses_clients_act_on(dialect: str, kind: type[EngineError], status: int) -> None:
    assert RENDERERS[dialect](kind("x")).status == status


def test_openai_clients_are_told_what_is_not_worth_a_retry() -> None:
    no_retry = (b"x-should-retry", b"false")
    assert no_retry in openai_errors.render(errors.InferenceFailed("x")).headers
    assert no_retry not in openai_errors.render(errors.RunnerLost("x")).headers
    assert no_retry not in openai_errors.render(errors.QueueFull("x")).headers


@pytest.mark.parametrize(
    "kind", [errors.QueueFull, errors.RunnerLost, errors.ContextLengthExceeded, errors.ModelNotReady]
)
async def test_errors_of_the_executor_reach_the_client(
    world: World, http: httpx.AsyncClient, kind: type[EngineError]
) -> None:
    world.fail_with(kind("try this", param="messages"))
    body = {"model": "chatty", "messages": [{"role": "user", "content": "hi"}]}
    for stream in (False, True):
        answer = await http.post("/v1/chat/completions", json={**body, "stream": stream})
        assert answer.status_code == openai_errors.MEANINGS[kind].status
        assert answer.json()["error"]["message"] == "try this"
        assert answer.json()["error"]["param"] == "messages"
        assert answer.headers["content-type"] == "application/json"


async def test_a_model_that_cannot_be_loaded(http: httpx.AsyncClient) -> None:
    answer = await http.post("/admin/models/failing/1/load")
    assert answer.status_code == 422
    assert answer.json() == {
        "error": {"code": "model_load_failed", "message": "model.fake is damaged: fetch it again", "param": None}
    }
    status = (await http.get("/admin/models/failing/1")).json()
    assert status["state"] == "failed"
    assert status["error"]["code"] == "model_load_failed"
