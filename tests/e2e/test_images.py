"""The built-in image models on a real server: Triton's client and the command line send image files."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image, ImageDraw
from tritonclient.utils import InferenceServerException

from tests.conftest import LiveServer

SHAPES = {
    "circle": lambda pen, box: pen.ellipse(box, fill=(220, 40, 40)),
    "square": lambda pen, box: pen.rectangle(box, fill=(40, 90, 220)),
    "triangle": lambda pen, box: pen.polygon(
        [(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) / 2, box[1])], fill=(240, 200, 30)
    ),
}


@pytest.fixture
def infer(server: LiveServer) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(server.url.removeprefix("http://"))


def drawn(name: str, size: tuple[int, int], box: tuple[int, int, int, int], kind: str = "PNG") -> bytes:
    image = Image.new("RGB", size, (60, 150, 90))
    SHAPES[name](ImageDraw.Draw(image), box)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def sent(*files: bytes) -> triton.InferInput:
    made = triton.InferInput("pixels", [len(files)], "BYTES")
    array = np.empty(len(files), dtype=object)
    array[:] = files
    made.set_data_from_numpy(array, binary_data=True)
    return made


def test_shapes_are_named_in_images_of_different_sizes(infer: triton.InferenceServerClient) -> None:
    files = [
        drawn("circle", (200, 200), (40, 40, 160, 160)),
        drawn("square", (90, 64), (20, 6, 70, 56), "JPEG"),
        drawn("triangle", (640, 480), (150, 60, 500, 400), "WEBP"),
    ]
    answer = infer.infer("shapes", [sent(*files)])
    assert answer.as_numpy("labels")[:, 0].tolist() == [b"circle", b"square", b"triangle"]
    scores = answer.as_numpy("scores")
    assert (scores[:, 0] > 0.5).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-4)


def test_shapes_are_found_where_they_are_in_the_image_that_was_sent(infer: triton.InferenceServerClient) -> None:
    boxes = {"circle": (300, 40, 440, 180), "square": (60, 200, 200, 340)}
    image = Image.new("RGB", (500, 400), (60, 150, 90))
    for name, box in boxes.items():
        SHAPES[name](ImageDraw.Draw(image), box)
    file = io.BytesIO()
    image.save(file, "PNG")
    answer = infer.infer("shapes-detector", [sent(file.getvalue())])
    labels, found = answer.as_numpy("labels")[0].tolist(), answer.as_numpy("boxes")[0]
    assert set(labels) == {b"circle", b"square", b""}
    for name, box in boxes.items():
        assert np.abs(found[labels.index(name.encode())] - box).max() < 15
    assert not found[labels.index(b"") :].any()


def _bomb() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_bomb(), "50000 x 50000 pixels"),
        (drawn("circle", (99, 99), (9, 9, 90, 90), "JPEG")[:-200], "cannot be read"),
        (b"no image", "no image that can be read"),
        (b"", "no image that can be read"),
    ],
)
def test_bad_files_are_refused_and_good_ones_still_served(
    infer: triton.InferenceServerClient, data: bytes, words: str
) -> None:
    good = drawn("circle", (200, 200), (40, 40, 160, 160))
    with pytest.raises(InferenceServerException, match=words) as caught:
        infer.infer("shapes", [sent(good, data)])
    assert "input 'pixels' row 1" in str(caught.value)
    assert infer.infer("shapes", [sent(good)]).as_numpy("labels")[0, 0] == b"circle"


def test_the_command_line_sends_files(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(drawn("square", (80, 80), (15, 15, 65, 65)))
    (tmp_path / "b.jpg").write_bytes(drawn("circle", (300, 200), (80, 30, 220, 170), "JPEG"))
    command = [sys.executable, "-m", "inference_engine", "predict", "shapes", "--server", server.url, "--json"]
    command += ["--image", str(tmp_path / "a.png"), "--image", str(tmp_path / "b.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    outputs = {output["name"]: output["data"] for output in json.loads(done.stdout)["outputs"]}
    assert [row[0] for row in outputs["labels"]] == ["square", "circle"]
