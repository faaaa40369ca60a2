"""Images by their headers: what is taken, and what is refused by name before anything decodes it."""

from __future__ import annotations

import io
import struct
import time

import pytest
from PIL import Image, ImageOps

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.images import READABLE, ImageHead, checked_head
from inference_engine.domain.sounds import checked_sound
from tests.fixtures.tiny_vision import bomb, png


def drawn(kind: str) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (7, 5), (1, 2, 3)).save(made, kind)
    return made.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_what_is_read(kind: str) -> None:
    assert checked_head(drawn(kind), "image") == ImageHead(f"image/{kind.lower()}", 7, 5)
    assert kind in READABLE.upper()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("turn", range(10))
def test_the_size_is_that_of_the_upright_image(kind: str, turn: int) -> None:
    image = Image.new("RGB", (7, 5))
    exif = image.getexif()
    exif[0x010F] = "a maker"
    exif[0x0112] = turn
    made = io.BytesIO()
    image.save(made, kind, exif=exif)
    with Image.open(made) as read:
        upright = ImageOps.exif_transpose(read).size
    head = checked_head(made.getvalue(), "image")
    assert (head.width, head.height) == upright


def test_files_of_millions_of_pieces_cost_nothing() -> None:
    started = time.perf_counter()
    with pytest.raises(InvalidRequest):
        checked_head(b"\xff\xd8" + b"\xff\xe0\0\x02" * (8 << 20), "image")
    with pytest.raises(InvalidRequest):
        checked_head(b"\xff\xd8" + b"\xff" * (30 << 20), "image")
    chunks = png((1, 2, 3)) + (b"\0\0\0\0tEXt\0\0\0\0" * (2 << 20))
    assert checked_head(chunks, "image").width == 40
    assert time.perf_counter() - started < 2  # it takes 0.1 s; looking at all would take 10


def test_fill_bytes_before_a_marker_are_passed_over() -> None:
    jpeg = drawn("JPEG")
    assert checked_head(jpeg[:2] + b"\xff\xff\xff" + jpeg[2:], "image") == checked_head(jpeg, "image")


FOREIGN = {
    "TIFF": drawn("TIFF"),
    "ICO": drawn("ICO"),
    "PDF": b"%PDF-1.7 and so on",
    "SVG": b'  <svg xmlns="http://www.w3.org/2000/svg"/>',
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0",
    "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0",
    "a video": b"\0\0\0\x18ftypmp42\0\0\0\0",
    "a sound": b"RIFF\x24\0\0\0WAVEfmt ",
    "a ZIP": b"PK\x03\x04 and so on",
    "HTML": b"\n<!DOCTYPE html><html>",
    "unknown kind": bytes(range(200, 256)),
}


@pytest.mark.parametrize("word", FOREIGN)
def test_what_is_no_image_is_called_what_it_is(word: str) -> None:
    with pytest.raises(InvalidRequest, match=r"images\[3\] holds .*: send PNG") as caught:
        checked_head(FOREIGN[word], "images[3]")
    assert word in caught.value.message.replace("an icon", "ICO")
    assert caught.value.param == "images[3]"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (png((1, 2, 3))[:20], "cut off"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "cut off"),
        (b"GIF89a\x01", "cut off"),
        (bomb(), "30000 x 30000 pixels"),
        (struct.pack("<2sIHHIIii", b"BM", 54, 0, 0, 54, 40, 0, 8) + bytes(40), "0 x 8 pixels"),
        (png((1, 2, 3)) + bytes(1 << 16), "an image may have 65536"),
    ],
)
def test_what_is_refused_by_its_header(data: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        checked_head(data, "image", max_bytes=1 << 16, max_pixels=1_000_000)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"RIFF\0\0\0\0WAVE", "audio/wav"),
        (b"fLaC", "audio/flac"),
        (b"OggS", "audio/ogg"),
        (b"ID3\x04", "audio/mpeg"),
        (b"\xff\xfb\x90\x64", "audio/mpeg"),
    ],
)
def test_sounds(data: bytes, kind: str) -> None:
    assert checked_sound(data, "parts[0]", 100) == kind
    for bad, words in (
        (b"", "empty"),
        (data + bytes(100), "make it shorter"),
        (b"MThd", "no sound"),
        (drawn("JPEG")[:90], "no sound"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            checked_sound(bad, "parts[0]", 100)
