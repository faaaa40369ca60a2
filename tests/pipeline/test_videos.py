"""The steps for clips: what they give, what they refuse, and a model that is served behind them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference_engine.domain.errors import InvalidManifest, InvalidTensor
from inference_engine.domain.model import PipelineSpec, Signature, TensorSpec
from tests.fixtures.videos import brightening_onnx, counted, sound, video
from tests.pipeline.conftest import CATALOG, NO_FOLDER, Start, onnx_manifest, spec, step

CLIP = {"count": 8, "width": 32, "height": 32}
PIPELINE = PipelineSpec(
    ({"use": "video.frames", **CLIP}, {"use": "video.normalize", "mean": 0.5, "std": 0.25}),
    ({"use": "softmax"}, {"use": "top_k", "k": 1, "labels": "labels.txt"}),
)


def files(*data: object) -> dict[str, np.ndarray]:
    made = np.empty(len(data), dtype=object)
    made[:] = data
    return {"clip": made}


def sampled(data: bytes, **options: object) -> list[int]:
    clip = step("video.frames", **(CLIP | options)).apply(files(data))["clip"]
    assert clip.shape[2:] == (32, 32, 3)
    assert clip.dtype == np.uint8
    return [round(float(picture.mean()) / 4) for picture in clip[0]]


def test_evenly_over_the_whole() -> None:
    assert sampled(video(counted(40)), count=4) == pytest.approx([5, 15, 25, 35], abs=1)


def test_the_first_ones_so_far_apart() -> None:
    assert sampled(video(counted(40)), count=4, every_s=0.5) == pytest.approx([0, 5, 10, 15], abs=1)


@pytest.mark.parametrize("every_s", [None, 0.1])
def test_a_short_video_repeats_its_last_picture(every_s: float | None) -> None:
    assert sampled(video(counted(3)), count=5, every_s=every_s) == pytest.approx([0, 1, 2, 2, 2], abs=1)


@pytest.mark.parametrize(
    ("layout", "shape"), [("ncthw", (2, 3, 4, 5, 6)), ("ntchw", (2, 4, 3, 5, 6)), ("nthwc", (2, 4, 5, 6, 3))]
)
def test_normalize(layout: str, shape: tuple[int, ...]) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 6, 3), np.uint8)
    made = step("video.normalize", layout=layout, mean=[0.1, 0.2, 0.3], std=0.5).apply({"clip": clip})["clip"]
    assert made.shape == shape
    assert made.dtype == np.float32
    wanted = (clip / 255 - np.array([0.1, 0.2, 0.3])) / 0.5
    back = made.transpose([layout.index(letter) for letter in "nthwc"])
    np.testing.assert_allclose(back, wanted, atol=1e-5)


def test_what_a_client_may_send_is_told() -> None:
    pipeline = CATALOG.build(PipelineSpec(PIPELINE.preprocess, ()), NO_FOLDER)
    model = Signature((TensorSpec("clip", "float32", (-1, 3, 8, 32, 32)),))
    assert pipeline.preview(model) == Signature((TensorSpec("clip", "bytes", (-1,)),))


@pytest.mark.parametrize(
    ("use", "options", "specs", "text"),
    [
        ("video.frames", CLIP, spec("clip", "uint8", -1, 16, 32, 32, 3), "this step gives uint8"),
        ("video.frames", CLIP, spec("clip", "float32", -1, 8, 32, 32, 3), "video.normalize after this step"),
        ("video.normalize", {}, spec("clip", "float32", -1, 8, 3, 32, 32), "dimension 1 has 3 channels"),
        ("video.normalize", {"std": 0}, spec("clip", "float32", -1, 3, 8, 32, 32), "std not zero"),
        ("video.normalize", {}, spec("clip", "uint8", -1, 3, 8, 32, 32), "it must be float32"),
    ],
)
def test_what_does_not_fit(use: str, options: dict[str, object], specs: dict[str, TensorSpec], text: str) -> None:
    with pytest.raises(InvalidManifest, match=text):
        step(use, **options).preview(specs)


@pytest.mark.parametrize(
    ("data", "text"),
    [("text", "row 1 is text"), (b"nothing", "row 1 holds no video"), (sound(), "row 1 holds sound without pictures")],
)
def test_what_is_no_video(data: object, text: str) -> None:
    with pytest.raises(InvalidTensor, match=text):
        step("video.frames", **CLIP).apply(files(video(counted(9)), data))


async def test_a_model_on_clips_is_served(kind: str, start: Start, tmp_path: Path) -> None:
    brightening_onnx(tmp_path / "model.onnx")
    (tmp_path / "labels.txt").write_text("darker\nbrighter\n")
    executor, loaded = await start(kind, onnx_manifest(PIPELINE), tmp_path)
    assert loaded.signature is not None
    assert loaded.signature.inputs == (TensorSpec("clip", "bytes", (-1,)),)
    up, down = video(counted(40), "libvpx-vp9", "webm"), video(counted(40)[::-1])
    result = await executor.run([files(up, down), files(down)], [2, 1])
    labels = [outputs["labels"][:, 0].tolist() for outputs in result.outputs]
    assert labels == [[b"brighter", b"darker"], [b"darker"]]
    with pytest.raises(InvalidTensor, match="row 0 holds a video that is damaged"):
        await executor.run([files(b"\0\0\0\x18ftypisom" + bytes(500))], [1])
    again = await executor.run([files(up)], [1])
    assert again.outputs[0]["labels"].tolist() == [[b"brighter"]]
