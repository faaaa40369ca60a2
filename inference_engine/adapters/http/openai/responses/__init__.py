"""The Responses API: one endpoint family of the OpenAI dialect, with its own items, events and store."""

from inference_engine.adapters.http.openai.responses.endpoints import endpoints

__all__ = ["endpoints"]
