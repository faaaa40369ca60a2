"""Hugging Face folders without a manifest, served by a live server and asked by the official client."""

from __future__ import annotations

import base64
import io
import os
import signal
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest

from tests.conftest import LiveServer

pytest.importorskip("torch", reason="torch is not installed: make .venv/slow.stamp")
pytest.importorskip("transformers", reason="transformers is not installed: make .venv/slow.stamp")

from tests.fixtures import tiny_hf

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("live")
    models = folder / "models"
    tiny_hf.tiny_causal(models / "writer")
    tiny_hf.tiny_bert(models / "embedder")
    tiny_hf.tiny_llava(models / "seer")
    tiny_hf.tiny_whisper(models / "listener")
    live = LiveServer(folder, "--models", str(models))
    live.start()
    yield live
    assert live.stop() == 0


@pytest.fixture
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=100)


def test_a_streamed_answer_survives_the_death_of_its_runner(client: openai.OpenAI, server: LiveServer) -> None:
    asked = {"model": "writer", "messages": [{"role": "user", "content": "The fox"}], "temperature": 0.8, "seed": 5}
    whole = client.chat.completions.create(**asked, max_tokens=200, extra_body={"ignore_eos": True})  # type: ignore[call-overload]
    text = ""
    stream = client.chat.completions.create(**asked, max_tokens=200, extra_body={"ignore_eos": True}, stream=True)  # type: ignore[call-overload]
    for place, chunk in enumerate(stream):
        text += chunk.choices[0].delta.content or ""
        if place == 10:
            os.kill(server.pid_of("writer"), signal.SIGKILL)
    assert text == whole.choices[0].message.content


def test_texts_become_vectors(client: openai.OpenAI) -> None:
    patient = client.with_options(max_retries=4)  # the first request waits for the model to be loaded
    answer = patient.embeddings.create(model="embedder", input=["The dog", "a fox"])
    assert [len(one.embedding) for one in answer.data] == [64, 64]
    assert answer.usage.prompt_tokens > 0


def test_an_image_is_looked_at_and_a_bad_one_refused(client: openai.OpenAI, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (40, 40), (255, 0, 0)).save(tmp_path / "red.png")

    def ask(data: bytes) -> str:
        url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
        answer = client.chat.completions.create(
            model="seer", messages=[{"role": "user", "content": content}], max_tokens=8, temperature=0
        )  # type: ignore[call-overload]
        return str(answer.choices[0].message.content)

    assert ask((tmp_path / "red.png").read_bytes())
    with pytest.raises(openai.BadRequestError, match="cannot be decoded"):
        ask(b"\x89PNG\r\n\x1a\n no image")


def test_speech_is_written_down(client: openai.OpenAI) -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 16000, 0, "NONE", ""))
        writer.writeframes((np.sin(np.arange(16000) / 9) * 20000).astype("<i2").tobytes())
    answer = client.audio.transcriptions.create(model="listener", file=("a.wav", file.getvalue()), language="en")
    assert answer.text
    with pytest.raises(openai.BadRequestError, match="known are: de, en"):
        client.audio.transcriptions.create(model="listener", file=("a.wav", file.getvalue()), language="fr")
