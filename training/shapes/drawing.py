"""Draws scenes of circles, squares, triangles and stars, and tells where they are. Knows no model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

LABELS = ("circle", "square", "triangle", "star")
_FINER = 3
"""Shapes are drawn so many times larger and averaged, for soft edges."""
_CONTRAST = 70.0
CLASSIFIER_SIZE, DETECTOR_SIZE = 64, 128
CLASSIFIER_WIDTHS, DETECTOR_WIDTHS = (0.35, 0.98), (0.16, 0.6)
"""Least and greatest width of a shape before it is turned, in shares of the scene."""
MOST_SHAPES = 5
Pixels = NDArray[np.uint8]
Point = tuple[float, float]


class Placed(NamedTuple):
    """One shape: its class (an index of `LABELS`) and its box in pixels, x0, y0, x1, y1."""

    label: int
    box: tuple[float, float, float, float]


class Scene(NamedTuple):
    """An RGB image, uint8 [height, width, 3], and the shapes in it."""

    pixels: Pixels
    shapes: tuple[Placed, ...]


def scenes(seed: int, size: int, most: int, widths: tuple[float, float]) -> Iterator[Scene]:
    """Endless square scenes of `size` pixels with 1 to `most` shapes, each as wide as `widths` says, in shares."""
    rng = np.random.default_rng(seed)
    while True:
        yield _scene(rng, size, int(rng.integers(1, most + 1)), widths)


def _scene(rng: np.random.Generator, size: int, count: int, widths: tuple[float, float]) -> Scene:
    ground = _background(rng, size)
    image = Image.fromarray(ground).resize((size * _FINER, size * _FINER), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(image)
    shapes: list[Placed] = []
    for _ in range(count):
        placed, outline = _place(rng, size, widths, shapes)
        if placed is None:
            continue
        colour = _colour(rng, ground.reshape(-1, 3).mean(axis=0))
        pen.polygon([(x * _FINER, y * _FINER) for x, y in outline], fill=colour)
        shapes.append(placed)
    image = image.resize((size, size), Image.Resampling.BOX)
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.9))))
    noise = rng.normal(0.0, rng.uniform(0.0, 8.0), (size, size, 3))
    return Scene(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8), tuple(shapes))


def _place(
    rng: np.random.Generator, size: int, widths: tuple[float, float], others: list[Placed]
) -> tuple[Placed | None, list[Point]]:
    """A shape beside the others and inside the scene; None when ten tries found no room."""
    for _ in range(10):
        label = int(rng.integers(len(LABELS)))
        outline = _outline(label, float(rng.uniform(*widths)) * size / 2, float(rng.uniform(0, 2 * math.pi)))
        xs, ys = zip(*outline, strict=True)
        wide, high = max(xs) - min(xs), max(ys) - min(ys)
        if wide >= size or high >= size:
            continue
        left, top = float(rng.uniform(0, size - wide)), float(rng.uniform(0, size - high))
        box = (left, top, left + wide, top + high)
        if not any(_touch(box, other.box) for other in others):
            return Placed(label, box), [(x - min(xs) + left, y - min(ys) + top) for x, y in outline]
    return None, []


def _outline(label: int, radius: float, turn: float) -> list[Point]:
    """The corners of a shape around 0, 0; a circle has many."""
    corners, inner = {0: (64, 1.0), 1: (4, 1.0), 2: (3, 1.0), 3: (10, 0.45)}[label]
    points = []
    for corner in range(corners):
        angle = turn + 2 * math.pi * corner / corners
        length = radius * (inner if corner % 2 else 1.0)
        points.append((length * math.cos(angle), length * math.sin(angle)))
    return points


def _touch(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _background(rng: np.random.Generator, size: int) -> Pixels:
    """Plain, a gradient, stripes or blotches; uint8 [size, size, 3]."""
    first, second = rng.uniform(0, 255, (2, 3))
    second = first + (second - first) * 0.35  # so that something can stand out from all of it
    kind = int(rng.integers(4))
    across, down = np.meshgrid(np.linspace(0, 1, size), np.linspace(0, 1, size))
    angle = rng.uniform(0, math.pi)
    along = across * math.cos(angle) + down * math.sin(angle)
    if kind == 0:
        share = np.zeros((size, size))
    elif kind == 1:
        share = (along - along.min()) / np.ptp(along)
    elif kind == 2:
        share = (np.sin(along * rng.uniform(10, 60)) + 1) / 2
    else:
        coarse = rng.uniform(0, 255, (8, 8)).astype(np.uint8)
        share = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)) / 255
    return np.clip(first + (second - first) * share[..., None], 0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator, ground: NDArray[np.float64]) -> tuple[int, int, int]:
    """A colour that stands out from `ground`."""
    while True:
        found = rng.uniform(0, 255, 3)
        if float(np.linalg.norm(found - ground)) > _CONTRAST:
            return (int(found[0]), int(found[1]), int(found[2]))
