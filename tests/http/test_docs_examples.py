"""The manual's examples get the answers it promises, and its lists of fields and metrics are whole."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from inference_engine.adapters.http.anthropic.wire import BLOCKS, MessagesRequest
from inference_engine.adapters.http.inference_api import wire_texts as inference
from inference_engine.adapters.http.inference_api.wire_batches import Envelope
from inference_engine.adapters.http.inference_api.wire_images import ImageRequest
from inference_engine.adapters.http.ollama import wire as ollama
from inference_engine.adapters.http.openai.batch_lines import Line
from inference_engine.adapters.http.openai.batches import BATCHED, BatchRequest
from inference_engine.adapters.http.openai.files import PURPOSES
from inference_engine.adapters.http.openai.responses.wire import ITEMS, ResponseRequest
from inference_engine.adapters.http.openai.responses.wire import REFUSED as RESPONSE_REFUSED
from inference_engine.adapters.http.openai.wire import REFUSED, ChatRequest, CompletionRequest
from inference_engine.adapters.http.openai.wire_audio import TranscriptionForm
from inference_engine.adapters.http.openai.wire_texts import EmbeddingRequest, RerankRequest, TokenizeRequest
from inference_engine.adapters.http.v2.wire import NUMPY
from inference_engine.domain.model import ModelRef, Signature, TensorSpec
from inference_engine.infra.telemetry import RUNTIME_GAUGES, PrometheusTelemetry
from inference_engine.testing import FakeExecutor, manifest
from tests.http.image_models import add_image_models
from tests.http.support import World

API = Path(__file__).parents[2] / "docs" / "api"
IRIS = Signature((TensorSpec("input", "float32", (-1, 4)),), (TensorSpec("output", "float32", (-1, 4)),))
EXAMPLES = [
    pytest.param(block, id=f"{page.stem}-{block.split()[1]}")
    for page in sorted(API.glob("*.md"))
    for block in re.findall(r"```http\n(.*?)```", page.read_text(), re.DOTALL)
]


@pytest.fixture
async def manual() -> AsyncIterator[World]:
    """A server with the models that the manual speaks of."""
    world = World()
    add_image_models(world)
    world.repository.models += [manifest("guide", task="text-generation"), manifest("iris", signature=IRIS)]
    world.repository.models += [manifest("embedder")]
    world.executors.executors |= {
        "guide:1": FakeExecutor(kinds=("chat", "complete")),
        "iris:1": FakeExecutor(IRIS),
        "embedder:1": FakeExecutor(kinds=("embed", "rerank")),
    }
    await world.open()
    yield world
    await world.close()


@pytest.mark.parametrize("example", EXAMPLES)
async def test_examples(manual: World, example: str) -> None:
    line, _, body = example.partition("\n")
    method, path = line.split()
    async with manual.client() as http:
        answer = await http.request(method, path, content=body.encode())
    assert answer.status_code == 200, answer.text


def test_every_field_is_in_the_manual() -> None:
    page = (API / "openai.md").read_text()
    kinds = (ChatRequest, CompletionRequest, EmbeddingRequest, RerankRequest, TokenizeRequest, TranscriptionForm)
    for field in {*REFUSED, *(field for kind in kinds for field in kind.__struct_fields__)} - {"model", "query"}:
        assert re.search(rf"`{field}(\[\])?`", page), f"openai.md does not mention {field}"


def test_every_field_of_anthropics_is_in_the_manual() -> None:
    page = (API / "anthropic.md").read_text()
    for word in {*MessagesRequest.__struct_fields__, *BLOCKS} - {"model"}:
        assert f"`{word}`" in page, f"anthropic.md does not mention {word}"


def test_every_field_of_ollama_is_in_the_manual() -> None:
    page = (API / "ollama.md").read_text()
    known = {*ollama.ChatRequest.__struct_fields__, *ollama.GenerateRequest.__struct_fields__}
    for field in {*known, *ollama.Options.__struct_fields__, *ollama.REFUSED} - {"model", "options"}:
        assert f"`{field}`" in page, f"ollama.md does not mention {field}"


def test_every_field_of_a_response_is_in_the_manual() -> None:
    page = (API / "openai-stateful.md").read_text()
    for field in {*ResponseRequest.__struct_fields__, *Line.__struct_fields__, *BatchRequest.__struct_fields__}:
        assert f"`{field}`" in page or f'"{field}"' in page or f"{field}=" in page, f"{field} is not mentioned"
    for name in (*RESPONSE_REFUSED, *ITEMS, *PURPOSES, *BATCHED):
        assert name in page, f"openai-stateful.md does not mention {name}"


def test_every_field_of_the_inference_routes_is_in_the_manual() -> None:
    page = (API / "inference.md").read_text()
    for kind in (inference.TextRequest, inference.MultimodalRequest, inference.Parameters, ImageRequest, Envelope):
        for field in kind.__struct_fields__:
            assert f"`{field}`" in page or f'"{field}"' in page, f"inference.md does not mention {field}"


def test_every_datatype_is_in_the_manual() -> None:
    page = (API / "v2.md").read_text()
    assert all(f"`{datatype}`" in page for datatype in NUMPY)


async def test_every_path_is_in_the_manual(http: httpx.AsyncClient) -> None:
    pages = "".join(page.read_text() for page in API.glob("*.md"))
    for path in (await http.get("/openapi.json")).json()["paths"]:
        words = [word for word in path.split("/") if word and "{" not in word]
        assert all(word in pages for word in words), path


def test_every_metric_is_in_the_manual() -> None:
    page = (API / "admin.md").read_text()
    telemetry = PrometheusTelemetry()
    telemetry.restart(ModelRef("iris", "1"))
    names = re.findall(r"^# TYPE (inference_engine_\w+)", telemetry.exposition()[0].decode(), re.MULTILINE)
    assert len(names) > 10
    for name in names:
        assert f"`{name}`" in page or name == "inference_engine_server_info", f"admin.md does not mention {name}"
    for name in RUNTIME_GAUGES:
        assert f"`inference_engine_{name}`" in page, f"admin.md does not mention {name}"
