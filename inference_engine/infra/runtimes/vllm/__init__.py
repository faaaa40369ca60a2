"""Hugging Face models on GPUs with vLLM: `VllmRuntime`, read `runtime.py` first."""

from inference_engine.infra.runtimes.vllm.runtime import VllmRuntime

__all__ = ["VllmRuntime"]
