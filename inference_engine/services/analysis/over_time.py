"""What was seen when: findings of single pictures put together over a video. Knows no models and no pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from inference_engine.domain.video import VideoInfo
from inference_engine.domain.video_analysis import (
    FrameFindings,
    LabelOverTime,
    ObjectOverTime,
    Scene,
    SceneContent,
    Span,
    Summary,
    Track,
)


def scenes_of(info: VideoInfo, times_s: Sequence[float], cuts: Sequence[int]) -> tuple[Scene, ...]:
    """The stretches between `cuts`, each the sample a scene begins with; together they are the whole video."""
    if not times_s:
        return ()
    firsts = [0, *cuts]
    lasts = [*(cut - 1 for cut in cuts), len(times_s) - 1]
    starts = [0.0, *(times_s[cut] for cut in cuts)]
    ends = [*starts[1:], info.duration_s]
    return tuple([Scene(*scene) for scene in zip(starts, ends, firsts, lasts, strict=True)])


def summary_of(
    info: VideoInfo, frames: Sequence[FrameFindings], scenes: Sequence[Scene], tracks: Sequence[Track] | None
) -> Summary:
    """Puts the findings of all samples together."""
    times_s = [frame.time_s for frame in frames]
    classified = any(frame.labels is not None for frame in frames)
    searched = any(frame.objects is not None for frame in frames)
    return Summary(
        _labels(frames, times_s, info.duration_s) if classified else None,
        _objects(frames, times_s, info.duration_s, tracks) if searched else None,
        tuple([_content(scene, frames[scene.first : scene.last + 1]) for scene in scenes]),
    )


def _labels(frames: Sequence[FrameFindings], times_s: list[float], end_s: float) -> tuple[LabelOverTime, ...]:
    seen: dict[str, dict[int, float]] = {}
    for place, frame in enumerate(frames):
        if frame.labels:
            seen.setdefault(frame.labels[0].name, {})[place] = frame.labels[0].score
    found = [
        LabelOverTime(
            name,
            round(len(scores) / len(frames), 4),
            round(sum(scores.values()) / len(scores), 4),
            spans_of(scores.keys(), times_s, end_s),
        )
        for name, scores in seen.items()
    ]
    return tuple(sorted(found, key=lambda label: (-label.share, label.label)))


def _objects(
    frames: Sequence[FrameFindings], times_s: list[float], end_s: float, tracks: Sequence[Track] | None
) -> tuple[ObjectOverTime, ...]:
    counts = [Counter([one.label for one in frame.objects or ()]) for frame in frames]
    followed = None if tracks is None else Counter([track.label for track in tracks])
    found = []
    for name in {name for count in counts for name in count}:
        places = [place for place, count in enumerate(counts) if name in count]
        found.append(
            ObjectOverTime(
                name,
                round(len(places) / len(frames), 4),
                max(count[name] for count in counts),
                None if followed is None else followed[name],
                spans_of(places, times_s, end_s),
            )
        )
    return tuple(sorted(found, key=lambda kind: (-kind.share, kind.label)))


def _content(scene: Scene, frames: Sequence[FrameFindings]) -> SceneContent:
    labels = Counter([frame.labels[0].name for frame in frames if frame.labels])
    most: Counter[str] = Counter()
    for frame in frames:
        most |= Counter([one.label for one in frame.objects or ()])
    label = labels.most_common(1)[0][0] if labels else None
    return SceneContent(scene.start_s, scene.end_s, label, dict(sorted(most.items())))


def spans_of(places: Collection[int], times_s: Sequence[float], end_s: float) -> tuple[Span, ...]:
    """The stretches of neighbouring samples; a sample lasts until the next one, the last one to the end."""
    spans: list[Span] = []
    for place in sorted(places):
        until = times_s[place + 1] if place + 1 < len(times_s) else end_s
        if spans and spans[-1][1] == times_s[place]:
            spans[-1] = (spans[-1][0], until)
        else:
            spans.append((times_s[place], until))
    return tuple(spans)
