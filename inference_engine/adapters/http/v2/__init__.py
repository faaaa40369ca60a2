"""The Open Inference Protocol v2 (KServe, Triton) over REST."""

from inference_engine.adapters.http.v2.dialect import dialect

__all__ = ["dialect"]
