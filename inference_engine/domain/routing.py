"""How a public name becomes an exact model. Knows names and versions, not whether anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from inference_engine.domain.errors import InvalidRequest, ModelNotFound, RouteNotFound
from inference_engine.domain.model import ModelRef, check_name
from inference_engine.domain.results import Served

Rule = Literal["latest", "pinned"]


class Route(msgspec.Struct, frozen=True):
    """A public name, the model it leads to now, and why: `latest` follows the highest version, `pinned` stays."""

    name: str
    rule: Rule
    target: ModelRef


def version_key(version: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key in which `10` follows `9` and `1.10` follows `1.9`; words sort before numbers.

    The word `latest` comes after everything: who calls a version so means it.
    """
    if version == "latest":
        return ((2, 0),)
    parts = re.findall(r"\d+|[^\d.]+", version)
    return tuple((1, int(part)) if part.isdigit() else (0, part) for part in parts)


class Router:
    """Resolves targets: `name` through a route, `name:version` exactly, each with `@adapter` behind it or not.

    Resolved targets are remembered.
    """

    def __init__(self, pinned: Mapping[str, ModelRef]) -> None:
        self._pinned = dict(pinned)
        self._refs: set[ModelRef] = set()
        self._latest: dict[str, ModelRef] = {}
        self._resolved: dict[str, Served] = {}

    def adopt(self, refs: Iterable[ModelRef]) -> None:
        """Take the models that exist now; each name gets its `latest` route to the highest version."""
        self._refs = set(refs)
        self._latest = {ref.name: ref for ref in sorted(self._refs, key=lambda ref: version_key(ref.version))}
        self._resolved.clear()

    def resolve(self, target: str) -> Served:
        """The exact model for `target` and the rule that chose it.

        Raises:
            InvalidRequest: `target` is not a legal name. ModelNotFound: no route or version of that name.
        """
        served = self._resolved.get(target)
        if served is None:
            served = self._decide(target)
            if served.adapter is None:  # adapters are not checked here: remembering every name would have no end
                self._resolved[target] = served
        return served

    def _decide(self, target: str) -> Served:
        base, at, adapter = target.partition("@")
        if at:
            served = self._decide(base)
            return msgspec.structs.replace(served, route=target, adapter=check_name(adapter, "adapter"))
        name, colon, version = target.partition(":")
        check_name(name)
        if colon:
            ref = ModelRef(name, check_name(version, "version"))
            if ref not in self._refs:
                raise ModelNotFound(self._no_version(ref), param="model")
            return Served(ref, target, "exact")
        if name in self._pinned:
            if self._pinned[name] not in self._refs:
                raise ModelNotFound(
                    f"route {name!r} is pinned to {self._pinned[name]}, which is not in the model repository",
                    param="model",
                )
            return Served(self._pinned[name], name, "pinned")
        if name in self._latest:
            return Served(self._latest[name], name, "latest")
        known = ", ".join(sorted(self._latest.keys() | self._pinned.keys())) or "none"
        raise ModelNotFound(f"model {name!r} does not exist; known models: {known}", param="model")

    def _no_version(self, ref: ModelRef) -> str:
        versions = sorted(other.version for other in self._refs if other.name == ref.name)
        if not versions:
            return f"model {ref.name!r} does not exist"
        return f"model {ref.name!r} has no version {ref.version!r}; known versions: {', '.join(versions)}"

    def pin(self, name: str, ref: ModelRef) -> None:
        """Make `name` lead to `ref` until it is unpinned or pinned anew.

        Raises:
            ModelNotFound: `ref` does not exist. InvalidRequest: `name` is not a legal name.
        """
        check_name(name, "route")
        if ref not in self._refs:
            raise ModelNotFound(self._no_version(ref), param="target")
        self._pinned[name] = ref
        self._resolved.clear()

    def unpin(self, name: str) -> None:
        """Take the pin away; a model of that name is led to by `latest` again.

        Raises:
            RouteNotFound: there is no such pin.
        """
        if name not in self._pinned:
            raise RouteNotFound(f"route {name!r} is not pinned", param="route")
        del self._pinned[name]
        self._resolved.clear()

    @property
    def pinned(self) -> Mapping[str, ModelRef]:
        return self._pinned

    def routes(self) -> list[Route]:
        """Every public name, sorted."""
        latest = [Route(name, "latest", ref) for name, ref in self._latest.items() if name not in self._pinned]
        pinned = [Route(name, "pinned", ref) for name, ref in self._pinned.items()]
        return sorted(latest + pinned, key=lambda route: route.name)


def parse_exact(target: str) -> ModelRef:
    """`name:version` as a reference.

    Raises:
        InvalidRequest: a part is missing or not a legal name.
    """
    name, colon, version = target.partition(":")
    if not colon:
        raise InvalidRequest(f"{target!r} names no version: write name:version", param="target")
    return ModelRef(check_name(name), check_name(version, "version"))
