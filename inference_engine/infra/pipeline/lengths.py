"""How much of each padded row is real: the note that padding steps leave for the steps after the model."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from inference_engine.domain.errors import InvalidManifest
from inference_engine.domain.model import TensorSpec
from inference_engine.domain.pipeline import NOTE
from inference_engine.domain.tensors import Array

_END = ":lengths"


def lengths_note(name: str, rows: int = -1) -> TensorSpec:
    """The note of the input `name`: int64 [-1, 2], for each row how long it is, and how long it is with its padding."""
    return TensorSpec(f"{NOTE}{name}{_END}", "int64", (rows, 2))


def find_note(names: Collection[str], wanted: str | None) -> str | None:
    """The lengths of the input `wanted`, or of the only padded input; None where nothing was padded.

    Raises:
        InvalidManifest: `wanted` was not padded, or there are several to choose from.
    """
    there = [name for name in names if name.startswith(NOTE) and name.endswith(_END)]
    if wanted is None and len(there) <= 1:
        return there[0] if there else None
    found = f"{NOTE}{wanted}{_END}"
    if wanted is None or found not in there:
        inputs = ", ".join(repr(name[len(NOTE) : -len(_END)]) for name in there) or "none"
        raise InvalidManifest(f"say with `of` whose lengths count; inputs that a step has padded: {inputs}")
    return found


def valid_places(note: Array | None, rows: int, places: int) -> Array:
    """How many of the `places` of each row stand for what was sent, where the model gives `places` for the whole.

    A model may give fewer places than it was given: each then stands for as many of those.
    """
    if note is None:
        return np.full(rows, places, np.int64)
    found: Array = -(-note[:, 0] * places // np.maximum(note[:, 1], 1))
    return np.clip(found, 0, places)
