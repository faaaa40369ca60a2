"""The command `bench`. Its parts are imported when it runs: the other commands need none of them."""

from __future__ import annotations

from inference_engine.adapters.cli.bench.command import bench

__all__ = ["bench"]
