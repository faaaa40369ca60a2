"""Measures both models on fresh scenes through the server's own pipeline, as a client meets them. Trains nothing."""

from __future__ import annotations

import io
import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference_engine.domain.ports import Runtime
from inference_engine.infra.manifest_files import read_manifest
from inference_engine.infra.pipeline.boxes import shared
from inference_engine.infra.pipeline.runtime import create_runtime
from training.shapes.drawing import LABELS, Scene, scenes

HELD_OUT_SEED = 1_000_003
_ROWS = 50
Found = tuple[float, int, NDArray[np.float32]]
"""One answer of the detector: its score, the number of its scene, its box."""


def accuracy(folder: Path, count: int, size: int, widths: tuple[float, float]) -> float:
    """The share of `count` fresh scenes with one shape that the classifier names right."""
    runtime = _loaded(folder)
    found = list(itertools.islice(scenes(HELD_OUT_SEED, size, 1, widths), count))
    right = 0
    for part in _parts(found):
        labels = runtime.run({"pixels": _files(part)})["labels"][:, 0].tolist()
        right += sum(LABELS[scene.shapes[0].label].encode() == label for scene, label in zip(part, labels, strict=True))
    return right / count


def mean_average_precision(folder: Path, count: int, size: int, most: int, widths: tuple[float, float]) -> float:
    """mAP at IoU 0.5: the mean over the classes of the area below the precision-recall curve, every point used."""
    runtime = _loaded(folder)
    found = list(itertools.islice(scenes(HELD_OUT_SEED, size, most, widths), count))
    answers: dict[bytes, list[Found]] = defaultdict(list)
    for start in range(0, count, _ROWS):
        outputs = runtime.run({"pixels": _files(found[start : start + _ROWS])})
        parts = zip(outputs["labels"], outputs["scores"], outputs["boxes"], strict=True)
        for scene, (labels, scores, boxes) in enumerate(parts, start):
            for label, score, box in zip(labels.tolist(), scores.tolist(), boxes, strict=True):
                if label:
                    answers[label].append((score, scene, box))
    return float(np.mean([_average_precision(answers[LABELS[k].encode()], found, k) for k in range(len(LABELS))]))


def _average_precision(answers: list[Found], found: list[Scene], label: int) -> float:
    truth = [np.array([placed.box for placed in scene.shapes if placed.label == label]) for scene in found]
    taken = [np.zeros(len(boxes), dtype=bool) for boxes in truth]
    hits = []
    for _, scene, box in sorted(answers, key=lambda answer: -answer[0]):
        ious = shared(box, truth[scene]) if len(truth[scene]) else np.zeros(0)
        best = int(ious.argmax()) if len(ious) else -1
        hit = best >= 0 and ious[best] >= 0.5 and not taken[scene][best]
        if hit:
            taken[scene][best] = True
        hits.append(hit)
    right = np.cumsum(hits)
    recall = right / sum(map(len, truth))
    precision = np.maximum.accumulate((right / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def _loaded(folder: Path) -> Runtime:
    manifest = read_manifest(folder / "model.yaml", folder.parent.name, folder.name)
    runtime = create_runtime(manifest)
    runtime.load(manifest, folder)
    return runtime


def _parts(found: list[Scene]) -> list[list[Scene]]:
    return [found[start : start + _ROWS] for start in range(0, len(found), _ROWS)]


def _files(part: list[Scene]) -> NDArray[np.object_]:
    """The scenes as PNG files."""
    made = np.empty(len(part), dtype=object)
    for row, scene in enumerate(part):
        file = io.BytesIO()
        Image.fromarray(scene.pixels).save(file, "PNG", compress_level=1)
        made[row] = file.getvalue()
    return made
