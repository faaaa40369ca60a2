"""Cuts between scenes: found where they are, and nowhere else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inference_engine.services.analysis.scenes import cuts, difference, look_of
from tests.fixtures.videos import Drawn, Pixels, film


def found(pictures: list[Pixels]) -> list[int]:
    looks = [look_of(picture) for picture in pictures]
    return cuts([difference(one, other) for one, other in itertools.pairwise(looks)])


def rolling(shape: str, colour: tuple[int, int, int], ground: tuple[int, int, int], seconds: float) -> list[Pixels]:
    drawn = Drawn(shape, colour, 50, lambda t: (30 + 40 * t % 70, 64))
    return film([drawn], seconds, fps=5, ground=ground)


def test_cuts_between_moving_scenes() -> None:
    pictures = rolling("circle", (200, 30, 30), (230, 230, 220), 3.0)
    pictures += rolling("star", (20, 30, 200), (40, 90, 60), 2.0)
    pictures += rolling("square", (250, 200, 30), (90, 20, 90), 4.0)
    assert found(pictures) == [15, 25]


def test_scenes_of_one_sample_each() -> None:
    grounds = [(230, 20, 20), (20, 230, 20), (20, 20, 230)]
    assert found([np.full((40, 60, 3), ground, np.uint8) for ground in grounds]) == [1, 2]


def test_the_same_colours_in_other_places_are_another_scene() -> None:
    one, other = np.zeros((60, 60, 3), np.uint8), np.zeros((60, 60, 3), np.uint8)
    one[:30] = 250
    other[30:] = 250
    assert found([one] * 5 + [other] * 5) == [5]


def test_motion_noise_and_slow_change_are_no_cuts() -> None:
    assert found(rolling("circle", (200, 30, 30), (230, 230, 220), 6.0)) == []
    noise = np.random.default_rng(0)
    still = np.full((90, 120, 3), 128)
    assert found([np.clip(still + noise.normal(0, 10, still.shape), 0, 255).astype(np.uint8) for _ in range(20)]) == []
    assert found([np.full((90, 120, 3), level, np.uint8) for level in range(0, 120, 4)]) == []


def test_a_flash_is_two_cuts_and_a_dark_scene_is_seen() -> None:
    dark, darker = np.full((90, 120, 3), 60, np.uint8), np.full((90, 120, 3), 8, np.uint8)
    assert found([dark] * 6 + [darker] * 6) == [6]


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_samples(count: int) -> None:
    assert found(rolling("circle", (200, 30, 30), (230, 230, 220), 3.0)[:count]) == []


@given(
    hnp.arrays("uint8", st.tuples(st.integers(1, 200), st.integers(1, 200), st.just(3))),
    hnp.arrays("uint8", st.tuples(st.integers(1, 200), st.integers(1, 200), st.just(3))),
)
def test_differences_are_shares(one: Pixels, other: Pixels) -> None:
    assert difference(look_of(one), look_of(one)) == 0
    assert 0 <= difference(look_of(one), look_of(other)) <= 1 + 1e-6
    assert difference(look_of(one), look_of(other)) == pytest.approx(difference(look_of(other), look_of(one)))
