"""The one command that makes iris anew: `python -m training.iris`; checks the ONNX file against scikit-learn."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from training.files import replace

MODEL = Path(__file__).parents[2] / "inference_engine" / "infra" / "builtin_models" / "iris" / "1"
ALLOWED_DIFFERENCE = 1e-5
MANIFEST = """\
name: iris
version: "1"
runtime: onnx
artifact: model.onnx
task: tabular-classification
description: >-
  Tells three kinds of iris flowers apart by sepal length, sepal width, petal length and petal width in centimetres,
  in this order. Classes: 0 setosa, 1 versicolor, 2 virginica. A logistic regression on 150 flowers, made as an example.
signature:
  inputs:  [{{name: input, dtype: float32, shape: [-1, 4]}}]
  outputs: [{{name: label, dtype: int64, shape: [-1]}}, {{name: probabilities, dtype: float32, shape: [-1, 3]}}]
execution: {{executor: thread, max_batch_size: 64}}
tags: [built-in, tabular, setosa, versicolor, virginica]
capabilities: [predict]
licence: MIT
digests: {{model.onnx: "sha256:{digest}"}}
"""


def to_onnx(pipeline: Pipeline) -> bytes:
    """The pipeline as an ONNX file with one input tensor and two output tensors."""
    model = convert_sklearn(
        pipeline,
        name="iris",
        initial_types=[("input", FloatTensorType([None, 4]))],
        final_types=[("label", Int64TensorType([None])), ("probabilities", FloatTensorType([None, 3]))],
        options={"zipmap": False},
        target_opset=17,
    )
    content: bytes = model.SerializeToString()
    return content


def main() -> None:
    """Train, convert, compare, write."""
    rows, labels = load_iris(return_X_y=True)
    rows = rows.astype(np.float32)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    accuracy = cross_val_score(pipeline, rows, labels, cv=5).mean()
    pipeline.fit(rows, labels)
    content = to_onnx(pipeline)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found_labels, found = session.run(["label", "probabilities"], {"input": rows})
    difference = float(np.abs(found - pipeline.predict_proba(rows)).max())
    same = int((found_labels == pipeline.predict(rows)).sum())
    if same != len(rows) or difference > ALLOWED_DIFFERENCE:
        raise SystemExit(f"ONNX differs from scikit-learn: {same} equal labels, difference {difference:.2e}")
    replace(MODEL / "model.onnx", content)
    replace(MODEL / "model.yaml", MANIFEST.format(digest=hashlib.sha256(content).hexdigest()).encode())
    print(f"accuracy in 5-fold cross-validation {accuracy:.3f}, on all rows {pipeline.score(rows, labels):.3f}")
    print(f"ONNX against scikit-learn: {same} of {len(rows)} labels equal, largest difference {difference:.2e}")
    print(f"{len(content)} bytes; " + "; ".join(f"{o.name} {o.type} {o.shape}" for o in session.get_outputs()))


if __name__ == "__main__":
    main()
