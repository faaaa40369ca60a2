"""Hugging Face models on PyTorch with transformers: `TransformersRuntime`, read `runtime.py` first."""

from inference_engine.infra.runtimes.transformers.runtime import TransformersRuntime

__all__ = ["TransformersRuntime"]
