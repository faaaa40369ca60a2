"""Text generation from GGUF files with llama.cpp (xllamacpp): `LlamaCppRuntime`, read `runtime.py` first."""

from inference_engine.infra.runtimes.llama_cpp.runtime import LlamaCppRuntime

__all__ = ["LlamaCppRuntime"]
