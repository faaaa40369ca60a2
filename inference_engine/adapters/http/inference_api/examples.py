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
            "width": 300,
            "height": 200,
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
TEXT: dict[str, Any] = {
    "continue": {"model": "guide", "prompt": "Once upon a time", "parameters": {"max_tokens": 20, "temperature": 0.2}},
    "answer": {"messages": [{"role": "user", "content": "How do I add a model?"}], "parameters": {"max_tokens": 60}},
}
TEXT_ANSWER = {
    "text": "Put its folder into the models folder.",
    "finish_reason": "stop",
    "model": "guide",
    "version": "1",
    "latency_ms": 61.5,
    "usage": {"prompt_tokens": 14, "completion_tokens": 9, "total_tokens": 23},
}
MULTIMODAL: dict[str, Any] = {
    "combine": {
        "mode": "combine",
        "parts": [{"type": "image", "data": PIXEL}, {"type": "text", "text": "What is in the image?"}],
    }
}
MULTIMODAL_ANSWER = TEXT_ANSWER | {
    "text": "A square.",
    "context": [
        {
            "part": 0,
            "text": "[Image 1. Classified as: square (0.98).]",
            "models": [{"task": "classify", "model": "shapes", "version": "1"}],
        }
    ],
}
BATCH: dict[str, Any] = {
    "mixed": {
        "items": [
            {
                "type": "text",
                "id": "a",
                "model": "guide",
                "prompt": "Once upon a time",
                "parameters": {"max_tokens": 20},
            },
            {"type": "image", "id": "b", "image": PIXEL, "tasks": "classify"},
        ]
    }
}
BATCH_ANSWER = {
    "results": [
        {"index": 0, "type": "text", "id": "a", "status": "succeeded", "result": TEXT_ANSWER},
        {
            "index": 1,
            "type": "image",
            "id": "b",
            "status": "failed",
            "error": {"code": "invalid_request", "message": "images[0] is empty", "field": "images[0]"},
        },
    ],
    "succeeded": 1,
    "failed": 1,
    "latency_ms": 70.2,
}
