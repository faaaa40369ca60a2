"""The image steps: what they compute against plain references, and every kind of file they must read or refuse."""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from inference_engine.domain.errors import InvalidManifest, InvalidTensor, RuntimeMissing
from inference_engine.domain.model import PipelineSpec, Signature, TensorSpec
from inference_engine.domain.pipeline import Pipeline
from tests.pipeline.conftest import CATALOG, NO_FOLDER, step

PICTURES = hnp.arrays("uint8", st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)))
COLOURS = np.array([[[250, 10, 20], [10, 240, 30], [20, 30, 230]], [[200, 200, 0], [0, 200, 200], [90, 90, 90]]], "u1")


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def batch(*files: object) -> dict[str, np.ndarray]:
    made = np.empty(len(files), dtype=object)
    made[:] = files
    return {"x": made}


def decoded(data: object, **options: Any) -> np.ndarray:
    found: np.ndarray = step("image.decode", **options).apply(batch(data))["x"][0]
    return found


def images(*found: np.ndarray) -> dict[str, np.ndarray]:
    """What `image.decode` gives for these pixels."""
    return dict(step("image.decode").apply(batch(*(encoded(Image.fromarray(one)) for one in found))))


@given(picture=PICTURES, kind=st.sampled_from(["PNG", "BMP", "WEBP"]))
@settings(max_examples=40, deadline=None)
def test_lossless_files_give_their_pixels(picture: np.ndarray, kind: str) -> None:
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(picture), kind, **options)), picture)


@pytest.mark.parametrize("kind", ["JPEG", "GIF"])
def test_lossy_files_are_near(kind: str) -> None:
    flat = np.full((20, 30, 3), (200, 40, 90), np.uint8)
    assert np.abs(decoded(encoded(Image.fromarray(flat), kind)).astype(int) - flat).max() <= 4


def _grey16() -> Image.Image:
    return Image.fromarray(np.array([[0, 257, 65535], [32896, 128, 129]], np.uint16))


def _see_through() -> Image.Image:
    return Image.fromarray(np.dstack([COLOURS, np.array([[255, 0, 255], [255, 255, 0]], np.uint8)]))


def _palette_see_through() -> Image.Image:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L").convert("L")
    image.putpalette([250, 10, 20, 10, 240, 30, 20, 30, 230])
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("make", "kind", "expected"),
    [
        (_grey16, "PNG", [[[0] * 3, [1] * 3, [255] * 3], [[128] * 3, [0] * 3, [1] * 3]]),
        (_see_through, "PNG", [[[250, 10, 20], [7, 8, 9], [20, 30, 230]], [[200, 200, 0], [0, 200, 200], [7, 8, 9]]]),
        (_palette_see_through, "PNG", [[[250, 10, 20], [7, 8, 9], [20, 30, 230]]]),
        (lambda: Image.fromarray(COLOURS).convert("L"), "PNG", None),
        (
            lambda: Image.fromarray(COLOURS[..., 0] > 128),
            "PNG",
            [[[255] * 3, [0] * 3, [0] * 3], [[255] * 3, [0] * 3, [0] * 3]],
        ),
        (lambda: Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", None),
        (lambda: Image.new("LA", (2, 1), (100, 255)), "PNG", [[[100] * 3] * 2]),
    ],
)
def test_odd_modes_become_rgb(make: Callable[[], Image.Image], kind: str, expected: list[Any] | None) -> None:
    image = make()
    found = decoded(encoded(image, kind), background=[7, 8, 9])
    assert found.dtype == np.uint8
    assert found.shape == (image.height, image.width, 3)
    if expected is not None:
        assert found.tolist() == expected
    elif image.mode == "CMYK":
        assert found[0, 0, 0] > 200
        assert found[0, 0, 1] < 60


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_upright(orientation: int) -> None:
    upright = np.kron(COLOURS, np.ones((16, 16, 1), np.uint8))
    turns = {
        1: (0, False),
        2: (0, True),
        3: (2, False),
        4: (2, True),
        5: (1, True),
        6: (1, False),
        7: (3, True),
        8: (3, False),
    }
    quarters, mirrored = turns[orientation]
    stored = upright[:, ::-1] if mirrored else upright
    stored = np.rot90(stored, quarters)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decoded(
        encoded(Image.fromarray(np.ascontiguousarray(stored)), "JPEG", quality=100, subsampling=0, exif=exif)
    )
    assert found.shape == upright.shape
    middles = found[8::16, 8::16].astype(int)
    assert np.abs(middles - COLOURS).max() < 12


def _png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG file that claims a size, whatever its data hold."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


GOOD = encoded(Image.fromarray(np.random.default_rng(1).integers(0, 255, (30, 40, 3)).astype(np.uint8)), "JPEG")


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (b"", {}, "no image that can be read: send PNG, JPEG"),
        (b"hello, this is text", {}, "no image that can be read"),
        ("text", {}, "is text, send an image's bytes"),
        (b"II*\0" + bytes(100), {}, "no image that can be read"),
        (GOOD[:200], {}, "cannot be read|cut off"),
        (GOOD[:-40], {}, "cannot be read|cut off"),
        (encoded(Image.fromarray(COLOURS))[:40], {}, "cut off|cannot be read"),
        (_png(60_000, 60_000), {}, "60000 x 60000 pixels, it must have 1 to 40000000"),
        (_png(0, 4), {}, "0 x 4 pixels"),
        (_png(100, 100, b"\0" * 10), {}, "cannot be read"),
        (GOOD, {"max_pixels": 1000}, "40 x 30 pixels, it must have 1 to 1000"),
        (GOOD, {"max_bytes": 100}, r"bytes, an image may have 100"),
        (GOOD, {"max_batch_pixels": 1000}, "more than 1000 pixels in all: send fewer"),
    ],
)
def test_what_is_no_good_image_is_refused_by_name(data: object, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidTensor, match=words) as caught:
        decoded(data, **options)
    assert caught.value.param == "x"
    assert "input 'x'" in caught.value.message


@given(cut=st.integers(0, len(GOOD) - 3), flips=st.lists(st.integers(0, len(GOOD) - 1), max_size=4))
@settings(max_examples=80, deadline=None)
def test_a_damaged_file_gives_pixels_or_a_clear_error(cut: int, flips: list[int]) -> None:
    damaged = bytearray(GOOD)
    for at in flips:
        damaged[at] ^= 0xFF
    for data in (bytes(damaged), bytes(damaged[:cut])):
        with contextlib.suppress(InvalidTensor):  # and nothing else
            assert decoded(data).shape[2] == 3


@given(pictures=st.lists(PICTURES, min_size=1, max_size=3), width=st.integers(1, 50), height=st.integers(1, 50))
@settings(max_examples=30, deadline=None)
def test_crop_takes_the_middle_of_images_of_any_size(pictures: list[np.ndarray], width: int, height: int) -> None:
    found = step("image.crop", width=width, height=height, fill=9).apply(images(*pictures))
    assert found["x"].shape == (len(pictures), height, width, 3)
    for picture, made, note in zip(pictures, found["x"], found["@x"], strict=True):
        left, top = (width - picture.shape[1]) // 2, (height - picture.shape[0]) // 2
        assert note[2:4].tolist() == [left, top]
        for y in range(height):
            for x in range(width):
                inside = 0 <= y - top < picture.shape[0] and 0 <= x - left < picture.shape[1]
                assert (made[y, x] == (picture[y - top, x - left] if inside else 9)).all()


@given(picture=PICTURES, width=st.integers(1, 60), height=st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_letterbox_keeps_proportions_and_remembers_where(picture: np.ndarray, width: int, height: int) -> None:
    found = step("image.letterbox", width=width, height=height, fill=3, filter="nearest").apply(images(picture))
    high, wide = picture.shape[:2]
    scale_x, scale_y, left, top, note_width, note_height = found["@x"][0]
    assert (note_width, note_height) == (wide, high)
    inner_width, inner_height = round(scale_x * wide), round(scale_y * high)
    assert inner_width == width or inner_height == height
    fit = min(width / wide, height / high)
    assert abs(inner_width - max(1, wide * fit)) <= 0.5 + 1e-9
    assert abs(inner_height - max(1, high * fit)) <= 0.5 + 1e-9
    outside = np.ones((height, width), bool)
    outside[int(top) : int(top) + inner_height, int(left) : int(left) + inner_width] = False
    assert (found["x"][0][outside] == 3).all()
    for y in range(inner_height):
        for x in range(inner_width):
            source = picture[min(high - 1, int((y + 0.5) / scale_y)), min(wide - 1, int((x + 0.5) / scale_x))]
            if abs((y + 0.5) / scale_y % 1 - 0.5) < 0.49 and abs((x + 0.5) / scale_x % 1 - 0.5) < 0.49:
                assert (found["x"][0][int(top) + y, int(left) + x] == source).all()


def test_resize_takes_a_size_or_a_shorter_side() -> None:
    given_images = images(np.zeros((10, 30, 3), np.uint8), np.zeros((50, 20, 3), np.uint8))
    assert step("image.resize", width=7, height=5).apply(given_images)["x"].shape == (2, 5, 7, 3)
    ragged = step("image.resize", shorter=5).apply(given_images)
    assert [one.shape for one in ragged["x"]] == [(5, 15, 3), (12, 5, 3)]
    np.testing.assert_allclose(ragged["@x"][:, :2], [[0.5, 0.5], [0.25, 12 / 50]])
    thin = images(np.zeros((1, 9000, 3), np.uint8))
    with pytest.raises(InvalidTensor, match="too long and thin"):
        step("image.resize", shorter=224).apply(thin)


def test_resize_averages_the_area() -> None:
    picture = np.random.default_rng(3).integers(0, 255, (8, 12, 3)).astype(np.uint8)
    found = step("image.resize", width=3, height=2, filter="box").apply(images(picture))["x"][0]
    expected = picture.reshape(2, 4, 3, 4, 3).mean(axis=(1, 3))
    assert np.abs(found - expected).max() <= 1


@given(
    pixels=hnp.arrays("uint8", st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.just(3))),
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    layout=st.sampled_from(["nchw", "nhwc"]),
    channels=st.sampled_from(["rgb", "bgr"]),
)
@settings(deadline=None)
def test_normalize_is_the_formula(pixels: np.ndarray, mean: tuple[float, ...], layout: str, channels: str) -> None:
    found = step("image.normalize", mean=mean, std=0.25, layout=layout, channels=channels).apply({"x": pixels})["x"]
    assert found.dtype == np.float32
    for n, y, x, c in np.ndindex(*pixels.shape):
        source = c if channels == "rgb" else 2 - c
        got = found[n, c, y, x] if layout == "nchw" else found[n, y, x, c]
        assert got == pytest.approx((pixels[n, y, x, source] / 255 - mean[c]) / 0.25, abs=1e-5)


def test_grey_is_luma() -> None:
    found = step("image.normalize", channels="grey", scale=1).apply({"x": COLOURS[None]})["x"]
    assert found.shape == (1, 1, 2, 3)
    np.testing.assert_allclose(found[0, 0], COLOURS @ np.array([0.299, 0.587, 0.114]), rtol=1e-5)


MODEL = Signature((TensorSpec("x", "float32", (-1, 3, 8, 8)),), (TensorSpec("y", "float32", (-1, 4)),))


def pipeline(*entries: dict[str, Any]) -> Pipeline:
    return CATALOG.build(PipelineSpec(preprocess=entries), NO_FOLDER)


DECODE, NORMALIZE = {"use": "image.decode"}, {"use": "image.normalize"}


@pytest.mark.parametrize(
    "between",
    [
        [{"use": "image.resize", "width": 8, "height": 8}],
        [{"use": "image.letterbox", "width": 8, "height": 8}],
        [{"use": "image.resize", "shorter": 9}, {"use": "image.crop", "width": 8, "height": 8}],
        [{"use": "image.resize", "width": 20, "height": 10}, {"use": "image.crop", "width": 8, "height": 8}],
    ],
)
def test_the_client_sends_bytes(between: list[dict[str, Any]]) -> None:
    made = pipeline(DECODE, *between, NORMALIZE)
    assert made.preview(MODEL) == Signature((TensorSpec("x", "bytes", (-1,)),), MODEL.outputs)
    found = made.before(batch(encoded(Image.new("RGB", (30, 9))), encoded(Image.new("RGB", (3, 50)))))
    assert found["x"].shape == (2, 3, 8, 8)
    assert found["@x"].shape == (2, 6)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([DECODE, NORMALIZE], r"is uint8 \[-1, 8, 8, 3\], images have different sizes: put image.resize"),
        ([DECODE], "images have different sizes"),
        ([DECODE, {"use": "image.resize", "width": 8, "height": 8}], "image.normalize after this step"),
        (
            [DECODE, {"use": "image.resize", "width": 9, "height": 8}, NORMALIZE],
            r"this step gives uint8 \[-1, 8, 9, 3\]",
        ),
        ([{"use": "image.resize", "width": 8, "height": 8}, NORMALIZE], "put use: image.decode before"),
        ([DECODE, {"use": "image.resize", "shorter": 8}, NORMALIZE], "put image.crop after it"),
        ([DECODE, {"use": "image.resize", "width": 8}, NORMALIZE], "give either width and height, or shorter"),
        ([DECODE, {"use": "image.normalize", "layout": "nhwc"}], "nhwc with rgb needs four dimensions"),
        ([DECODE, {"use": "image.normalize", "std": 0}], "std not zero"),
        ([DECODE, {"use": "image.normalize", "mean": [1, 2]}], "mean has 2 numbers, tensor 'x' has 3 channels"),
    ],
)
def test_steps_that_do_not_fit_are_errors_of_the_load(entries: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(InvalidManifest, match=words):
        pipeline(*entries).preview(MODEL)


def test_without_pillow_the_load_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    made = pipeline(DECODE, {"use": "image.crop", "width": 8, "height": 8}, NORMALIZE)
    with pytest.raises(RuntimeMissing, match=r"pip install 'inference-engine\[images\]'"):
        made.preview(MODEL)


def test_a_model_s_own_tensor_cannot_look_like_a_note() -> None:
    model = Signature((TensorSpec("@x", "float32", (-1, 3)),), ())
    with pytest.raises(InvalidManifest, match="names with @ in front are for notes"):
        pipeline({"use": "scale"}).preview(model)


@pytest.mark.parametrize(
    "sizing",
    [
        {"use": "image.resize", "width": 20, "height": 10},
        {"use": "image.resize", "width": 31, "height": 17},
        {"use": "image.resize", "shorter": 9},
        {"use": "image.letterbox", "width": 24, "height": 24},
    ],
    ids=str,
)
def test_decoding_and_sizing_together_gives_the_same(sizing: dict[str, Any]) -> None:
    crop = [{"use": "image.crop", "width": 8, "height": 8}] if "shorter" in sizing else []
    apart = pipeline({"use": "image.decode"}, sizing, *crop)
    joined = apart.joined()
    assert len(joined.preprocess) == len(apart.preprocess) - 1
    pixels = np.random.default_rng(0).integers(0, 256, (17, 31, 4), np.uint8)
    modes = [_grey16(), *(Image.fromarray(pixels).convert(mode) for mode in ("RGB", "RGBA", "L", "P", "1"))]
    files = batch(*map(encoded, modes))
    one, other = apart.before(files), joined.before(files)
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])
    with pytest.raises(InvalidTensor, match="row 1"):
        joined.before(batch(encoded(modes[0]), b"broken"))
