"""Embeddings, rerankings, token counts and the list of models over the fakes."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from inference_engine.adapters.http.openai.wire_texts import RERANK_REFUSED, RerankRequest
from tests.http.support import World


def test_the_client_reads_base64_and_floats(live: tuple[World, str]) -> None:
    with openai.OpenAI(base_url=f"{live[1]}/v1", api_key="none", max_retries=0) as client:
        packed = client.embeddings.create(model="vectors", input=["one", "two words"])  # the client asks for base64
        plain = client.embeddings.create(model="vectors", input=["one", "two words"], encoding_format="float", user="u")
        assert (
            [item.embedding for item in packed.data]
            == [item.embedding for item in plain.data]
            == [[3, 1, 1], [8, 2, 1]]
        )
        assert (packed.usage.prompt_tokens, packed.usage.total_tokens) == (3, 3)
        (short,) = client.embeddings.create(model="vectors", input="one", dimensions=1).data
        assert short.embedding == [1.0]


async def test_many_texts_are_computed_in_batches(http: httpx.AsyncClient) -> None:
    answer = (
        await http.post("/v1/embeddings", json={"model": "vectors", "input": ["w" * n for n in range(1, 201)]})
    ).json()
    assert [item["embedding"][0] for item in answer["data"]] == list(range(1, 201))
    assert [item["index"] for item in answer["data"]] == list(range(200))


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"input": []}, "input", "1 to 2048"),
        ({"input": ["x"] * 2049}, "input", "1 to 2048"),
        ({"input": ""}, "input", "not empty"),
        ({"input": ["a", ""]}, "input[1]", "not empty"),
        ({"input": ["a", None]}, "input[1]", "not empty"),
        ({"input": [1, 2]}, "input", "check_embedding_ctx_length=False"),
        ({"input": [[1, 2]]}, "input", "check_embedding_ctx_length=False"),
        ({"input": "a", "dimensions": 4}, "dimensions", "1 to 3"),
        ({"input": "a", "dimensions": 0}, "dimensions", "1 to 3"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "enum"),
        ({"input": "a", "input_type": "query"}, "input_type", "leave it out"),
        ({"input": "a", "model": "chatty"}, "model", "embed"),
    ],
)
async def test_embeddings_refuse_by_name(
    http: httpx.AsyncClient, fields: dict[str, Any], param: str, words: str
) -> None:
    answer = await http.post("/v1/embeddings", json={"model": "vectors"} | fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert words in error["message"]


ASK = {"model": "vectors", "query": "blue sky", "documents": ["green", "a blue sky", {"text": "blue"}]}


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
async def test_rerank(http: httpx.AsyncClient, path: str) -> None:
    whole = (await http.post(path, json=ASK)).json()["results"]
    assert [(result["index"], result["relevance_score"]) for result in whole] == [(1, 1.0), (2, 0.5), (0, 0.0)]
    for wanted in (True, False):
        best = (await http.post(path, json=ASK | {"top_n": 1, "return_documents": wanted})).json()["results"]
        assert [result.get("document") for result in best] == [{"text": "a blue sky"} if wanted else None]
    assert ("document" in whole[0]) == (path != "/v2/rerank")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": [1]}, "documents[0]"),
        ({"documents": [{"text": "a", "title": "b"}]}, "documents[0]"),
        ({"query": None}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"max_tokens_per_doc": 5}, "max_tokens_per_doc"),
        ({"rank_fields": ["a"]}, "rank_fields"),
        ({"surprise": 1}, "surprise"),
        ({"model": "chatty"}, "model"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
async def test_rerank_refuses_by_name(http: httpx.AsyncClient, path: str, fields: dict[str, Any], param: str) -> None:
    answer = await http.post(path, json=ASK | fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert set(RERANK_REFUSED) <= set(RerankRequest.__struct_fields__)


async def test_wrong_methods_have_openai_s_shape(http: httpx.AsyncClient) -> None:
    for path in ("/v2/rerank", "/rerank", "/tokenize", "/v1/embeddings"):
        answer = await http.get(path)
        assert answer.status_code == 405
        assert answer.json()["error"]["code"] == "method_not_allowed"
    answer = await http.delete("/v1/models/chatty")
    assert answer.status_code == 405
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_tokenize(http: httpx.AsyncClient) -> None:
    messages = [{"role": "user", "content": "three small words"}]
    answer = (await http.post("/tokenize", json={"model": "chatty", "messages": messages})).json()
    assert answer == {"count": 3, "max_model_len": 4096, "tokens": [0, 1, 2], "token_strs": None}
    for fields, param in (
        ({}, "prompt"),
        ({"prompt": "a", "messages": messages}, "prompt"),
        ({"prompt": "a", "add_special_tokens": False}, "add_special_tokens"),
        ({"prompt": "a", "return_token_strs": True}, "return_token_strs"),
        ({"prompt": "a", "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ):
        refused = await http.post("/tokenize", json={"model": "chatty", **fields})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


async def test_adapters_are_listed_once_the_model_is_loaded(http: httpx.AsyncClient) -> None:
    await http.post("/admin/models/actor/1/load")
    listed = {model["id"]: model for model in (await http.get("/v1/models")).json()["data"]}
    assert {"actor", "actor@pirate", "actor:1@pirate"} <= set(listed)
    assert listed["actor@pirate"]["parent"] == "actor"
    one = (await http.get("/v1/models/actor@pirate")).json()
    assert (one["id"], one["parent"], one["version"]) == ("actor@pirate", "actor", "1")
    assert (await http.get("/v1/models/actor@nobody")).json()["error"]["code"] == "model_not_found"
    asked = {"model": "actor@nobody", "messages": [{"role": "user", "content": "hi"}]}
    assert (await http.post("/v1/chat/completions", json=asked)).status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/embeddings", {"model": "vectors", "input": "one"}), ("/v1/rerank", ASK), ("/v2/rerank", ASK)],
)
def test_a_client_that_leaves_stops_the_compute(live: tuple[World, str], path: str, body: dict[str, Any]) -> None:
    world, url = live
    world.vectors.hold, before = 0, world.vectors.closed
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url + path, json=body, timeout=0.5)
    while world.vectors.closed == before:  # the server notices in its own time; pytest-timeout bounds this
        pass
    world.vectors.hold = None
    assert httpx.post(url + path, json=body, timeout=10).status_code == 200
