"""The inference routes of the chat-service API: `/inference/image` and its siblings."""

from inference_engine.adapters.http.inference_api.batches import BatchLimits
from inference_engine.adapters.http.inference_api.dialect import dialect

__all__ = ["BatchLimits", "dialect"]
