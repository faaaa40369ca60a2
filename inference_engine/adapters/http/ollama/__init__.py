"""Ollama's API, so that its clients work when OLLAMA_HOST leads here."""

from inference_engine.adapters.http.ollama.dialect import dialect

__all__ = ["dialect"]
