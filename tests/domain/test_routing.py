"""How names become exact models."""

from __future__ import annotations

import pytest

from inference_engine.domain.errors import InvalidRequest, ModelNotFound, RouteNotFound
from inference_engine.domain.model import ModelRef
from inference_engine.domain.routing import Router, parse_exact

REFS = [ModelRef("a", "1"), ModelRef("a", "9"), ModelRef("a", "10"), ModelRef("b", "2024-01"), ModelRef("b", "beta")]


@pytest.fixture
def router() -> Router:
    made = Router({})
    made.adopt(REFS)
    return made


def test_a_bare_name_goes_to_the_highest_version(router: Router) -> None:
    assert router.resolve("a").ref == ModelRef("a", "10")
    assert router.resolve("a").rule == "latest"
    assert router.resolve("b").ref == ModelRef("b", "2024-01")


def test_an_exact_target_is_exact(router: Router) -> None:
    assert router.resolve("a:9").ref == ModelRef("a", "9")
    assert router.resolve("a:9").rule == "exact"


def test_every_route_is_listed(router: Router) -> None:
    assert [(route.name, route.rule, str(route.target)) for route in router.routes()] == [
        ("a", "latest", "a:10"),
        ("b", "latest", "b:2024-01"),
    ]


def test_a_new_version_moves_latest_but_not_a_pin(router: Router) -> None:
    router.pin("stable", ModelRef("a", "9"))
    router.adopt([*REFS, ModelRef("a", "11")])
    assert router.resolve("a").ref.version == "11"
    assert router.resolve("stable").ref.version == "9"


def test_a_pin_can_cover_the_name_itself_and_be_taken_away(router: Router) -> None:
    router.pin("a", ModelRef("a", "1"))
    assert router.resolve("a").rule == "pinned"
    router.unpin("a")
    assert router.resolve("a").rule == "latest"
    with pytest.raises(RouteNotFound):
        router.unpin("a")


def test_a_pin_to_a_model_that_went_away_is_an_error_not_another_model(router: Router) -> None:
    router.pin("stable", ModelRef("a", "9"))
    router.adopt([ModelRef("a", "1")])
    with pytest.raises(ModelNotFound, match="a:9"):
        router.resolve("stable")


@pytest.mark.parametrize(
    "target", ["", "../a", "a/b", "a\\b", "..", "a..b", "a:../1", "a:", ":1", "a" * 129, "ä", "a\n", "a:1:2"]
)
def test_names_that_could_leave_the_repository_are_refused(router: Router, target: str) -> None:
    with pytest.raises((InvalidRequest, ModelNotFound)):
        router.resolve(target)


def test_unknown_names_and_versions_are_told_apart(router: Router) -> None:
    with pytest.raises(ModelNotFound, match="known versions: 1, 10, 9"):
        router.resolve("a:5")
    with pytest.raises(ModelNotFound, match="known models: a, b"):
        router.resolve("c")


def test_an_exact_reference_needs_both_parts() -> None:
    assert parse_exact("a:1") == ModelRef("a", "1")
    with pytest.raises(InvalidRequest, match="name:version"):
        parse_exact("a")


def test_a_version_called_latest_is_the_highest() -> None:
    router = Router({})
    router.adopt([ModelRef("m", version) for version in ("2", "latest", "10", "zeta")])
    assert router.resolve("m").ref == ModelRef("m", "latest")
