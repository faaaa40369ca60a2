"""Batches, files and responses on a real server that is killed, restarted, and runs out of disk."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from tests.conftest import LiveServer

CHAT = "/v1/chat/completions"
LINES = 60
TRACER = '''
import pathlib
import time

class Tracer:
    """Writes down every prompt it is given, and answers it after a moment."""

    concurrency = 4

    def load(self, folder, options):
        self.trace = pathlib.Path(folder) / "trace"

    def stream(self, messages, sampling):
        time.sleep(0.02)
        with self.trace.open("a") as trace:
            trace.write(messages[-1]["content"] + "\\n")
        yield "heard " + messages[-1]["content"]
'''
MANIFEST = 'name: tracer\nversion: "1"\nruntime: python\nartifact: model.py:Tracer\n'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stateful")


@pytest.fixture(scope="module")
def mortal(home: Path) -> Iterator[LiveServer]:
    """A server that a test may kill and start again, with a model that writes down what it was asked."""
    folder = home / "models" / "tracer" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(TRACER)
    (folder / "model.yaml").write_text(MANIFEST)
    live = LiveServer(home, "--models", str(home / "models"))
    live.start()
    yield live
    live.stop()


@pytest.fixture
def client(mortal: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{mortal.url}/v1", api_key="any", max_retries=0) as made:
        yield made


def upload(client: openai.OpenAI, lines: list[dict[str, Any]]) -> str:
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return client.files.create(file=("work.jsonl", content), purpose="batch").id


def chats(count: int, model: str = "tracer") -> list[dict[str, Any]]:
    return [
        {
            "custom_id": f"id-{number}",
            "method": "POST",
            "url": CHAT,
            "body": {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": f"line {number}"}]},
        }
        for number in range(count)
    ]


def until(client: openai.OpenAI, id: str, done: int = 10**9) -> Batch:
    """The batch once it has ended, or so many lines are done."""
    give_up = time.monotonic() + 60
    while True:
        batch = client.batches.retrieve(id)
        assert batch.request_counts is not None
        if batch.request_counts.completed >= done or batch.status in ("completed", "failed", "cancelled", "expired"):
            return batch
        assert time.monotonic() < give_up, batch
        time.sleep(0.02)


def test_a_killed_server_goes_on_with_the_lines_that_are_not_done(
    client: openai.OpenAI, mortal: LiveServer, home: Path
) -> None:
    made = client.batches.create(input_file_id=upload(client, chats(LINES)), endpoint=CHAT, completion_window="24h")
    kills, known = 0, 0
    for done in (1, random.randint(10, 20), random.randint(25, 45)):
        batch = until(client, made.id, done)
        assert batch.request_counts is not None
        assert batch.request_counts.completed >= known, "lines that were done are lost"
        known = batch.request_counts.completed
        mortal.process.kill()
        mortal.process.wait(10)
        kills += 1
        mortal.start()
    batch = until(client, made.id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (LINES, 0)
    output = [json.loads(line) for line in client.files.content(str(batch.output_file_id)).text.splitlines()]
    assert [one["custom_id"] for one in output] == [f"id-{number}" for number in range(LINES)]
    for number, one in enumerate(output):
        assert one["response"]["body"]["choices"][0]["message"]["content"] == f"heard line {number}"
    asked = (home / "models/tracer/1/trace").read_text().splitlines()
    assert set(asked) == {f"line {number}" for number in range(LINES)}
    assert len(asked) - LINES <= kills * 4, "only what was being done when the server died may be done again"
    assert not list((home / "state").glob("*/*/.draft-*"))


def test_an_orderly_restart_too(client: openai.OpenAI, mortal: LiveServer) -> None:
    made = client.batches.create(input_file_id=upload(client, chats(40)), endpoint=CHAT, completion_window="24h")
    until(client, made.id, 5)
    started = time.monotonic()
    assert mortal.stop() == 0
    assert time.monotonic() - started < 10
    mortal.start()
    batch = until(client, made.id)
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 40


def test_a_conversation_survives_a_restart(client: openai.OpenAI, mortal: LiveServer) -> None:
    first = client.responses.create(model="guide", input="What is a route?", max_output_tokens=20, temperature=0)
    mortal.process.kill()
    mortal.process.wait(10)
    mortal.start()
    assert client.responses.retrieve(first.id).output_text == first.output_text
    second = client.responses.create(
        model="guide", input="Go on.", previous_response_id=first.id, max_output_tokens=20, temperature=0
    )
    assert second.previous_response_id == first.id
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens


def test_a_disk_that_is_full(client: openai.OpenAI, mortal: LiveServer, home: Path) -> None:
    """The kernel refuses to let any file of the server grow past a limit: uploads fail, a batch waits and goes on."""
    pid, free = mortal.process.pid, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    made = client.batches.create(input_file_id=upload(client, chats(LINES)), endpoint=CHAT, completion_window="24h")
    until(client, made.id, 5)
    (journal,) = (home / "state/jobs").glob("*/*/journal")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (journal.stat().st_size + 700, resource.RLIM_INFINITY))
    with pytest.raises(openai.InternalServerError, match="disk of this server is full"):
        client.files.create(file=("big", bytes(2 << 20)), purpose="batch")
    time.sleep(0.5)
    stuck = client.batches.retrieve(made.id)
    assert stuck.status == "in_progress"
    assert stuck.request_counts is not None
    assert stuck.request_counts.completed < LINES
    resource.prlimit(pid, resource.RLIMIT_FSIZE, free)
    batch = until(client, made.id)
    assert batch.status == "completed"
    assert len(client.files.content(str(batch.output_file_id)).text.splitlines()) == LINES
    assert "big" not in [file.filename for file in client.files.list()]


def test_uploads_do_not_grow_the_server(client: openai.OpenAI, mortal: LiveServer) -> None:
    """A file goes to the disk in pieces, and comes back in pieces."""
    import psutil

    client.files.create(file=("small", b"x"), purpose="user_data")
    before = psutil.Process(mortal.process.pid).memory_info().rss
    made = client.files.create(file=("big", bytes(100 << 20)), purpose="user_data")
    with client.files.with_streaming_response.content(made.id) as answer:
        size = sum(len(piece) for piece in answer.iter_bytes(1 << 20))
    assert size == made.bytes == 100 << 20
    assert psutil.Process(mortal.process.pid).memory_info().rss - before < 24 << 20


def command(server: LiveServer, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "inference_engine", "batch", *words, "--server", server.url]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_line(client: openai.OpenAI, mortal: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "work.jsonl"
    file.write_text(
        "".join(json.dumps(line) + "\n" for line in [*chats(3), *chats(1, "nobody")]).replace("id-0", "a", 1)
    )
    done = command(mortal, "submit", str(file), "--wait")
    assert done.returncode == 1, done.stderr
    assert [json.loads(line)["custom_id"] for line in done.stdout.splitlines()] == ["a", "id-1", "id-2"]
    made = json.loads(command(mortal, "submit", str(file), "--json").stdout)
    shown = command(mortal, "status", made["id"])
    assert made["id"] in shown.stdout
    assert made["id"] in command(mortal, "status").stdout
    until(client, made["id"])
    errors = command(mortal, "output", made["id"], "--errors")
    assert json.loads(errors.stdout)["response"]["status_code"] == 404
    refused = command(mortal, "cancel", made["id"])
    assert refused.returncode == 1
    assert "completed" in refused.stderr
    unknown = command(mortal, "status", "../../admin/models")
    assert (unknown.returncode, "there is no" in unknown.stderr) == (1, True), unknown.stderr
    file.write_text("no json")
    assert "--endpoint" in command(mortal, "submit", str(file)).stderr


def test_live_requests_go_before_batches(client: openai.OpenAI, mortal: LiveServer) -> None:
    made = client.batches.create(input_file_id=upload(client, chats(LINES)), endpoint=CHAT, completion_window="24h")
    until(client, made.id, 1)
    for number in range(5):
        client.chat.completions.create(model="tracer", messages=[{"role": "user", "content": f"live {number}"}])
    batch = client.batches.retrieve(made.id)
    assert batch.request_counts is not None
    assert batch.request_counts.completed < LINES
    client.batches.cancel(made.id)
    assert until(client, made.id).status == "cancelled"
