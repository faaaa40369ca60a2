"""Finds steps by their entry points and makes pipelines of what manifests list; imports only the steps listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, cast

import msgspec

from inference_engine.core.yaml_source import dotted, split_problem, suggestion
from inference_engine.domain.errors import EngineError, InvalidManifest, ModelLoadFailed, RuntimeMissing
from inference_engine.domain.model import PipelineSpec
from inference_engine.domain.pipeline import Pipeline, PlacedStep, Side, Step
from inference_engine.infra.runtimes.files import file_inside
from inference_engine.infra.runtimes.user_code import import_file, siblings_importable, user_code

GROUP = "inference_engine.steps"


class StepCatalog:
    """Every step an installed package offers in the group `inference_engine.steps`, by the manifest's word.

    `FILE.py:ClassName` is a step that comes with the model, in a file of its folder.

    A step is a msgspec struct: its fields are its options. A field of type `pathlib.Path` names a file in the model's
    folder, and the step gets the existing file's full path.
    """

    def __init__(self, points: Iterable[EntryPoint] | None = None) -> None:
        """`points` replaces what is installed."""
        found = entry_points(group=GROUP) if points is None else points
        self._points: dict[str, EntryPoint] = {point.name: point for point in found}

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._points))

    def build(self, spec: PipelineSpec, folder: Path) -> Pipeline:
        """The pipeline that a manifest in `folder` lists.

        Raises:
            InvalidManifest: a step or an option is unknown, of a wrong type, or on the wrong side; the message names
                the step's place. RuntimeMissing: a step's package cannot be imported.
        """
        return Pipeline(
            self._side("preprocess", spec.preprocess, folder), self._side("postprocess", spec.postprocess, folder)
        )

    def _side(self, side: Side, listed: Iterable[dict[str, Any]], folder: Path) -> tuple[PlacedStep, ...]:
        return tuple(
            self._place(side, f"pipeline.{side}[{index}]", entry, folder) for index, entry in enumerate(listed)
        )

    def _place(self, side: Side, place: str, entry: dict[str, Any], folder: Path) -> PlacedStep:
        use = str(entry.get("use"))
        kind = _from_file(use, place, folder) if ".py:" in use else self._find(use, place)
        if kind.side != side:
            raise InvalidManifest(f"{place} (use: {use}): is a {kind.side} step: list it there", param=place)
        options = {name: value for name, value in entry.items() if name != "use"}
        return PlacedStep(place, use, _decode(kind, options, folder, place, use))

    def _find(self, use: str, place: str) -> type[Step]:
        point = self._points.get(use)
        if point is None:
            raise InvalidManifest(f"{place}.use: {use!r} is no step; {suggestion(use, self._points)}", param=place)
        try:
            kind = point.load()
        except (ImportError, AttributeError) as error:
            raise RuntimeMissing(f"{place}: step {use!r} cannot be imported from {point.value}: {error}") from error
        return _step(kind, point.value, place)


def _from_file(use: str, place: str, folder: Path) -> type[Step]:
    """The step that a file in the model's folder defines; `use` is FILE.py:ClassName."""
    file, _, name = use.partition(":")
    path = file_inside(folder, file, f"{place}.use")
    with user_code(ModelLoadFailed, folder), siblings_importable(folder):
        kind = getattr(import_file(path), name, None)
    if kind is None:
        raise InvalidManifest(f"{place}.use: {file} has no class {name!r}", param=place)
    return _step(kind, use, place)


def _step(kind: Any, where: str, place: str) -> type[Step]:
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct) and hasattr(kind, "side")):
        raise InvalidManifest(f"{place}: {where} is not a step: a msgspec.Struct with a side", param=place)
    return cast(type[Step], kind)


def _decode(kind: type[Step], options: dict[str, Any], folder: Path, place: str, use: str) -> Step:
    known: tuple[str, ...] = kind.__struct_encode_fields__  # type: ignore[attr-defined]  # _find has seen a struct
    for option in sorted(options.keys() - set(known)):
        problem = f"{place}.{option} (use: {use}): unknown option; {suggestion(option, known)}"
        raise InvalidManifest(problem, param=f"{place}.{option}")
    try:
        return msgspec.convert(options, kind, dec_hook=_files_in(folder))
    except msgspec.ValidationError as error:
        keys, problem, _ = split_problem(error)
        param = dotted((place, *keys))
        raise InvalidManifest(f"{param} (use: {use}): {problem}", param=param) from None


def _files_in(folder: Path) -> Callable[[type, Any], Path]:
    """Decodes fields of type `Path`; a ValueError here is reported by msgspec with the field's place."""

    def decode(kind: type, value: Any) -> Path:
        if kind is not Path:
            raise ValueError(f"an option cannot be of type {kind}")
        if not isinstance(value, str):
            raise ValueError(f"must be the name of a file, not {value!r}")
        try:
            return file_inside(folder, value, "this option")
        except EngineError as error:
            raise ValueError(error.message) from None

    return decode
