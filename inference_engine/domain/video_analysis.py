"""What can be asked of a video, and what is found in it over time. Times are seconds from its first picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from inference_engine.domain.analysis import Box, Detection, ImageTask, Label, TaskReport
from inference_engine.domain.video import DEFAULT_SIDE, VideoInfo, VideoSampling

VideoTask = Literal["classify", "detect", "scenes", "track", "describe", "summarize"]
VIDEO_TASKS: tuple[VideoTask, ...] = ("classify", "detect", "scenes", "track", "describe", "summarize")
CLIP_TASK = "video-classification"
"""The word of a manifest's `task` for models that classify whole videos."""
DEFAULT_VIDEO_PROMPT = "Describe what happens in this video."
Span = tuple[float, float]
"""From, to."""


class AnalyzeVideo(msgspec.Struct, frozen=True):
    """A video file, and what is wanted of it.

    Without `tasks` a named `model` does what it can, and without a model everything is done that there are models for.
    `models` names a model for one task, `model` for all. Pictures are scaled to a longer side of `max_side` before they
    are looked at; boxes are in pixels of the upright original whatever it is. `top_k`, `threshold`, `prompt` and
    `max_tokens` are as for images.
    """

    video: bytes
    tasks: tuple[VideoTask, ...] = ()
    model: str | None = None
    models: Mapping[ImageTask, str] = {}
    sampling: VideoSampling = VideoSampling()
    max_side: int = DEFAULT_SIDE
    top_k: int | None = None
    threshold: float | None = None
    prompt: str = DEFAULT_VIDEO_PROMPT
    max_tokens: int | None = None


class FrameFindings(msgspec.Struct, frozen=True):
    """What was found in one sampled picture; None is what was not asked. `index` counts the sampled ones."""

    index: int
    time_s: float
    labels: tuple[Label, ...] | None = None
    objects: tuple[Detection, ...] | None = None


class Scene(msgspec.Struct, frozen=True):
    """A stretch without a cut, and its first and last sample."""

    start_s: float
    end_s: float
    first: int
    last: int


class Sighting(msgspec.Struct, frozen=True):
    """Where a track was seen: in which sample, when, and how sure the detector was."""

    index: int
    time_s: float
    score: float
    box: Box


class Track(msgspec.Struct, frozen=True):
    """One object: `id` from 1 on in order of first sight, and the label it had most often."""

    id: int
    label: str
    sightings: tuple[Sighting, ...]


class LabelOverTime(msgspec.Struct, frozen=True):
    """A class, in how large a share of the samples it came first, how sure the model was there, and when that was."""

    label: str
    share: float
    score: float
    spans: tuple[Span, ...]


class ObjectOverTime(msgspec.Struct, frozen=True):
    """A kind of object: the share of the samples it is in, the most at once, its tracks, and when it was seen.

    `tracks` is None where objects were not followed.
    """

    label: str
    share: float
    most: int
    tracks: int | None
    spans: tuple[Span, ...]


class SceneContent(msgspec.Struct, frozen=True):
    """What one scene shows: its foremost class, and the most of each kind of object at once."""

    start_s: float
    end_s: float
    label: str | None
    objects: Mapping[str, int]


class Summary(msgspec.Struct, frozen=True):
    """What was seen when: classes by their share, kinds of objects by theirs, and scene by scene.

    What was not looked for is None.
    """

    labels: tuple[LabelOverTime, ...] | None
    objects: tuple[ObjectOverTime, ...] | None
    scenes: tuple[SceneContent, ...]


class VideoAnalysis(msgspec.Struct, frozen=True):
    """All findings; None is what was not asked. `labels` are of the whole, by a model for clips.

    `damaged` counts the pictures that could not be decoded and were left out.
    """

    info: VideoInfo
    damaged: int
    frames: tuple[FrameFindings, ...]
    labels: tuple[Label, ...] | None
    scenes: tuple[Scene, ...] | None
    tracks: tuple[Track, ...] | None
    summary: Summary | None
    description: str | None
    reports: tuple[TaskReport, ...]
    latency_s: float


class VideoOpened(msgspec.Struct, frozen=True):
    """The first event: what the file is, and how many pictures will be looked at unless it is damaged."""

    info: VideoInfo
    expected: int


class VideoProgress(msgspec.Struct, frozen=True):
    """One picture was looked at. `progress` is the share of the video that is done."""

    findings: FrameFindings
    progress: float


VideoEvent = VideoOpened | VideoProgress | VideoAnalysis
