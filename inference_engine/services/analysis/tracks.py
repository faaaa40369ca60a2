"""Follows objects through the pictures of a video: detections of several pictures become tracks with ids. Numpy only.

Each track foresees its next box: its last one, moved by its speed, as in SORT (A. Bewley et al., "Simple online and
realtime tracking", 2016; here a moving average in the place of the Kalman filter, since samples lie far apart).
Detections are matched to what is foreseen by the cheapest assignment, where a pair costs 1 - DIoU (Z. Zheng et al.,
"Distance-IoU loss", 2020): overlap, and the distance of the middles, so that what moves by more than its own size
between two samples is still found. Sure detections come first and the others may only continue tracks, as in ByteTrack
(Y. Zhang et al., 2022). A track that sees nothing for a few samples is foreseen on, so that it goes on behind what hid
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from inference_engine.domain.analysis import Detection
from inference_engine.domain.tensors import Array
from inference_engine.domain.video_analysis import Sighting, Track

_SURE = 0.5
"""From this score on a detection may begin a track."""
_FARTHEST = 1.5
"""The most that a pair may cost: boxes of one size, about two and a half widths apart."""
_OTHER_LABEL = 0.4
"""What another label costs on top: detectors name an object wrongly now and then."""
_PATIENCE = 3
"""Samples a track may see nothing before it ends."""
_INERTIA = 0.4
"""The share of the earlier speed in the new one."""
_LEAST_SIGHTINGS = 2
"""Fewer are taken for mistakes of the detector, unless there are hardly more samples."""


class _Open:
    """A track that may go on."""

    def __init__(self, index: int, time_s: float, seen: Detection) -> None:
        self.sightings: list[Sighting] = []
        self.labels: Counter[str] = Counter()
        self.speed = np.zeros(4)
        self.unseen = 0
        self._take(index, time_s, seen)

    @property
    def label(self) -> str:
        return self.labels.most_common(1)[0][0]

    def foreseen(self, time_s: float) -> Array:
        last = self.sightings[-1]
        box: Array = np.asarray(last.box) + self.speed * (time_s - last.time_s)
        return box

    def go_on(self, index: int, time_s: float, seen: Detection) -> None:
        last = self.sightings[-1]
        passed = max(1e-6, time_s - last.time_s)
        new = (np.asarray(seen.box) - np.asarray(last.box)) / passed
        new[:] = np.tile((new[:2] + new[2:]) / 2, 2)  # of the middle: sizes are not foreseen, they are noisy
        self.speed = new if len(self.sightings) == 1 else _INERTIA * self.speed + (1 - _INERTIA) * new
        self.unseen = 0
        self._take(index, time_s, seen)

    def _take(self, index: int, time_s: float, seen: Detection) -> None:
        self.sightings.append(Sighting(index, time_s, seen.score, seen.box))
        self.labels[seen.label] += 1


def follow(
    times_s: Sequence[float], detections: Sequence[Sequence[Detection]], cuts: Sequence[int] = ()
) -> tuple[Track, ...]:
    """The tracks in samples taken at `times_s`. No track goes on over a cut, given as the sample a scene begins
    with."""
    opened: list[_Open] = []
    done: list[_Open] = []
    for index, (time_s, found) in enumerate(zip(times_s, detections, strict=True)):
        if index in cuts:
            done += opened
            opened = []
        sure = [seen for seen in found if seen.score >= _SURE]
        unsure = [seen for seen in found if seen.score < _SURE]
        waiting, new = _match(opened, sure, index, time_s)
        waiting, _ = _match(waiting, unsure, index, time_s)
        for track in waiting:
            track.unseen += 1
        done += [track for track in opened if track.unseen > _PATIENCE]
        opened = [track for track in opened if track.unseen <= _PATIENCE]
        opened += [_Open(index, time_s, seen) for seen in new]
    least = min(_LEAST_SIGHTINGS, len(times_s) - 1)
    kept = [track for track in (*done, *opened) if len(track.sightings) >= least]
    kept.sort(key=lambda track: (track.sightings[0].index, -track.sightings[0].score))
    return tuple(Track(number, track.label, tuple(track.sightings)) for number, track in enumerate(kept, start=1))


def _match(
    tracks: list[_Open], found: list[Detection], index: int, time_s: float
) -> tuple[list[_Open], list[Detection]]:
    """Lets tracks go on with what fits; returns the tracks and detections that are left over."""
    if not tracks or not found:
        return tracks, found
    costs = 1 - distance_iou(np.array([track.foreseen(time_s) for track in tracks]), np.array([s.box for s in found]))
    costs += _OTHER_LABEL * np.array([[track.label != seen.label for seen in found] for track in tracks])
    pairs = [(row, column) for row, column in assignment(np.minimum(costs, 10.0)) if costs[row, column] <= _FARTHEST]
    for row, column in pairs:
        tracks[row].go_on(index, time_s, found[column])
    rows, columns = {row for row, _ in pairs}, {column for _, column in pairs}
    return (
        [track for row, track in enumerate(tracks) if row not in rows],
        [seen for column, seen in enumerate(found) if column not in columns],
    )


def distance_iou(one: Array, other: Array) -> Array:
    """DIoU of every pair of boxes, float64 [n, m] in (-1, 1]: IoU less (distance / diagonal of both together)
    squared."""
    a, b = one[:, None, :], other[None, :, :]
    inner = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(axis=-1)
    areas = np.clip(one[:, 2:] - one[:, :2], 0, None).prod(-1)[:, None] + np.clip(
        other[:, 2:] - other[:, :2], 0, None
    ).prod(-1)
    both = np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    found: Array = inner / np.maximum(areas - inner, 1e-9) - (apart**2).sum(-1) / np.maximum((both**2).sum(-1), 1e-9)
    return found


def assignment(costs: Array) -> list[tuple[int, int]]:
    """The cheapest pairs of rows and columns, each used once, as many as the shorter side has.

    H. W. Kuhn's Hungarian method in the O(n^2 m) form with potentials; `costs` is finite, float [n, m].
    """
    if costs.shape[0] > costs.shape[1]:
        return [(row, column) for column, row in assignment(costs.T)]
    rows, columns = costs.shape
    row_price, column_price = np.zeros(rows + 1), np.zeros(columns + 1)
    owner = np.zeros(columns + 1, np.int64)  # the row, counted from 1, that has a column; column 0 stands for none
    for row in range(1, rows + 1):
        owner[0], at = row, 0
        least = np.full(columns + 1, np.inf)
        came_from = np.zeros(columns + 1, np.int64)
        seen = np.zeros(columns + 1, bool)
        while owner[at]:
            seen[at] = True
            reduced = costs[owner[at] - 1] - row_price[owner[at]] - column_price[1:]
            better = ~seen[1:] & (reduced < least[1:])
            least[1:][better], came_from[1:][better] = reduced[better], at
            following = int(np.where(seen[1:], np.inf, least[1:]).argmin()) + 1
            delta = least[following]
            row_price[owner[seen]] += delta
            column_price[seen] -= delta
            least[~seen] -= delta
            at = following
        while at:
            owner[at] = owner[came_from[at]]
            at = int(came_from[at])
    return [(int(owner[column]) - 1, column - 1) for column in range(1, columns + 1) if owner[column]]
