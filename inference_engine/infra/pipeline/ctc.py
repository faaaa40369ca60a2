"""The postprocess step `ctc.decode`: logits of a model trained with CTC to texts.

CTC (A. Graves et al., 2006) gives a class for each time step, with a blank class between repeats of a label. The beam
search is the prefix search of A. Hannun et al. (2014) without a language model.
"""

from __future__ import annotations

import heapq
import math
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from inference_engine.domain.errors import InferenceFailed, InvalidManifest
from inference_engine.domain.model import TensorSpec
from inference_engine.domain.pipeline import FLOATS, Side, Specs, choose, last_size, require_dtype
from inference_engine.domain.tensors import ANY, Array, Tensors
from inference_engine.infra.pipeline.classes import read_labels
from inference_engine.infra.pipeline.lengths import find_note, valid_places

_NEVER = -math.inf
_FAINT = 10.0
"""Classes so much less likely than a time step's best one (e^-10) begin no prefix."""
Prefix = tuple[int, ...]


class Decode(msgspec.Struct, frozen=True, dict=True):
    """Logits, or logarithms of probabilities, [-1, time, classes] to `texts` [-1], in the place of the output.

    `labels` has one label in each line, the first for class 0; `delimiter` is the label that stands between words,
    `ignore` lists labels that are not part of the text. `beam` 1 takes the best class of each time step, more keeps so
    many prefixes, each followed by the best `candidates` classes. `scores` adds the natural logarithm of the text's
    probability: of its best path, or with a beam of the paths that were kept.

    Time steps that stand for padding are left out: by the lengths of the input `of`, or by the output `lengths`, which
    counts time steps.
    """

    side: ClassVar[Side] = "postprocess"
    labels: Path
    blank: Annotated[int, msgspec.Meta(ge=0)] = 0
    delimiter: str | None = None
    ignore: tuple[str, ...] = ()
    beam: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    candidates: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    scores: bool = False
    lengths: str | None = None
    of: str | None = None
    keep: bool = False
    output: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose([key for key in specs if key != self.lengths], self.output)
        spec = specs[name]
        require_dtype(spec, FLOATS)
        if len(spec.shape) != 3:
            raise InvalidManifest(f"tensor {name!r} has shape {list(spec.shape)}, it must be [-1, time, classes]")
        classes, known = last_size(spec), len(self._labels)
        if classes not in (ANY, known):
            raise InvalidManifest(f"labels has {known} lines, tensor {name!r} has {classes} classes")
        if self.blank >= known:
            raise InvalidManifest(f"blank is {self.blank}, tensor {name!r} has {known} classes")
        for label in (*self.ignore, *([] if self.delimiter is None else [self.delimiter])):
            if not any(label in one for one in self._labels):
                raise InvalidManifest(f"no label has {label!r} in it, for tensor {name!r}")
        if self.lengths is None:
            find_note(list(specs), self.of)
        elif specs[choose(specs, self.lengths)].dtype not in ("int64", "int32"):
            raise InvalidManifest(f"tensor {self.lengths!r} is {specs[self.lengths].dtype}, lengths are int64 or int32")
        others = {key: value for key, value in specs.items() if self.keep or key != name}
        made = {"texts": TensorSpec("texts", "bytes", spec.shape[:1])}
        if self.scores:
            made["scores"] = TensorSpec("scores", "float32", spec.shape[:1])
        return {**others, **made}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose([key for key in tensors if key != self.lengths], self.output)
        given = tensors[name].astype(np.float32, copy=False)
        if given.shape[-1] != len(self._labels):
            raise InferenceFailed(f"output {name!r} has {given.shape[-1]} classes, labels has {len(self._labels)}")
        texts = np.empty(len(given), dtype=object)
        scores = np.empty(len(given), np.float32)
        for row, (logits, size) in enumerate(zip(given, self._sizes(tensors, given), strict=True)):
            likely = _log_softmax(logits[:size])
            if np.isnan(likely).any():
                raise InferenceFailed(f"output {name!r} holds numbers that are no logits (NaN or infinite)", param=name)
            classes, scores[row] = self._greedy(likely) if self.beam == 1 else self._search(likely)
            texts[row] = self._text(classes)
        others = {key: value for key, value in tensors.items() if self.keep or key != name}
        return {**others, "texts": texts, **({"scores": scores} if self.scores else {})}

    def _sizes(self, tensors: Tensors, given: Array) -> Array:
        rows, times, _ = given.shape
        if self.lengths is not None:
            return np.clip(tensors[self.lengths].reshape(rows), 0, times)
        note = find_note(list(tensors), self.of)
        return valid_places(None if note is None else tensors[note], rows, times)

    def _greedy(self, likely: Array) -> tuple[Prefix, float]:
        best = likely.argmax(axis=1)
        changed = np.concatenate([[True], best[1:] != best[:-1]]) if len(best) else np.zeros(0, bool)
        kept = best[changed & (best != self.blank)]
        return tuple(kept.tolist()), float(likely.max(axis=1).sum())

    def _search(self, likely: Array) -> tuple[Prefix, float]:
        """The likeliest text; of each prefix are kept the odds that it ends in a blank, and that it does not."""
        beams: dict[Prefix, tuple[float, float]] = {(): (0.0, _NEVER)}
        few = min(self.candidates, likely.shape[1])
        order = np.argsort(-likely, axis=1, kind="stable")[:, :few]
        for odds, best in zip(likely.tolist(), order.tolist(), strict=True):
            beams = self._next(beams, odds, [kind for kind in best if odds[kind] > odds[best[0]] - _FAINT])
        prefix, (blank, label) = next(iter(beams.items()))
        return prefix, _sum(blank, label)

    def _next(
        self, beams: dict[Prefix, tuple[float, float]], odds: list[float], best: list[int]
    ) -> dict[Prefix, tuple[float, float]]:
        """All prefixes one time step later, likeliest first."""
        found: dict[Prefix, tuple[float, float]] = {}

        def add(prefix: Prefix, blank: float, label: float) -> None:
            before = found.get(prefix)
            if before is None:
                found[prefix] = (blank, label)
            else:
                found[prefix] = (_sum(before[0], blank), _sum(before[1], label))

        for prefix, (blank, label) in beams.items():
            both = _sum(blank, label)
            for kind in best:
                if kind == self.blank:
                    add(prefix, both + odds[kind], _NEVER)
                elif prefix and prefix[-1] == kind:
                    add(prefix, _NEVER, label + odds[kind])
                    add((*prefix, kind), _NEVER, blank + odds[kind])
                else:
                    add((*prefix, kind), _NEVER, both + odds[kind])
        return dict(heapq.nlargest(self.beam, found.items(), key=lambda item: _sum(*item[1])))

    def _text(self, classes: Prefix) -> bytes:
        text = "".join(self._labels[kind] for kind in classes if self._labels[kind] not in self.ignore)
        if self.delimiter is not None:
            text = " ".join(text.replace(self.delimiter, " ").split())
        return text.encode()

    @cached_property
    def _labels(self) -> list[str]:
        return [label.decode() for label in read_labels(self.labels)]


def _sum(one: float, other: float) -> float:
    """log(e^one + e^other)."""
    high, low = (one, other) if one >= other else (other, one)
    return high if low == _NEVER else high + math.log1p(math.exp(low - high))


def _log_softmax(logits: Array) -> Array:
    with np.errstate(invalid="ignore"):  # infinities that leave no probabilities become NaN
        shifted = logits - logits.max(axis=-1, keepdims=True, initial=-np.inf)
        found: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found
