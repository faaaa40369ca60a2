"""Runs ONNX models with ONNX Runtime. `docs/models.md` lists its options."""

from inference_engine.infra.runtimes.onnx.runtime import OnnxRuntime

__all__ = ["OnnxRuntime"]
