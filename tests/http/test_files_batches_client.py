"""Files and batches through the official client against a live server, and what hostile clients send."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch

from inference_engine.core.settings import Settings
from inference_engine.domain import errors
from inference_engine.domain.requests import Principal
from tests.http.support import World, listening

CHAT = "/v1/chat/completions"
KEYS = ("first-tenants-key", "second-tenants-key")


@pytest.fixture(scope="module")
def live() -> Iterator[tuple[World, str]]:
    world = World(Settings(file_max_mb=2, files_total_mb=100, max_body_mb=0.1, batch_max_lines=50))
    with listening(world) as url:
        yield world, url


@pytest.fixture
def world(live: tuple[World, str]) -> Iterator[World]:
    yield live[0]
    live[0].chatty.fail = live[0].chatty.fail_after = live[0].chatty.hold = None


@pytest.fixture
def client(live: tuple[World, str], world: World) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live[1]}/v1", api_key="none", max_retries=0) as made:
        yield made


def line(custom_id: str, text: str = "hi", url: str = CHAT, **body: Any) -> dict[str, Any]:
    asked = {"model": "chatty", "messages": [{"role": "user", "content": text}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": asked}


def jsonl(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def upload(client: openai.OpenAI, content: bytes, purpose: Any = "batch") -> str:
    return client.files.create(file=("work.jsonl", content), purpose=purpose).id


def ended(client: openai.OpenAI, id: str) -> Batch:
    give_up = time.monotonic() + 20
    while (batch := client.batches.retrieve(id)).status in ("validating", "in_progress", "finalizing", "cancelling"):
        assert time.monotonic() < give_up, batch
        time.sleep(0.02)
    return batch


def run(client: openai.OpenAI, content: bytes, endpoint: Any = CHAT, window: Any = "24h") -> Batch:
    made = client.batches.create(input_file_id=upload(client, content), endpoint=endpoint, completion_window=window)
    assert made.status == "validating"
    return ended(client, made.id)


def results(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(text) for text in client.files.content(file_id).text.splitlines()]


# -- files ---------------------------------------------------------------------------------------------------------


def test_a_file_from_upload_to_deletion(client: openai.OpenAI) -> None:
    content = bytes(range(256)) * 5000  # several pieces, no text
    made = client.files.create(file=("../../etc/passwd.jsonl", content), purpose="user_data")
    assert (made.bytes, made.filename, made.purpose, made.status) == (
        len(content),
        "passwd.jsonl",
        "user_data",
        "processed",
    )
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == content
    deleted = client.files.delete(made.id)
    assert (deleted.id, deleted.deleted) == (made.id, True)
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            gone(made.id)


def test_listing_files(client: openai.OpenAI) -> None:
    made = [upload(client, b"x", purpose) for purpose in ("batch", "evals", "batch", "batch")]
    batch = [made[3], made[2], made[0]]
    assert [file.id for file in client.files.list(purpose="batch", limit=2) if file.id in made] == batch
    assert [file.id for file in client.files.list(order="asc") if file.id in made] == made
    page = client.files.list(purpose="batch", limit=1)
    assert page.has_more
    with pytest.raises(openai.BadRequestError, match="limit"):
        client.files.list(limit=0)
    with pytest.raises(openai.BadRequestError, match="after"):
        client.files.list(after="file-unknown")


def test_files_that_expire(client: openai.OpenAI) -> None:
    made = client.files.create(file=b"x", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
    assert made.expires_at == made.created_at + 3600
    with pytest.raises(openai.BadRequestError, match=r"expires_after\.seconds"):
        client.files.create(file=b"x", purpose="batch", expires_after={"anchor": "created_at", "seconds": 5})


@pytest.mark.parametrize("id", ["..", "..%2f..%2fetc", "file-..", "file-" + "0" * 32, "%00", "file-" + "a" * 5000])
def test_ids_lead_nowhere_else(live: tuple[World, str], id: str) -> None:
    for path in (f"/v1/files/{id}", f"/v1/files/{id}/content", f"/v1/responses/{id}", f"/v1/batches/{id}"):
        assert httpx.get(live[1] + path).status_code in (404, 400), path
    assert httpx.delete(f"{live[1]}/v1/files/{id}").status_code in (404, 405)


def left_over(world: World) -> list[str]:
    return [file.name for file in world.folder.glob("files/*/*") if file.name.startswith(".")]


@pytest.mark.parametrize("purpose", ["batch_output", "", "fine tune"])
def test_a_wrong_purpose(client: openai.OpenAI, world: World, purpose: str) -> None:
    with pytest.raises(openai.BadRequestError, match="purpose") as caught:
        upload(client, b"x", purpose)
    assert caught.value.param == "purpose"
    assert not left_over(world)


def test_a_file_that_is_too_large(client: openai.OpenAI, world: World) -> None:
    before = len(client.files.list().data)
    with pytest.raises(openai.BadRequestError, match="file_max_mb") as caught:
        upload(client, bytes(3 << 20))
    assert caught.value.param == "file"
    assert len(client.files.list().data) == before
    assert not left_over(world)


FORM = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nabc\r\n'


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (FORM + FILE, "multipart/form-data; boundary=b", "cut short"),
        (bytes(range(256)), "multipart/form-data; boundary=b", "damaged"),
        (FORM + b"--b--\r\n", "multipart/form-data; boundary=b", "file is missing"),
        (FILE + b"--b--\r\n", "multipart/form-data; boundary=b", "purpose is missing"),
        (FILE + FILE + b"--b--\r\n", "multipart/form-data; boundary=b", "twice"),
        (FORM.replace(b"purpose", b"puppies") + b"--b--\r\n", "multipart/form-data; boundary=b", "puppies"),
        (FORM.replace(b'; name="purpose"', b"") + b"--b--\r\n", "multipart/form-data; boundary=b", "name"),
        (FORM.replace(b"batch", b"b" * 9000) + b"--b--\r\n", "multipart/form-data; boundary=b", "too long"),
        (FORM * 70 + b"--b--\r\n", "multipart/form-data; boundary=b", "64 parts"),
        (FORM.replace(b"purpose", b"file") + b"--b--\r\n", "multipart/form-data; boundary=b", "filename"),
    ],
)
def test_damaged_forms(live: tuple[World, str], body: bytes, kind: str, said: str) -> None:
    answer = httpx.post(f"{live[1]}/v1/files", content=body, headers={"content-type": kind})
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]["message"]
    assert not left_over(live[0])


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data"])
def test_what_is_no_form(live: tuple[World, str], kind: str) -> None:
    answer = httpx.post(f"{live[1]}/v1/files", content=b"{}", headers={"content-type": kind})
    assert answer.status_code == 415
    assert "multipart/form-data with a boundary" in answer.json()["error"]["message"]


def test_an_upload_that_is_broken_off_leaves_nothing(live: tuple[World, str]) -> None:
    world, url = live

    def pieces() -> Iterator[bytes]:
        yield FORM + FILE.removesuffix(b"\r\n")
        yield b"x" * 1_500_000
        raise ConnectionError("the client dies")

    with pytest.raises(ConnectionError):
        httpx.post(f"{url}/v1/files", content=pieces(), headers={"content-type": "multipart/form-data; boundary=b"})
    give_up = time.monotonic() + 5
    while left_over(world):
        assert time.monotonic() < give_up
        time.sleep(0.02)


# -- batches -------------------------------------------------------------------------------------------------------


def test_a_batch(client: openai.OpenAI) -> None:
    batch = run(client, jsonl(*(line(f"line-{number}", "word " * number) for number in range(1, 21))) + b"\n  \n")
    assert batch.status == "completed", batch
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 20, "completed": 20, "failed": 0}
    assert (batch.error_file_id, batch.errors) == (None, None)
    assert batch.completed_at is not None
    found = results(client, batch.output_file_id)
    assert [one["custom_id"] for one in found] == [f"line-{number}" for number in range(1, 21)]
    assert {one["response"]["status_code"] for one in found} == {200}
    assert found[2]["response"]["body"]["choices"][0]["message"]["content"] == "Hello, world!"
    assert found[2]["response"]["body"]["usage"]["prompt_tokens"] == 3
    assert found[2]["response"]["request_id"] == f"{batch.id}-3"
    file = client.files.retrieve(str(batch.output_file_id))
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert batch.id in [one.id for one in client.batches.list(limit=1)]


def test_lines_that_fail_are_reported_one_by_one(client: openai.OpenAI) -> None:
    batch = run(
        client,
        jsonl(
            line("good"),
            line("nobody", model="nobody"),
            line("surprise", surprise=1),
            line("empty", messages=[]),
            {**line("list"), "body": [1]},
        ).replace(b'"body": [1]', b'"body": {"model": 5}'),
    )
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 4)
    assert [one["custom_id"] for one in results(client, batch.output_file_id)] == ["good"]
    failed = {one["custom_id"]: one["response"] for one in results(client, batch.error_file_id)}
    assert {name: one["status_code"] for name, one in failed.items()} == {
        "nobody": 404,
        "surprise": 400,
        "empty": 400,
        "list": 400,
    }
    assert failed["nobody"]["body"]["error"]["code"] == "model_not_found"
    assert failed["surprise"]["body"]["error"]["param"] == "surprise"


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/completions", {"model": "chatty", "prompt": "hi"}),
        ("/v1/responses", {"model": "chatty", "input": "hi"}),
        ("/v1/embeddings", {"model": "vectors", "input": ["hi", "there"]}),
    ],
)
def test_other_endpoints(client: openai.OpenAI, endpoint: str, body: dict[str, Any]) -> None:
    one = {"custom_id": "a", "method": "POST", "url": endpoint, "body": body}
    batch = run(client, jsonl(one), endpoint)
    answer = results(client, batch.output_file_id)[0]["response"]["body"]
    live = client.post(endpoint.removeprefix("/v1"), body=body, cast_to=httpx.Response).json()
    assert answer.keys() == live.keys()
    if endpoint == "/v1/responses":
        assert client.responses.retrieve(answer["id"]).output_text == "Hello, world!"


@pytest.mark.parametrize(
    ("content", "code", "at"),
    [
        (b"", "empty_file", None),
        (b"\n\n\n", "empty_file", None),
        (b"\n" * 200_000, "too_many_tasks", 101),
        (jsonl(line("a")) + b"{broken\n", "invalid_json_line", 2),
        (bytes(range(256)) * 40, "invalid_json_line", 1),
        (b"\x89PNG\r\n\x1a\n" + bytes(5000), "invalid_json_line", 1),
        (jsonl(line("a")).replace(b'"hi"', b"[" * 50_000), "invalid_json_line", 1),
        (jsonl(line("a"), line("b"), line("a")), "duplicate_custom_id", 3),
        (jsonl(line("a", url="/v1/embeddings")), "mismatched_url", 1),
        (jsonl({**line("a"), "method": "GET"}), "invalid_method", 1),
        (jsonl(line("a", stream=True)), "unsupported_stream", 1),
        (jsonl(line("")), "invalid_line", 1),
        (jsonl({**line("a"), "custom_id": 5}), "invalid_line", 1),
        (jsonl({"custom_id": "a"}), "invalid_line", 1),
        (jsonl({**line("a"), "extra": 1}), "unknown_parameter", 1),
        (jsonl({**line("a"), "body": "text"}), "invalid_line", 1),
        (jsonl(*(line(str(number)) for number in range(51))), "too_many_tasks", 51),
        (jsonl(line("a"), line("b", "x" * 200_000), line("c")), "line_too_long", 2),
    ],
)
def test_files_that_are_no_batch(client: openai.OpenAI, content: bytes, code: str, at: int | None) -> None:
    batch = run(client, content)
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert (batch.output_file_id, batch.error_file_id) == (None, None)
    assert batch.errors is not None
    assert batch.errors.data is not None
    first = batch.errors.data[0]
    assert (first.code, first.line) == (code, at)
    assert first.message
    assert len(batch.errors.data) <= 100


def test_batches_that_cannot_be_created(client: openai.OpenAI) -> None:
    good = upload(client, jsonl(line("a")))
    other = upload(client, jsonl(line("a")), "evals")
    asked: dict[str, Any] = {"input_file_id": good, "endpoint": CHAT, "completion_window": "24h"}
    for change, param in (
        ({"input_file_id": other}, "input_file_id"),
        ({"input_file_id": "../../x"}, "file_id"),
        ({"input_file_id": "file-" + "0" * 32}, "file_id"),
        ({"endpoint": "/v1/models"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
    ):
        with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as caught:
            client.batches.create(**{**asked, **change})
        assert caught.value.param == param, change
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_" + "0" * 32)


def test_cancelling(client: openai.OpenAI, world: World) -> None:
    world.chatty.hold = 1
    made = client.batches.create(
        input_file_id=upload(client, jsonl(*(line(str(number)) for number in range(20)))),
        endpoint=CHAT,
        completion_window="24h",
    )
    with pytest.raises(openai.BadRequestError, match=f"in use: batch {made.id}"):
        client.files.delete(made.input_file_id)
    while client.batches.retrieve(made.id).status == "validating":
        time.sleep(0.01)
    assert client.batches.cancel(made.id).status in ("cancelling", "cancelled")
    batch = ended(client, made.id)
    assert batch.status == "cancelled"
    assert batch.cancelled_at is not None
    assert batch.output_file_id is None
    why = results(client, batch.error_file_id)
    assert len(why) == 20
    assert {one["error"]["code"] for one in why} == {"batch_cancelled"}
    assert world.chatty.closed
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        client.batches.cancel(made.id)
    client.files.delete(made.input_file_id)


def test_a_window_that_closes(client: openai.OpenAI, world: World) -> None:
    world.chatty.hold = 1
    batch = run(client, jsonl(line("a")), window="1s")
    assert batch.status == "expired"
    assert batch.expired_at is not None
    assert results(client, batch.error_file_id)[0]["error"]["code"] == "batch_expired"


def test_a_busy_server_is_asked_again(client: openai.OpenAI, world: World) -> None:
    world.fail_with(errors.QueueFull("later"))
    made = client.batches.create(input_file_id=upload(client, jsonl(line("a"))), endpoint=CHAT, completion_window="24h")
    seen = len(world.chatty.requests)
    while len(world.chatty.requests) < seen + 2:
        time.sleep(0.01)
    world.chatty.fail = None
    batch = ended(client, made.id)
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 1


# -- tenants -------------------------------------------------------------------------------------------------------


class TwoTenants:
    """An access service in which every key is a tenant."""

    has_keys = True

    def authenticate(self, headers: Any) -> Principal:
        key = headers[b"authorization"].decode().removeprefix("Bearer ")
        return Principal(f"tenant of {key}", key)


def test_what_belongs_to_another_tenant_does_not_exist() -> None:
    world = World()
    world.app._access = TwoTenants()  # type: ignore[assignment]
    with listening(world) as url:
        mine, theirs = (openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) for key in KEYS)
        file = upload(mine, jsonl(line("a")))
        batch = mine.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")
        output = str(ended(mine, batch.id).output_file_id)
        response = mine.responses.create(model="chatty", input="hi")
        for call in (
            lambda: theirs.files.retrieve(file),
            lambda: theirs.files.content(output),
            lambda: theirs.files.delete(file),
            lambda: theirs.batches.retrieve(batch.id),
            lambda: theirs.batches.cancel(batch.id),
            lambda: theirs.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h"),
            lambda: theirs.responses.retrieve(response.id),
            lambda: theirs.responses.delete(response.id),
            lambda: theirs.responses.create(model="chatty", input="hi", previous_response_id=response.id),
        ):
            with pytest.raises(openai.NotFoundError):
                call()
        assert not list(theirs.files.list())
        assert not list(theirs.batches.list())
        assert mine.files.content(output).read()
        mine.close()
        theirs.close()


async def test_the_async_client(live: tuple[World, str]) -> None:
    async with openai.AsyncOpenAI(base_url=f"{live[1]}/v1", api_key="none", max_retries=0) as client:
        file = await client.files.create(file=io.BytesIO(jsonl(line("a"))), purpose="batch")
        batch = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        while batch.status not in ("completed", "failed"):
            batch = await client.batches.retrieve(batch.id)
        assert batch.output_file_id is not None
        assert "Hello, world!" in (await client.files.content(batch.output_file_id)).text
        assert (await client.files.delete(file.id)).deleted
