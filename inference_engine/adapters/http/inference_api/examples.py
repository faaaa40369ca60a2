"""Examples for the documentation of these routes."""

from __future__ import annotations

from typing import Any

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQAY3Y2wAAAAAElFTkSuQmCC"
IMAGE: dict[str, Any] = {
    "find": {"image": PIXEL, "tasks": ["classify", "detect"], "top_k": 1},
    "describe": {"images": [f"data:image/png;base64,{PIXEL}"], "tasks": ["describe"], "prompt": "What is this?"},
}
IMAGE_ANSWER = {
    "results": [
        {
            "labels": [{"label": "square", "score": 0.98}],
            "objects": [{"label": "square", "score": 0.97, "box": [90.5, 40.2, 210.1, 160.4]}],
        }
    ],
    "models": {
        "classify": {"model": "shapes", "version": "1", "latency_ms": 4.2, "queue_ms": 0.1, "compute_ms": 2.9},
        "detect": {"model": "shapes-detector", "version": "1", "latency_ms": 6.8, "queue_ms": 0.1, "compute_ms": 5.5},
    },
    "latency_ms": 7.1,
}
