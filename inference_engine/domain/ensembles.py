"""What the stages of an ensemble hand to each other, checked before anything runs. Knows no model that is loaded.

    inputs -> pool of named tensors -> stages, each as soon as all its tensors are there -> outputs

`graph_of` is what the ensemble's own manifest tells: who makes and who takes each name of the pool. `fitted` holds it
to the signatures of the stages' models, which may be known only once these are loaded.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import msgspec

from inference_engine.core.yaml_source import Keys, dotted, suggestion
from inference_engine.domain.errors import InvalidManifest, InvalidRequest
from inference_engine.domain.model import EnsembleSpec, ModelRef, Signature, Stage, TensorSpec, check_name
from inference_engine.domain.signatures import agreed, shapes_fit

ENSEMBLE = "ensemble"
"""The manifest's word for the runtime of a model that is made of others."""
MAX_STAGES = 256
"""Of one ensemble, and of it together with all those inside it: a few nested ones could ask for billions otherwise."""
MAX_DEPTH = 16
"""How many ensembles may stand inside each other."""


class EnsembleProblem(ValueError):
    """What is wrong with an ensemble. `keys` say where in its manifest."""

    def __init__(self, keys: Keys, text: str) -> None:
        super().__init__(text)
        self.keys = keys
        self.text = text

    def of(self, ref: ModelRef) -> InvalidManifest:
        """The same as an error of loading the ensemble `ref`."""
        return InvalidManifest(f"{ref}: {dotted(self.keys)}: {self.text}", param=dotted(self.keys))


def at_stage(index: int, *keys: str) -> Keys:
    """Where a stage stands in the manifest."""
    return "ensemble", "stages", index, *keys


def name_and_number(target: str) -> tuple[str, int]:
    """A stage's model as Triton writes it: a name and a version, -1 for the latest.

    A version that is no number stays in the name, where it is understood as well.
    """
    name, _, version = target.partition(":")
    return (name, int(version)) if version.isdigit() else (target, -1)


class Graph(msgspec.Struct, frozen=True):
    """The stages by what they wait for. `inputs`, `outputs` and the keys of `takers` are names of the pool.

    In `order` each stage comes after those it takes from; it is `linear` when no two could be computed together.
    `waits` counts for each stage the names that other stages make for it, `takers` are the stages that take a name.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    order: tuple[int, ...]
    linear: bool
    waits: tuple[int, ...]
    takers: Mapping[str, tuple[int, ...]]


def graph_of(spec: EnsembleSpec, declared: Signature | None) -> Graph:
    """The graph of an ensemble, held to the signature that its manifest declares.

    Without declared inputs they are the names that no stage makes; without outputs, those that no stage takes.

    Raises:
        EnsembleProblem: there is no stage or far too many, a name is empty or made twice, stages wait for each other
            in a circle, nobody makes an input, or nobody takes an output.
    """
    stages = spec.stages
    if not 1 <= len(stages) <= MAX_STAGES:
        raise EnsembleProblem(("ensemble", "stages"), f"holds {len(stages)} stages, it must be 1 to {MAX_STAGES}")
    for index, stage in enumerate(stages):
        _check_stage(index, stage)
    makers = _makers(stages)
    takers: dict[str, tuple[int, ...]] = {}
    for index, stage in enumerate(stages):
        for name in dict.fromkeys(stage.inputs.values()):
            takers[name] = (*takers.get(name, ()), index)
    before = [{makers[name] for name in stage.inputs.values() if name in makers} for stage in stages]
    order = _order(stages, makers, before)
    return Graph(
        inputs=_inputs(stages, makers, takers, declared),
        outputs=_outputs(stages, makers, takers, declared),
        order=order,
        linear=all(one in before[later] for one, later in itertools.pairwise(order)),
        waits=tuple(len({name for name in stage.inputs.values() if name in makers}) for stage in stages),
        takers=takers,
    )


def _check_stage(index: int, stage: Stage) -> None:
    name, colon, version = stage.model.partition(":")
    try:
        check_name(name)
        if colon:
            check_name(version, "version")
    except InvalidRequest as error:
        raise EnsembleProblem(at_stage(index, "model"), error.message) from None
    for side, names in (("inputs", stage.inputs), ("outputs", stage.outputs)):
        if not names:
            raise EnsembleProblem(at_stage(index, side), "is empty: say which tensor has which name, {TENSOR: NAME}")
        for tensor, name in names.items():
            if not tensor or not name:
                raise EnsembleProblem(at_stage(index, side), f"{tensor!r}: {name!r} has an empty name")


def _makers(stages: Sequence[Stage]) -> dict[str, int]:
    """Which stage makes each name."""
    makers: dict[str, int] = {}
    for index, stage in enumerate(stages):
        for tensor, name in stage.outputs.items():
            if name in makers:
                raise EnsembleProblem(
                    at_stage(index, "outputs", tensor), f"{name!r} is made twice: {_stage(stages, makers[name])} too"
                )
            makers[name] = index
    return makers


def _order(stages: Sequence[Stage], makers: Mapping[str, int], before: Sequence[set[int]]) -> tuple[int, ...]:
    order: list[int] = []
    left = dict(enumerate(before))
    while left:
        free = [index for index, others in left.items() if not others & left.keys()]
        if not free:
            raise _circle(stages, makers, left)
        order += free
        for index in free:
            del left[index]
    return tuple(order)


def _circle(stages: Sequence[Stage], makers: Mapping[str, int], left: Mapping[int, set[int]]) -> EnsembleProblem:
    """Walks back from a stage that waits until one comes again."""
    walked: list[int] = [next(iter(left))]
    while walked[-1] not in walked[:-1]:
        walked.append(min(left[walked[-1]] & left.keys()))
    circle = walked[walked.index(walked[-1]) :]
    steps = []
    for taker, maker in itertools.pairwise(circle):
        name = next(name for name in stages[taker].inputs.values() if makers.get(name) == maker)
        steps.append(f"{_stage(stages, taker)} takes {name!r} from {_stage(stages, maker)}")
    return EnsembleProblem(at_stage(circle[0], "inputs"), f"stages wait for each other in a circle: {', '.join(steps)}")


def _inputs(
    stages: Sequence[Stage],
    makers: Mapping[str, int],
    takers: Mapping[str, tuple[int, ...]],
    declared: Signature | None,
) -> tuple[str, ...]:
    taken = tuple(name for name in takers if name not in makers)
    if declared is None:
        return taken
    names = [spec.name for spec in declared.inputs]
    for name in taken:
        if name not in names:
            index = takers[name][0]
            tensor = next(tensor for tensor, given in stages[index].inputs.items() if given == name)
            raise EnsembleProblem(
                at_stage(index, "inputs", tensor),
                f"nobody makes {name!r}: no stage does, and signature.inputs does not list it; "
                f"{suggestion(name, [*makers, *names])}",
            )
    for place, name in enumerate(names):
        if name not in taken:
            why = f"{_stage(stages, makers[name])} makes it" if name in makers else "no stage takes it"
            raise EnsembleProblem(("signature", "inputs", place, "name"), f"{name!r} is no input of the stages: {why}")
    return tuple(names)


def _outputs(
    stages: Sequence[Stage],
    makers: Mapping[str, int],
    takers: Mapping[str, tuple[int, ...]],
    declared: Signature | None,
) -> tuple[str, ...]:
    left = [name for name in makers if name not in takers]
    if declared is None or not declared.outputs:
        return tuple(left)
    names = [spec.name for spec in declared.outputs]
    for place, name in enumerate(names):
        if name not in makers:
            raise EnsembleProblem(
                ("signature", "outputs", place, "name"), f"no stage makes {name!r}: {suggestion(name, makers)}"
            )
    for name in left:
        if name not in names:
            index = makers[name]
            tensor = next(tensor for tensor, given in stages[index].outputs.items() if given == name)
            raise EnsembleProblem(
                at_stage(index, "outputs", tensor),
                f"nobody takes {name!r}: list it in signature.outputs, or leave it out here",
            )
    return tuple(names)


def _stage(stages: Sequence[Stage], index: int) -> str:
    return f"stages[{index}] ({stages[index].model})"


# -- with the signatures of the stages -------------------------------------------------------------------------------


class Member(msgspec.Struct, frozen=True):
    """The exact model of a stage, and what it takes and gives."""

    ref: ModelRef
    signature: Signature


def fitted(spec: EnsembleSpec, graph: Graph, members: Sequence[Member], declared: Signature | None) -> Signature:
    """What the ensemble takes and gives, when its stages are these `members`.

    Raises:
        EnsembleProblem: a stage's model has no such tensor, one of its inputs is not given, or two sides of a name
            differ in dtype or shape. InvalidManifest: the declared signature says something else.
    """
    _check_names(spec, members)
    made = {
        name: _Side(_tensor(member.signature.outputs, tensor), f"{member.ref} gives it (output {tensor!r})")
        for stage, member in zip(spec.stages, members, strict=True)
        for tensor, name in stage.outputs.items()
    }
    pool = dict(made)
    for index, (stage, member) in enumerate(zip(spec.stages, members, strict=True)):
        for tensor, name in stage.inputs.items():
            taken = _Side(_tensor(member.signature.inputs, tensor), f"{member.ref} takes it (input {tensor!r})")
            there = pool.setdefault(name, taken)
            _check_fit(index, tensor, name, there, taken)
            if name not in made:  # several may take an input of the ensemble: it must suit them all
                shape = tuple(map(max, there.spec.shape, taken.spec.shape))
                pool[name] = _Side(msgspec.structs.replace(there.spec, shape=shape), there.what)
    found = Signature(
        tuple(_named(name, pool[name].spec) for name in graph.inputs),
        tuple(_named(name, pool[name].spec) for name in graph.outputs),
    )
    return found if declared is None else agreed(declared, found, "by the stages")


class _Side(msgspec.Struct, frozen=True):
    """A tensor as one stage has it; `what` tells for messages which."""

    spec: TensorSpec
    what: str

    def __str__(self) -> str:
        return f"{self.spec.dtype} {list(self.spec.shape)} as {self.what}"


def _check_names(spec: EnsembleSpec, members: Sequence[Member]) -> None:
    for index, (stage, member) in enumerate(zip(spec.stages, members, strict=True)):
        takes = [tensor.name for tensor in member.signature.inputs]
        gives = [tensor.name for tensor in member.signature.outputs]
        for tensor in stage.inputs:
            if tensor not in takes:
                raise EnsembleProblem(
                    at_stage(index, "inputs", tensor), f"{member.ref} has no such input, it takes {sorted(takes)}"
                )
        for tensor in takes:
            if tensor not in stage.inputs:
                raise EnsembleProblem(
                    at_stage(index, "inputs"), f"{member.ref} takes {sorted(takes)}, {tensor!r} is not given"
                )
        for tensor in stage.outputs:
            if tensor not in gives:
                raise EnsembleProblem(
                    at_stage(index, "outputs", tensor), f"{member.ref} has no such output, it gives {sorted(gives)}"
                )


def _check_fit(index: int, tensor: str, name: str, there: _Side, taken: _Side) -> None:
    if there.spec.dtype != taken.spec.dtype or not shapes_fit(there.spec.shape, taken.spec.shape):
        raise EnsembleProblem(at_stage(index, "inputs", tensor), f"{name!r} is {there}, but {taken}")


def _tensor(specs: Sequence[TensorSpec], name: str) -> TensorSpec:
    return next(spec for spec in specs if spec.name == name)


def _named(name: str, spec: TensorSpec) -> TensorSpec:
    return msgspec.structs.replace(spec, name=name)


# -- with other ensembles --------------------------------------------------------------------------------------------


def check_nesting(root: ModelRef, members: Mapping[ModelRef, Sequence[ModelRef]]) -> None:
    """Look through the ensembles inside the ensemble `root`. `members` are the models of each ensemble's stages.

    Raises:
        EnsembleProblem: an ensemble is inside itself, there are too many stages altogether, or they are too deep.
    """
    seen: dict[ModelRef, tuple[int, int]] = {}

    def walk(ref: ModelRef, path: tuple[ModelRef, ...]) -> tuple[int, int]:
        """How many stages `ref` has altogether, and how deep they are."""
        if ref in path:
            circle = " -> ".join(map(str, (*path[path.index(ref) :], ref)))
            raise EnsembleProblem(("ensemble",), f"ensembles stand inside each other in a circle: {circle}")
        if ref not in members:
            return 1, 0
        if ref not in seen:
            found = [walk(member, (*path, ref)) for member in members[ref]] if len(path) <= MAX_DEPTH else [(0, 0)]
            seen[ref] = sum(count for count, _ in found), 1 + max(depth for _, depth in found)
        return seen[ref]

    count, depth = walk(root, ())
    if depth > MAX_DEPTH:
        raise EnsembleProblem(("ensemble",), f"more than {MAX_DEPTH} ensembles stand inside each other")
    if count > MAX_STAGES:
        raise EnsembleProblem(
            ("ensemble", "stages"), f"with the ensembles inside there are {count} stages, at most {MAX_STAGES}"
        )
