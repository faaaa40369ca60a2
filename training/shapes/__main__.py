"""The one command that makes both models anew: `python -m training.shapes`; `--evaluate` only measures them."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from training.files import replace
from training.shapes.drawing import (
    CLASSIFIER_SIZE,
    CLASSIFIER_WIDTHS,
    DETECTOR_SIZE,
    DETECTOR_WIDTHS,
    LABELS,
    MOST_SHAPES,
)
from training.shapes.evaluate import accuracy, mean_average_precision

MODELS = Path(__file__).parents[2] / "inference_engine" / "infra" / "builtin_models"
CLASSIFIER, DETECTOR = MODELS / "shapes" / "1", MODELS / "shapes-detector" / "1"
HELD_OUT = 2000, 1000
FILES = """\
licence: MIT
digests: {{model.onnx: "sha256:{digest}", labels.txt: "sha256:{labels_digest}"}}
"""
CLASSIFIER_MANIFEST = (
    """\
name: shapes
version: "1"
runtime: onnx
artifact: model.onnx
task: image-classification
description: >-
  Tells which one shape an image shows: circle, square, triangle or star, filled with one colour. Send image files as
  bytes in the input `pixels`. Made as an example from drawn images; it knows nothing else, and gives a photograph one
  of the four labels too. {figure}
signature:
  inputs:  [{{name: pixels, dtype: bytes, shape: [-1]}}]
  outputs: [{{name: labels, dtype: bytes, shape: [-1, 4]}}, {{name: scores, dtype: float32, shape: [-1, 4]}}]
pipeline:
  preprocess:
    - {{use: image.decode}}
    - {{use: image.letterbox, width: 64, height: 64}}
    - {{use: image.normalize, mean: 0.5, std: 0.25}}
  postprocess:
    - {{use: softmax}}
    - {{use: top_k, k: 4, labels: labels.txt}}
execution: {{threads: 1}}
tags: [built-in, image, circle, square, triangle, star]
capabilities: [predict]
"""
    + FILES
)
DETECTOR_MANIFEST = (
    """\
name: shapes-detector
version: "1"
runtime: onnx
artifact: model.onnx
task: object-detection
description: >-
  Finds circles, squares, triangles and stars, filled with one colour, and where they are in pixels of the image sent.
  Send image files as bytes in the input `pixels`. Made as an example from drawn images with up to five shapes apart
  from each other, a sixth to six tenths of the image wide; it knows nothing else. {figure}
signature:
  inputs: [{{name: pixels, dtype: bytes, shape: [-1]}}]
  outputs:
    - {{name: boxes, dtype: float32, shape: [-1, 20, 4]}}
    - {{name: scores, dtype: float32, shape: [-1, 20]}}
    - {{name: labels, dtype: bytes, shape: [-1, 20]}}
pipeline:
  preprocess:
    - {{use: image.decode}}
    - {{use: image.letterbox, width: 128, height: 128}}
    - {{use: image.normalize, mean: 0.5, std: 0.25}}
  postprocess:
    - {{use: boxes.decode, stride: 8}}
    - {{use: boxes.nms, k: 20, at: 0.3, iou: 0.5}}
    - {{use: boxes.to_original}}
    - {{use: boxes.labels, file: labels.txt}}
execution: {{threads: 1}}
tags: [built-in, image, detection, circle, square, triangle, star]
capabilities: [predict]
"""
    + FILES
)


def write(folder: Path, content: bytes, manifest: str, figure: str) -> None:
    """The model's file, its labels and its manifest."""
    labels = "".join(f"{label}\n" for label in LABELS).encode()
    digests = {"digest": hashlib.sha256(content).hexdigest(), "labels_digest": hashlib.sha256(labels).hexdigest()}
    replace(folder / "model.onnx", content)
    replace(folder / "labels.txt", labels)
    replace(folder / "model.yaml", manifest.format(figure=figure, **digests).encode())


def measured() -> tuple[float, float]:
    """Accuracy of the classifier and mAP@0.5 of the detector on scenes that no training drew."""
    right = accuracy(CLASSIFIER, HELD_OUT[0], CLASSIFIER_SIZE, CLASSIFIER_WIDTHS)
    precision = mean_average_precision(DETECTOR, HELD_OUT[1], DETECTOR_SIZE, MOST_SHAPES, DETECTOR_WIDTHS)
    print(f"accuracy on {HELD_OUT[0]} fresh scenes {right:.4f}, mAP@0.5 on {HELD_OUT[1]} fresh scenes {precision:.4f}")
    return right, precision


def publish(classifier: bytes, detector: bytes) -> None:
    """Write both models, measure them, and put the figures into their descriptions."""
    figures = ["", ""]
    for _ in range(2):  # without figures first, because what is measured is what was written
        write(CLASSIFIER, classifier, CLASSIFIER_MANIFEST, figures[0])
        write(DETECTOR, detector, DETECTOR_MANIFEST, figures[1])
        if not figures[0]:
            right, precision = measured()
            figures = [
                f"Right for {right:.1%} of {HELD_OUT[0]} fresh drawings of the same kind.",
                f"mAP@0.5 {precision:.3f} on {HELD_OUT[1]} fresh drawings of the same kind.",
            ]


def main() -> None:
    """Train, write, measure."""
    if "--evaluate" in sys.argv[1:]:
        measured()
        return
    import torch

    from training.shapes import networks

    torch.set_num_threads(2)
    classifier = networks.to_onnx(networks.train_classifier(), CLASSIFIER_SIZE, "shapes", "logits")
    detector = networks.to_onnx(networks.train_detector(), DETECTOR_SIZE, "shapes-detector", "map")
    publish(classifier, detector)
    print(f"{len(classifier)} and {len(detector)} bytes")


if __name__ == "__main__":
    main()
