"""The OpenAI API."""

from inference_engine.adapters.http.openai.dialect import Stateful, dialect

__all__ = ["Stateful", "dialect"]
