"""One self-hosted inference server for every model a team runs; `Engine` and `AsyncEngine` need no server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference_engine.core.version import __version__

if TYPE_CHECKING:
    from inference_engine.bootstrap import AsyncEngine, Engine

__all__ = ["AsyncEngine", "Engine", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the engine when it is asked for: `import inference_engine` alone stays cheap."""
    if name in ("AsyncEngine", "Engine"):
        from inference_engine import bootstrap

        return getattr(bootstrap, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
