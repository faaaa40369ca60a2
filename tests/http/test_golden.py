"""Requests and their whole answers, as files: `golden/DIALECT/NAME.json`. What changes from run to run is `<...>`.

`python -m tests.http.test_golden` writes the answers anew; read the difference before you commit it.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from inference_engine.domain.errors import RunnerLost
from tests.http.image_models import add_image_models
from tests.http.support import World

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*/*.json"))
_HEADERS = (
    "content-type",
    "allow",
    "retry-after",
    "x-should-retry",
    "x-model-version",
    "x-model-route",
    "x-model-rule",
    "x-model-adapter",
)
_VOLATILE = [
    (re.compile(r"(chatcmpl-|cmpl-|rerank-|msg_)[0-9a-f]{24}\b"), r"\1<id>"),
    (re.compile(r'"request_id": ?"[^"]+"'), '"request_id":"<id>"'),
    (re.compile(r"(resp|msg|fc|rs)_[0-9a-f]{32}"), r"\1_<id>"),
    (re.compile(r'"(created_at|completed_at)": ?[0-9]{10}'), r'"\1":"<time>"'),
    (re.compile(r'"created": ?[0-9]{10}'), '"created":"<time>"'),
    (re.compile(r'"(loaded_at|last_used_at|expires_at|created_at)": ?"[^"]+"'), r'"\1":"<time>"'),
    (re.compile(r'"((?:latency|queue|compute)_ms)": ?[0-9.e-]+'), r'"\1":"<ms>"'),
    (re.compile(r'"(\w+_duration)": ?[0-9]+'), r'"\1":"<ns>"'),
]


async def answer_of(request: dict[str, Any]) -> dict[str, Any]:
    """What a fresh server answers. `fail_after` lets the model break after so many words."""
    world = World()
    if request["path"].startswith("/inference/"):
        add_image_models(world)
    await world.open()
    if "fail_after" in request:
        world.fail_with(RunnerLost("the runner is gone"), request["fail_after"])
    async with world.client() as http:
        found = await http.request(request["method"], request["path"], json=request.get("json"))
    await world.close()
    text = found.text
    for pattern, word in _VOLATILE:
        text = pattern.sub(word, text)
    is_json = found.headers["content-type"] == "application/json"
    headers = {name: found.headers[name] for name in _HEADERS if name in found.headers}
    body = {"json": json.loads(text)} if is_json else {"lines": text.split("\n")}
    return {"status": found.status_code, "headers": headers, **body}


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
async def test_golden(file: Path) -> None:
    golden = json.loads(file.read_text())
    assert await answer_of(golden["request"]) == golden["answer"]


def test_every_dialect_has_golden_files() -> None:
    assert {file.parent.name for file in FILES} == {"anthropic", "openai", "v2", "admin", "ollama", "inference"}


def write() -> None:
    for file in FILES:
        golden = json.loads(file.read_text())
        golden["answer"] = asyncio.run(answer_of(golden["request"]))
        file.write_text(json.dumps(golden, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write()
