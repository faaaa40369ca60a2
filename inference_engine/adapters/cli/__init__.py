"""The command line. `main` runs it over a `Composition`; see `client.py` for what that must offer."""

from __future__ import annotations

from inference_engine.adapters.cli.app import main
from inference_engine.adapters.cli.client import Composition, Engine

__all__ = ["Composition", "Engine", "main"]
