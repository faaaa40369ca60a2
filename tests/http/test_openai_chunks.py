"""Chunks that only bring more text are written from a pattern: every text must come back as it was."""

from __future__ import annotations

import json

import pytest

from inference_engine.adapters.http.openai.answers import ChatWriter, TextWriter
from inference_engine.domain.model import ModelRef
from inference_engine.domain.results import Served, TextDelta

_TEXTS = (' "quoted"\n', "\\", "é\u2028\U0001f600\x00", '"content":""', '"text":""', "")
_SERVED = Served(ModelRef("m", "1"), 'a"content":""b"text":""', "exact")


@pytest.mark.parametrize("index", [0, 3])
def test_every_text_comes_back(index: int) -> None:
    chat, text = ChatWriter(_SERVED, "print", logprobs=False), TextWriter(_SERVED, "print", None)
    for number, written in enumerate(_TEXTS):
        delta = TextDelta(written, index=index)
        chunk, piece = _decoded(chat.event(delta)), _decoded(text.event(delta))
        assert chunk["choices"] == [
            {"index": index, "delta": {"content": written}, "logprobs": None, "finish_reason": None}
        ]
        assert piece["choices"] == [{"index": index, "text": written, "logprobs": None, "finish_reason": None}]
        assert chunk["model"] == piece["model"] == _SERVED.route
        assert ("served_by" in piece) == (number == 0)


def _decoded(event: bytes) -> dict[str, object]:
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    return dict(json.loads(event[6:]))
