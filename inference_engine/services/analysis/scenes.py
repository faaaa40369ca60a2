"""Where a video cuts from one scene to another, by what changes between sampled pictures. Numpy only; knows no models.

Of each picture a `Look` is kept: a colour histogram, which motion leaves alone, and a thumbnail of its brightness,
which tells pictures of the same colours apart. How far two looks are apart is the mean of both differences, 0 to 1. A
cut is where this stands out from its surroundings: an absolute threshold would find cuts in all fast motion, or none in
the dark. The adaptive threshold in a window follows B.-L. Yeo and B. Liu, "Rapid scene analysis on compressed video",
IEEE Transactions on Circuits and Systems for Video Technology 5 (6), 1995; here with the median, which a second cut in
the window leaves as it is. Fades and dissolves slower than a few samples are found only if their ends differ enough
between two samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec
import numpy as np

from inference_engine.domain.tensors import Array

_BINS = 8
_THUMBNAIL = 16
_WINDOW = 4
"""Samples on each side that a difference is compared with."""
_LEAST = 0.18
"""Below it nothing is a cut: noise, a lamp, something that leaps through the picture."""
_STANDING_OUT = 3.0
"""How many times the median of its surroundings a cut's difference is."""
_CERTAIN = 0.45
"""Above it everything is a cut: hardly a colour is shared."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


class Look(msgspec.Struct, frozen=True):
    """What is kept of a picture: `colours` float32 [bins], sum 1; `brightness` float32 [16, 16], 0 to 1."""

    colours: Array
    brightness: Array


def look_of(pixels: Array) -> Look:
    """`pixels` is uint8 RGB [height, width, 3]. A few milliseconds, whatever its size."""
    step = max(1, min(pixels.shape[:2]) // 48)
    small = pixels[::step, ::step]
    colours = _histogram(small.reshape(-1, 3))
    rows, columns = _edges(small.shape[0]), _edges(small.shape[1])
    luma = small.astype(np.float32) @ _LUMA / 255
    sums = np.add.reduceat(np.add.reduceat(luma, rows, axis=0), columns, axis=1)
    counts = np.outer(np.diff(np.append(rows, luma.shape[0])), np.diff(np.append(columns, luma.shape[1])))
    return Look(colours, sums / counts)


def _histogram(colours: Array) -> Array:
    """Shares of joint RGB bins. Each colour counts for the bins around it by its nearness, so that a slow change
    stays small."""
    places = np.clip((colours.astype(np.float32) + 0.5) * (_BINS / 256) - 0.5, 0, _BINS - 1)
    lower = np.minimum(places.astype(np.int32), _BINS - 2)
    upper_share = places - lower
    made = np.zeros(_BINS**3)
    for corner in itertools.product((0, 1), repeat=3):
        weights = np.where(corner, upper_share, 1 - upper_share).prod(axis=1)
        numbers = (lower + corner) @ np.array([_BINS * _BINS, _BINS, 1])
        made += np.bincount(numbers, weights, minlength=_BINS**3)
    return (made / len(colours)).astype(np.float32)


def _edges(size: int) -> Array:
    return np.unique(np.linspace(0, size, min(size, _THUMBNAIL), endpoint=False).astype(np.int64))


def difference(one: Look, other: Look) -> float:
    """0 for the same picture, 1 for pictures without a common colour, dark where the other is bright."""
    colours = float(np.abs(one.colours - other.colours).sum()) / 2
    if one.brightness.shape != other.brightness.shape:
        return colours
    return (colours + min(1.0, 2 * float(np.abs(one.brightness - other.brightness).mean()))) / 2


def cuts(differences: Sequence[float]) -> list[int]:
    """The samples at which a new scene begins. `differences[i]` is that between sample i and sample i + 1."""
    found = []
    for at, value in enumerate(differences):
        around = [*differences[max(0, at - _WINDOW) : at], *differences[at + 1 : at + 1 + _WINDOW]]
        usual = float(np.median(around)) if around else 0.0
        if value >= _CERTAIN or (value >= _LEAST and value > _STANDING_OUT * usual):
            found.append(at + 1)
    return found
