"""The JSON of `POST /inference/video`, as types."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from inference_engine.adapters.http.inference_api.wire import Report
from inference_engine.adapters.http.inference_api.wire_images import LabelScore, Object, Tokens, TopK
from inference_engine.domain.video import DEFAULT_SIDE, MAX_SIDE
from inference_engine.domain.video_analysis import DEFAULT_VIDEO_PROMPT, Span, VideoTask

ModelTask = Literal["classify", "detect", "describe"]
Count = Annotated[int, Meta(ge=1)]


class Sample(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which pictures: one every `every_s` seconds (default 1), or `count` spread evenly, or only `keyframes`.

    At most `max_frames` (300): where there would be more, they lie further apart. They are scaled down to a longer side
    of `max_side`.
    """

    every_s: Annotated[float, Meta(gt=0)] | None = None
    count: Count | None = None
    keyframes: bool = False
    max_frames: Count | None = None
    max_side: Annotated[int, Meta(ge=16, le=MAX_SIDE)] = DEFAULT_SIDE


class VideoOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is wanted of a video, however it comes. `tasks` may be one word."""

    tasks: list[VideoTask] | VideoTask = []
    model: str | None = None
    models: dict[ModelTask, str] = {}
    sample: Sample = Sample()
    top_k: TopK | None = None
    threshold: float | None = None
    prompt: str = DEFAULT_VIDEO_PROMPT
    max_tokens: Tokens | None = None
    stream: bool = False


class VideoRequest(VideoOptions, kw_only=True):
    """A video in base64 or as a `data:` URL."""

    video: str


class VideoForm(VideoOptions, kw_only=True):
    """The same as a form. `tasks` may come several times, or its words separated by commas; `sample` is JSON."""

    file: Annotated[str, Meta(extra_json_schema={"format": "binary"})]


class Info(msgspec.Struct):
    """What the file holds, counted by reading it through. Sizes are of the upright picture."""

    container: str
    codec: str
    width: int
    height: int
    fps: float
    duration_s: float
    frames: int
    rotation: int


class FrameResult(msgspec.Struct, omit_defaults=True):
    """What was found in one sampled picture; `index` counts the sampled ones."""

    index: int
    time_s: float
    labels: list[LabelScore] | UnsetType = UNSET
    objects: list[Object] | UnsetType = UNSET


class SceneResult(msgspec.Struct):
    """A stretch without a cut; `first` and `last` are sampled pictures."""

    start_s: float
    end_s: float
    first: int
    last: int


class Place(msgspec.Struct):
    """Where an object was in one sampled picture."""

    index: int
    time_s: float
    score: float
    box: tuple[float, float, float, float]


class TrackResult(msgspec.Struct):
    """One object over time. `label` is the one it had most often."""

    id: int
    label: str
    first_s: float
    last_s: float
    boxes: list[Place]


class LabelSummary(msgspec.Struct):
    """A class, the share of the pictures in which it came first, its mean score there, and when."""

    label: str
    share: float
    score: float
    spans: list[Span]


class ObjectSummary(msgspec.Struct, omit_defaults=True):
    """A kind of object: the share of the pictures it is in, the most at once, its tracks, and when it was seen."""

    label: str
    share: float
    most: int
    spans: list[Span]
    tracks: int | UnsetType = UNSET


class SceneSummary(msgspec.Struct, omit_defaults=True):
    """The class that came first most often in a scene, and the most of each kind of object at once."""

    start_s: float
    end_s: float
    label: str | UnsetType = UNSET
    objects: dict[str, int] | UnsetType = UNSET


class SummaryResult(msgspec.Struct, omit_defaults=True):
    """What was seen when."""

    scenes: list[SceneSummary]
    labels: list[LabelSummary] | UnsetType = UNSET
    objects: list[ObjectSummary] | UnsetType = UNSET


class VideoAnswer(msgspec.Struct, omit_defaults=True):
    """What was found; what was not asked is not there.

    `sampled` is how many pictures were looked at, `damaged` how many could not be decoded and were left out. `labels`
    are those of a model for whole videos. `frames` are there where single pictures were asked about, but not at the
    end of a stream, which has brought them already.
    """

    video: Info
    sampled: int
    models: dict[ModelTask, Report]
    latency_ms: float
    damaged: int = 0
    frames: list[FrameResult] | UnsetType = UNSET
    labels: list[LabelScore] | UnsetType = UNSET
    scenes: list[SceneResult] | UnsetType = UNSET
    tracks: list[TrackResult] | UnsetType = UNSET
    summary: SummaryResult | UnsetType = UNSET
    description: str | UnsetType = UNSET


class VideoEvent(msgspec.Struct, tag_field="type", tag="video"):
    """The first event of a stream: the file, and how many pictures will come unless it is damaged."""

    video: Info
    expected: int


class FrameEvent(FrameResult, tag_field="type", tag="frame", kw_only=True, omit_defaults=True):
    """One picture was looked at; `progress` is the share of the video that is done."""

    progress: float


class ResultEvent(VideoAnswer, tag_field="type", tag="result", omit_defaults=True):
    """The last event of a stream that went well."""
