"""The OpenAI API: models, chat completions, completions."""

from inference_engine.adapters.http.openai.dialect import dialect

__all__ = ["dialect"]
