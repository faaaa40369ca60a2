"""Examples for the documentation of `POST /inference/video`."""

from __future__ import annotations

from typing import Any

CLIP = (
    "R0lGODlhGAAQAIEAAP///8gAAAAAAAAAACH5BAAKAAAALAAAAAAYABAAAAg0AAEIHEiwoMGDCBMqXMiw4cEAECNCdChQokSKACxG"
    "xKhxIsWOATh2FKmRpEWMKFOqXLkyIAAh+QQBCgACACwCAAQADAAIAIH////IAAAAAAAAAAAIKAABCAQgoKCAAAgDDCRoMKHCgQYP"
    "JlwY0SHFhhMhYkR4saBFjR4TBgQAIfkEAQoAAgAsBgAEAAwACACB////yAAAAAAAAAAACCgAAQgEIKCggAAIAwwkaDChwoEGDyZc"
    "GNEhxYYTIWJEeLGgRY0eEwYEACH5BAEKAAIALAoABAAMAAgAgf///8gAAAAAAAAAAAgoAAEIBCCgoIAACAMMJGgwocKBBg8mXBjR"
    "IcWGEyFiRHixoEWNHhMGBAA7"
)
"""A GIF of four pictures, a square that moves."""
VIDEO: dict[str, Any] = {
    "everything": {"video": CLIP, "sample": {"every_s": 0.1}},
    "tracks": {"video": f"data:image/gif;base64,{CLIP}", "tasks": ["track"], "sample": {"count": 4}, "threshold": 0.5},
}
VIDEO_ANSWER = {
    "video": {
        "container": "mov",
        "codec": "h264",
        "width": 1280,
        "height": 720,
        "fps": 30.0,
        "duration_s": 2.0,
        "frames": 60,
        "rotation": 0,
    },
    "sampled": 2,
    "models": {
        "detect": {"model": "shapes-detector", "version": "1", "latency_ms": 9.1, "queue_ms": 1.2, "compute_ms": 7.9}
    },
    "latency_ms": 410.5,
    "frames": [
        {"index": 0, "time_s": 0.0, "objects": [{"label": "star", "score": 0.94, "box": [85.9, 65.2, 123.6, 102.1]}]},
        {"index": 1, "time_s": 1.0, "objects": [{"label": "star", "score": 0.91, "box": [65.1, 66.0, 102.9, 103.4]}]},
    ],
    "scenes": [{"start_s": 0.0, "end_s": 2.0, "first": 0, "last": 1}],
    "tracks": [
        {
            "id": 1,
            "label": "star",
            "first_s": 0.0,
            "last_s": 1.0,
            "boxes": [
                {"index": 0, "time_s": 0.0, "score": 0.94, "box": [85.9, 65.2, 123.6, 102.1]},
                {"index": 1, "time_s": 1.0, "score": 0.91, "box": [65.1, 66.0, 102.9, 103.4]},
            ],
        }
    ],
    "summary": {
        "scenes": [{"start_s": 0.0, "end_s": 2.0, "objects": {"star": 1}}],
        "objects": [{"label": "star", "share": 1.0, "most": 1, "spans": [[0.0, 2.0]], "tracks": 1}],
    },
}
