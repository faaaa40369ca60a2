"""Transcriptions: the form is read strictly, and the answer is written in every format."""

from __future__ import annotations

import warnings
from typing import Any

import httpx
import openai
import pytest

from inference_engine.core.settings import Settings
from inference_engine.domain.errors import RunnerLost
from inference_engine.domain.requests import Sampling, Transcribe
from inference_engine.domain.results import TextDelta
from tests.http.support import World

FILE = {"file": ("a.wav", b"RIFF....", "audio/wav")}
PATH = "/v1/audio/transcriptions"


async def send(http: httpx.AsyncClient, path: str = PATH, **fields: Any) -> httpx.Response:
    return await http.post(path, data={"model": "listener"} | fields, files=FILE)


async def test_the_form_becomes_a_request(world: World, http: httpx.AsyncClient) -> None:
    fields = {"language": "EN", "prompt": "numbers", "temperature": "0.2", "chunking_strategy": "auto"}
    answer = await send(http, **fields)
    assert answer.status_code == 200, answer.text
    assert world.listener.requests[-1] == Transcribe(b"RIFF....", "en", "numbers", sampling=Sampling(temperature=0.2))
    assert answer.json()["text"] == "one two three"
    assert answer.json()["usage"]["type"] == "tokens"
    translated = await send(http, "/v1/audio/translations", response_format="verbose_json")
    assert (translated.json()["task"], translated.json()["language"]) == ("translate", "en")
    assert world.listener.requests[-1] == Transcribe(b"RIFF....", translate=True, timestamps=True)


async def test_every_format(http: httpx.AsyncClient) -> None:
    text = await send(http, response_format="text")
    assert (text.headers["content-type"], text.text) == ("text/plain; charset=utf-8", "one two three\n")
    srt = await send(http, response_format="srt")
    assert srt.text.startswith("1\n00:00:00,000 --> 00:00:00,500\none\n\n2\n00:00:01,000 --> 00:00:01,500\ntwo\n")
    vtt = await send(http, response_format="vtt")
    assert vtt.text.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:00.500\none\n\n")
    asked = {"response_format": "verbose_json", "timestamp_granularities[]": "segment", "language": "no"}
    verbose = (await send(http, **asked)).json()
    assert (verbose["language"], verbose["duration"], verbose["text"]) == ("no", 2.5, "one two three")
    assert [(segment["start"], segment["text"], segment["tokens"]) for segment in verbose["segments"]] == [
        (0.0, " one", [0]),
        (1.0, " two", [1]),
        (2.0, " three", [2]),
    ]


async def test_a_model_without_times_is_not_asked_for_subtitles(world: World, http: httpx.AsyncClient) -> None:
    world.listener.script = lambda request: [TextDelta("one")]
    answer = await send(http, response_format="srt")
    assert answer.status_code == 400
    assert "gives no times" in answer.json()["error"]["message"]


def test_the_official_client(live: tuple[World, str]) -> None:
    with openai.OpenAI(base_url=f"{live[1]}/v1", api_key="none", max_retries=0) as client:
        sound = ("a.wav", b"RIFF", "audio/wav")
        assert client.audio.transcriptions.create(model="listener", file=sound).text == "one two three"
        asked: Any = {"model": "listener", "file": sound, "response_format": "verbose_json"}
        verbose = client.audio.transcriptions.create(**asked, timestamp_granularities=["segment"])
        assert verbose.segments[1].start == 1.0
        with warnings.catch_warnings():  # some versions of the client call this endpoint deprecated
            warnings.simplefilter("ignore", DeprecationWarning)
            assert client.audio.translations.create(model="listener", file=sound).text == "one two three"
        events = list(client.audio.transcriptions.create(model="listener", file=sound, stream=True))
        assert [event.type for event in events] == ["transcript.text.delta"] * 3 + ["transcript.text.done"]
        assert "".join(event.delta for event in events[:-1]) == " one two three"
        assert events[-1].text == "one two three"
        live[0].listener.fail, live[0].listener.fail_after = RunnerLost("the runner is gone"), 1
        with pytest.raises(openai.APIError, match="the runner is gone"):
            list(client.audio.transcriptions.create(model="listener", file=sound, stream=True))
        live[0].listener.fail = None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "xml"}, "response_format"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "9"}, "temperature"),
        ({"language": "../x"}, "language"),
        ({"timestamp_granularities[]": "segment"}, "timestamp_granularities"),
        ({"timestamp_granularities[]": "word", "response_format": "verbose_json"}, "timestamp_granularities"),
        ({"include[]": "logprobs"}, "include"),
        ({"chunking_strategy": "{}"}, "chunking_strategy"),
        ({"stream": "true", "response_format": "text"}, "response_format"),
        ({"stream": "perhaps"}, "stream"),
        ({"surprise": "1"}, "surprise"),
        ({"file": "again"}, "file"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"model": "chatty"}, "model"),
    ],
)
async def test_refused_by_name(http: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    answer = await send(http, **fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


FORM = "multipart/form-data; boundary=x"


def part(disposition: bytes, data: bytes) -> bytes:
    return b"--x\r\nContent-Disposition: form-data" + disposition + b"\r\n\r\n" + data + b"\r\n"


@pytest.mark.parametrize(
    ("content", "kind", "status", "words"),
    [
        (b"{}", "application/json", 415, "multipart/form-data"),
        (b"", "multipart/form-data", 415, "multipart/form-data"),
        (b"", FORM, 400, "cut short"),
        (b"--y\r\n\r\n", FORM, 400, "damaged"),
        (part(b'; name="model"', b"listener"), FORM, 400, "cut short"),
        (part(b'; name="model"', b"listener") + b"--x--\r\n", FORM, 400, "file is missing"),
        (part(b"", b"1") + b"--x--\r\n", FORM, 400, "no name"),
        (part(b'; name="a"', b"\xff") + b"--x--\r\n", FORM, 400, "UTF-8"),
        (part(b'; name="a"', b"1") * 300 + b"--x--\r\n", FORM, 400, "64 parts"),
    ],
)
async def test_hostile_forms(http: httpx.AsyncClient, content: bytes, kind: str, status: int, words: str) -> None:
    answer = await http.post(PATH, content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]


async def test_uploads_are_bounded() -> None:
    world = World(Settings(max_body_mb=0.01))
    await world.open()
    async with world.client() as http:
        answer = await http.post(PATH, data={"model": "listener"}, files={"file": ("a", b"x" * 20_000)})
    assert answer.status_code == 413
    await world.models.close()


async def test_a_long_file_arrives_whole(world: World, http: httpx.AsyncClient) -> None:
    sound = bytes(range(256)) * 8192 + b"\r\n--"
    answer = await http.post(PATH, data={"model": "listener"}, files={"file": ("a.wav", sound)})
    assert answer.status_code == 200
    heard = world.listener.requests[-1]
    assert isinstance(heard, Transcribe)
    assert heard.audio == sound


async def test_an_empty_file(http: httpx.AsyncClient) -> None:
    answer = await http.post(PATH, data={"model": "listener"}, files={"file": ("a.wav", b"")})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
    two = [("file", ("a", b"1")), ("file", ("b", b"2"))]
    assert (await http.post(PATH, data={"model": "listener"}, files=two)).json()["error"]["param"] == "file"
    other = {**FILE, "extra": ("b", b"2")}
    assert (await http.post(PATH, data={"model": "listener"}, files=other)).json()["error"]["param"] == "extra"
