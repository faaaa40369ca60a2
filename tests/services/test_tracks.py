"""Tracks over time: ids survive crossings, gaps, doubtful detections and wrong labels, and end at cuts."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inference_engine.domain.analysis import Detection
from inference_engine.domain.video_analysis import Track
from inference_engine.services.analysis.tracks import assignment, distance_iou, follow

Path = Callable[[float], tuple[float, float] | None]


def box_at(x: float, y: float, size: float = 30.0) -> tuple[float, float, float, float]:
    return (x - size / 2, y - size / 2, x + size / 2, y + size / 2)


def seen(
    paths: dict[str, Path], seconds: float = 4.0, step_s: float = 0.25
) -> tuple[list[float], list[list[Detection]]]:
    """What a perfect detector says, best first whatever the object. Names are a label and a letter: `circle a`."""
    times = [index * step_s for index in range(round(seconds / step_s))]
    every = []
    for number, time_s in enumerate(times):
        found = [
            Detection(name.split()[0], 0.9 - 0.01 * ((number + at) % 3), box_at(*place))
            for at, (name, path) in enumerate(paths.items())
            if (place := path(time_s)) is not None
        ]
        every.append(sorted(found, key=lambda detection: -detection.score))
    return times, every


def middles(track: Track) -> list[tuple[float, float]]:
    return [((s.box[0] + s.box[2]) / 2, (s.box[1] + s.box[3]) / 2) for s in track.sightings]


def test_two_of_one_kind_that_cross_keep_their_ids() -> None:
    paths: dict[str, Path] = {
        "circle a": lambda t: (20 + 60 * t, 60 + 10 * t),
        "circle b": lambda t: (260 - 60 * t, 100 - 10 * t),
    }
    times, detections = seen(paths)
    tracks = follow(times, detections)
    assert [len(track.sightings) for track in tracks] == [16, 16]
    for track in tracks:
        xs = [x for x, _ in middles(track)]
        assert xs == sorted(xs) or xs == sorted(xs, reverse=True)
    assert {track.id for track in tracks} == {1, 2}


def test_one_hidden_behind_the_other_for_some_samples_goes_on() -> None:
    paths: dict[str, Path] = {
        "circle a": lambda t: (20 + 60 * t, 80),
        "circle b": lambda t: None if 1.6 < t < 2.4 else (260 - 60 * t, 80),
    }
    tracks = follow(*seen(paths))
    assert len(tracks) == 2
    moving = {track.sightings[0].box[0] < track.sightings[-1].box[0]: track for track in tracks}
    assert len(moving[True].sightings) == 16
    assert len(moving[False].sightings) == 13
    assert all(x == sorted(x, reverse=True) for x in [[place for place, _ in middles(moving[False])]])


def test_one_gone_too_long_is_another_when_it_comes_back() -> None:
    tracks = follow(*seen({"star a": lambda t: None if 0.9 < t < 2.6 else (100, 100)}))
    assert [track.label for track in tracks] == ["star", "star"]
    assert tracks[0].sightings[-1].time_s < tracks[1].sightings[0].time_s


def test_what_moves_by_more_than_itself_between_samples_is_one() -> None:
    (track,) = follow(*seen({"square a": lambda t: (50 + 240 * t, 100)}, step_s=0.25))
    assert len(track.sightings) == 16


def test_a_wrong_label_in_between_does_not_end_a_track() -> None:
    times, detections = seen({"circle a": lambda t: (20 + 30 * t, 80)})
    wrong = detections[7][0]
    detections[7] = [Detection("star", wrong.score, wrong.box)]
    (track,) = follow(times, detections)
    assert (track.label, len(track.sightings)) == ("circle", 16)


def test_a_doubtful_detection_continues_a_track_and_begins_none() -> None:
    times, detections = seen({"circle a": lambda t: (20 + 30 * t, 80)})
    detections[5] = [Detection("circle", 0.2, detections[5][0].box), Detection("star", 0.3, (300, 300, 330, 330))]
    (track,) = follow(times, detections)
    assert len(track.sightings) == 16


def test_what_is_seen_once_is_left_out_unless_there_is_hardly_more() -> None:
    times, detections = seen(
        {"circle a": lambda t: (20 + 30 * t, 80), "star b": lambda t: (200, 20) if t == 1 else None}
    )
    assert [track.label for track in follow(times, detections)] == ["circle"]
    assert [track.label for track in follow(times[:1], detections[:1])] == ["circle"]
    assert follow([], []) == ()


def test_no_track_goes_on_over_a_cut() -> None:
    times, detections = seen({"circle a": lambda t: (50, 50)})
    tracks = follow(times, detections, cuts=[8])
    assert [(track.id, len(track.sightings)) for track in tracks] == [(1, 8), (2, 8)]


def test_many_that_pass_each_other() -> None:
    """Ten objects of one kind on lines of their own, half of them each way, the lines half a width apart."""
    paths: dict[str, Path] = {}
    for number in range(10):
        way, start = (1, 0.0) if number % 2 else (-1, 400.0)
        paths[f"circle {number}"] = lambda t, y=15.0 * number, w=way, s=start: (s + w * 100 * t, y)
    tracks = follow(*seen(paths, step_s=0.1))
    assert len(tracks) == 10
    for track in tracks:
        ys = {round(y) for _, y in middles(track)}
        assert len(ys) == 1, ys


@given(hnp.arrays("float64", st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 20)))
def test_the_assignment_is_the_cheapest(costs: np.ndarray) -> None:
    pairs = assignment(costs)
    rows, columns = costs.shape
    assert len(pairs) == min(rows, columns)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    flat = costs if rows <= columns else costs.T
    best = min(
        sum(flat[row, column] for row, column in enumerate(chosen))
        for chosen in itertools.permutations(range(flat.shape[1]), flat.shape[0])
    )
    assert sum(costs[row, column] for row, column in pairs) == best


def test_distance_iou() -> None:
    boxes = np.array([box_at(0, 0, 10), box_at(10, 0, 10), box_at(100, 0, 10)])
    found = distance_iou(boxes, boxes)
    assert np.diag(found) == pytest.approx([1, 1, 1])
    assert found[0, 1] == pytest.approx(-100 / 500)
    assert found[0, 2] < found[0, 1] < 0
    assert np.isfinite(distance_iou(np.zeros((1, 4)), np.zeros((1, 4)))).all()
