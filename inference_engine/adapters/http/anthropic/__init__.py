"""Anthropic's dialect: messages, streamed or whole, and their token counts."""

from inference_engine.adapters.http.anthropic.dialect import dialect

__all__ = ["dialect"]
