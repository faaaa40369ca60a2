"""Log-mel spectrograms with numpy. Knows no tensors and no pipeline.

The scales are those of S. Slaney's Auditory Toolbox (1998) and of the HTK book.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from inference_engine.domain.tensors import Array

Scale = Literal["slaney", "htk"]
Window = Literal["hann", "hamming", "rectangular"]
_BLOCK = 4096  # frames at once


def window(kind: Window, length: int, n_fft: int) -> Array:
    """A periodic window of `length`, in the middle of `n_fft` zeros."""
    angles = 2 * np.pi * np.arange(length) / length
    shape = {"hann": 0.5 - 0.5 * np.cos(angles), "hamming": 0.54 - 0.46 * np.cos(angles)}.get(kind, np.ones(length))
    left = (n_fft - length) // 2
    return np.pad(shape, (left, n_fft - length - left))


def filters(n_mels: int, n_fft: int, rate: int, low: float, high: float, scale: Scale, by_area: bool) -> Array:
    """Triangles [n_fft / 2 + 1, n_mels] that overlap by half, evenly spaced on the mel scale.

    `by_area` gives each the same area (Slaney's normalisation), else each has the height 1.
    """
    edges = _hertz(np.linspace(_mels(np.array(low), scale), _mels(np.array(high), scale), n_mels + 2), scale)
    bins = np.linspace(0, rate / 2, n_fft // 2 + 1)
    widths = np.diff(edges)
    rising = (bins[:, None] - edges[None, :-2]) / widths[None, :-1]
    falling = (edges[None, 2:] - bins[:, None]) / widths[None, 1:]
    found: Array = np.maximum(0, np.minimum(rising, falling))
    return found * (2 / (edges[2:] - edges[:-2])) if by_area else found


def kaldi_filters(n_mels: int, n_fft: int, rate: int, low: float, high: float) -> Array:
    """Triangles [n_fft / 2 + 1, n_mels] of height 1 whose sides are straight on the mel scale (HTK's)."""
    edges = np.linspace(_mels(np.array(low), "htk"), _mels(np.array(high), "htk"), n_mels + 2)
    bins = _mels(np.linspace(0, rate / 2, n_fft // 2 + 1), "htk")[:, None]
    width = edges[1] - edges[0]
    found: Array = np.maximum(0, np.minimum(bins - edges[:-2], edges[2:] - bins) / width)
    found[-1] = 0  # Kaldi leaves the highest bin out
    return found


def spectrum(samples: Array, shape: Array, hop: int, power: float, bank: Array) -> Array:
    """[frames, n_mels] of samples that are padded already: one frame for each `hop` that fits."""
    size = len(shape)
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]
    blocks = [
        np.abs(np.fft.rfft(frames[at : at + _BLOCK] * shape, axis=-1)) ** power @ bank
        for at in range(0, len(frames), _BLOCK)
    ]
    return np.concatenate(blocks)


def _mels(hertz: Array, scale: Scale) -> Array:
    if scale == "htk":
        return np.asarray(2595 * np.log10(1 + hertz / 700))
    with np.errstate(divide="ignore"):
        return np.where(hertz < 1000, hertz * 3 / 200, 15 + np.log(np.maximum(hertz, 1e-9) / 1000) * 27 / np.log(6.4))


def _hertz(mels: Array, scale: Scale) -> Array:
    if scale == "htk":
        return np.asarray(700 * (10 ** (mels / 2595) - 1))
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
