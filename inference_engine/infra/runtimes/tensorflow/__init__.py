"""Runs TensorFlow SavedModels and Keras 3 files. `docs/runtimes/tensorflow.md` is its manual."""

from inference_engine.infra.runtimes.tensorflow.runtime import TensorflowRuntime

__all__ = ["TensorflowRuntime"]
