"""Runs ONNX models with ONNX Runtime. `docs/runtimes/onnx.md` is its manual."""

from inference_engine.infra.runtimes.onnx.runtime import OnnxRuntime

__all__ = ["OnnxRuntime"]
