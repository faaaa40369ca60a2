"""Which served model does a task, when the request names none. Knows manifests, not what models give."""

from __future__ import annotations

from collections.abc import Sequence

from inference_engine.domain.errors import ModelNotFound
from inference_engine.services.models import ModelService

BUILT_IN = "built-in"
"""The tag of models that come with the engine; an operator's own go before them."""


def served_for(models: ModelService, tasks: Sequence[str]) -> str | None:
    """The public name of the model that does one of `tasks`; None where there is none.

    An operator's own before the built-in ones, then the one whose task comes first in `tasks`, then by name, so that
    the same request goes to the same model. One that has failed to load comes last.
    """
    found: list[tuple[bool, bool, int, str]] = []
    for route in models.routes():
        manifest = models.stored(route.target).manifest
        if manifest.task in tasks:
            failed = models.state(route.target) == "failed"
            found.append((failed, BUILT_IN in manifest.tags, tasks.index(manifest.task), route.name))
    return min(found)[3] if found else None


def needed_for(models: ModelService, tasks: Sequence[str], field: str) -> str:
    """Like `served_for`.

    Raises:
        ModelNotFound: there is none; the error says how to add one.
    """
    found = served_for(models, tasks)
    if found is None:
        other = ", or name a model of yours" if field == "model" else ""
        raise ModelNotFound(
            f"no model for {tasks[0]} is served: put one whose model.yaml says task: {tasks[0]} into a models folder"
            + other,
            param=field,
        )
    return found
