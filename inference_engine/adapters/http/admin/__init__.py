"""Our own API for operators and the console: models, routes, system."""

from inference_engine.adapters.http.admin.dialect import dialect

__all__ = ["dialect"]
