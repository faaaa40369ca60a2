"""Images in chats with the llama_cpp runtime: seen, counted, checked before llama.cpp reads them."""

from __future__ import annotations

import base64
import io
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference_engine.domain.errors import ContextLengthExceeded, InvalidRequest, ModelLoadFailed, UnsupportedTask
from inference_engine.domain.requests import (
    AudioPart,
    Chat,
    Complete,
    ImagePart,
    JsonSchema,
    Message,
    Part,
    Sampling,
    TextPart,
)
from inference_engine.domain.results import Delivered, TextDelta
from inference_engine.infra.formats.gguf import read_head
from inference_engine.infra.images import MAX_PIXELS, checked_image
from inference_engine.infra.runtimes.llama_cpp import LlamaCppRuntime
from tests.fixtures.tiny_gguf import Size, tiny_gguf, tiny_lora
from tests.fixtures.tiny_vision import IMAGE_TOKENS, bmp, bomb, png, tiny_mmproj
from tests.runtimes.conftest import GUIDE, Recorder, answer, delivered_of, llama_manifest

RED, BLUE = png((255, 0, 0)), png((0, 0, 255))
GREEDY = Sampling(max_tokens=20, temperature=0, ignore_eos=True, logprobs=2)
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///ywAAAAAAQABAAACAUwAOw==")
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAP//////////////////////////////////////////////////////////////////////////////"
    "////////wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAA//EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AN//Z"
)


def look(*parts: str | bytes | Part, sampling: Sampling = GREEDY) -> Chat:
    made = tuple(
        TextPart(part) if isinstance(part, str) else ImagePart(part) if isinstance(part, bytes) else part
        for part in parts
    )
    return Chat((Message("user", made),), sampling)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("vision")
    tiny_gguf(made / "model.gguf")
    tiny_mmproj(made / "mmproj.gguf")
    return made


@pytest.fixture(scope="module")
def seeing(folder: Path) -> Iterator[LlamaCppRuntime]:
    runtime = LlamaCppRuntime()
    loaded = runtime.load(llama_manifest(mmproj="mmproj.gguf", context_length=512, n_batch=32), folder)
    assert loaded.media == ("image",)
    yield runtime
    runtime.close()


def logprobs(sink: Recorder) -> list[float]:
    return [position.chosen.logprob for delta in sink.texts for position in delta.logprobs]


def test_another_picture_is_another_answer(seeing: LlamaCppRuntime) -> None:
    red, blue, again = (answer(seeing, look("what is ", image, "?")) for image in (RED, BLUE, RED))
    assert red.text == again.text
    assert red.text != blue.text
    assert logprobs(red) == pytest.approx(logprobs(again), abs=0.02)
    without = answer(seeing, look("what is ", "?"))
    assert red.done.usage.prompt_tokens == without.done.usage.prompt_tokens + IMAGE_TOKENS
    assert red.done.usage.completion_tokens == 20
    assert again.done.usage.cached_tokens >= IMAGE_TOKENS


def test_order_and_number_of_pictures_count(seeing: LlamaCppRuntime) -> None:
    texts = {answer(seeing, look(*parts, "so?")).text for parts in ((RED, BLUE), (BLUE, RED), (RED,), (RED, RED))}
    assert len(texts) == 4


@pytest.mark.parametrize("image", [RED, bmp((255, 0, 0)), GIF, JPEG], ids=["png", "bmp", "gif", "jpeg"])
def test_formats_are_read(seeing: LlamaCppRuntime, image: bytes) -> None:
    assert answer(seeing, look(image, "?")).done.usage.completion_tokens == 20


def test_text_alone_is_answered_as_without_projector(guide: LlamaCppRuntime, tmp_path: Path) -> None:
    shutil.copy(GUIDE / "guide.gguf", tmp_path)
    tiny_mmproj(
        tmp_path / "mmproj.gguf", Size(hidden=read_head(tmp_path / "guide.gguf").of_architecture("embedding_length"))
    )
    seeing = LlamaCppRuntime()
    seeing.load(llama_manifest("guide.gguf", mmproj="mmproj.gguf"), tmp_path)
    schema = JsonSchema({"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]})
    question = Message("user", "How do I add a model?")
    plain = Sampling(max_tokens=30, temperature=0, logprobs=2)
    stop = answer(guide, Chat((question,), plain)).text[8:11]
    for request in (
        Chat((question,), plain),
        Chat((question,), plain, constraint=schema),
        Complete("The server", plain, echo=True),
        Chat(
            (question,),
            Sampling(max_tokens=30, temperature=0, stop=("zz", stop)),
        ),
    ):
        ours, theirs = answer(seeing, request), answer(guide, request)
        assert ours.text == theirs.text
        assert logprobs(ours) == pytest.approx(logprobs(theirs), abs=1e-3)
        assert ours.done.reason == theirs.done.reason
        assert ours.done.usage.completion_tokens == theirs.done.usage.completion_tokens
        assert [delta.tokens for delta in ours.texts] == [delta.tokens for delta in theirs.texts]
        for cut in range(0, len(ours.texts), 3):
            rest = answer(seeing, request, delivered_of(ours.texts[:cut]))
            assert rest.text == "".join(delta.text for delta in ours.texts[cut:])
    seeing.close()


def test_a_cut_answer_about_a_picture_goes_on(seeing: LlamaCppRuntime) -> None:
    request = look("what is ", RED, "?")
    whole = answer(seeing, request)
    rest = answer(seeing, request, delivered_of(whole.texts[:6]))
    assert isinstance(rest.deltas[0], TextDelta)
    assert rest.done.usage.completion_tokens == 20
    assert rest.text != whole.text


def test_cancelling_stops(seeing: LlamaCppRuntime) -> None:
    sink = Recorder(lambda deltas: len(deltas) >= 3)
    request = look(RED, sampling=Sampling(temperature=0, ignore_eos=True))
    seeing.generate(request, Delivered(), sink)
    assert len(sink.deltas) == 3
    assert answer(seeing, look(RED, "?")).done.usage.completion_tokens == 20


def test_a_prompt_with_pictures_that_is_too_long_is_refused(seeing: LlamaCppRuntime) -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        answer(seeing, look(*[RED] * 40))
    assert caught.value.param == "messages"


BAD = {
    "text": (b"this is no picture at all", "not an image"),
    "empty": (b"", "is empty"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    "head-only": (RED[:20], "cut off"),
    "bomb": (bomb(), "30000 x 30000"),
    "zero": (struct.pack("<2sIHHIIii", b"BM", 54, 0, 0, 54, 40, 0, 8) + bytes(40), "0 x 8"),
    "gif-cut": (b"GIF89a\x01", "cut off"),
    "jpeg-cut": (b"\xff\xd8\xff\xe0\x00\x10JFIF", "cut off"),
    "jpeg-noise": (b"\xff\xd8\xff" + bytes(range(200)), "not an image|cut off"),
    "large": (RED + bytes(33 << 20), "bytes"),
    "damaged": (RED[:60] + b"\0" * 20 + RED[80:], "llama.cpp refuses"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_image_is_refused_by_name(seeing: LlamaCppRuntime, kind: str) -> None:
    data, message = BAD[kind]
    with pytest.raises(InvalidRequest, match=message):
        answer(seeing, look("see", data))
    assert answer(seeing, look("see", RED)).done.usage.completion_tokens == 20


def test_sounds_are_refused_where_nothing_hears(seeing: LlamaCppRuntime) -> None:
    with pytest.raises(InvalidRequest, match="no sound"):
        answer(seeing, look(AudioPart(b"x")))
    with pytest.raises(UnsupportedTask, match="cannot be told"):
        seeing.tokenize(look(RED))


def test_webp_is_converted_where_pillow_is() -> None:
    image = pytest.importorskip("PIL.Image")
    made = io.BytesIO()
    image.new("RGB", (5, 4), (255, 0, 0)).save(made, "WEBP")
    assert checked_image(made.getvalue(), "x").startswith(b"\x89PNG")
    with pytest.raises(InvalidRequest, match="WebP"):
        checked_image(made.getvalue()[:32] + b"\xff" * 8, "x")
    assert MAX_PIXELS > 5 * 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.gguf", "does not exist"),
        ("model.gguf", "not a projector"),
        ("wide.gguf", "made for another base model"),
        ("cut.gguf", "truncated"),
        ("lora.gguf", "not a projector"),
    ],
)
def test_bad_projectors_are_named(folder: Path, name: str, message: str) -> None:
    tiny_mmproj(folder / "wide.gguf", Size(hidden=96))
    tiny_lora(folder / "lora.gguf")
    (folder / "cut.gguf").write_bytes((folder / "mmproj.gguf").read_bytes()[:20000])
    with pytest.raises(ModelLoadFailed, match=message) as caught:
        LlamaCppRuntime().load(llama_manifest(mmproj=name), folder)
    assert caught.value.param == "options.mmproj"
