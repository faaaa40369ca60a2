"""Routes that survive a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_engine.core.settings import SettingsError
from inference_engine.domain.model import ModelRef
from inference_engine.domain.ports import RouteStore
from inference_engine.infra.routes_file import RoutesFile


def test_what_is_written_is_read_by_the_next_process(tmp_path: Path) -> None:
    store: RouteStore = RoutesFile(tmp_path / "state")
    assert store.read() == {}
    routes = {"stable": ModelRef("guide", "1"), "8": ModelRef("iris", "1.10")}
    store.write(routes)
    assert RoutesFile(tmp_path / "state").read() == routes
    store.write({})
    assert store.read() == {}
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["routes.yaml"]


def test_a_failed_write_leaves_the_old_routes(tmp_path: Path) -> None:
    store = RoutesFile(tmp_path)
    store.write({"a": ModelRef("m", "1")})
    with pytest.raises(AttributeError):
        store.write(["not a mapping"])  # type: ignore[arg-type] # the mistake under test
    assert store.read() == {"a": ModelRef("m", "1")}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: m:1\nb: m\n", r"routes.yaml:2: route 'b': 'm' names no version"),
        ("../a: m:1\n", r"routes.yaml:1: route '../a': .*not a valid name"),
        ("a: ../m:1\n", r"routes.yaml:1: .*not a valid name"),
        ("- a\n", r"routes.yaml:1: must hold"),
        ("a: [\n", r"routes.yaml:\d: "),
    ],
)
def test_an_edited_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "routes.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        RoutesFile(tmp_path).read()
