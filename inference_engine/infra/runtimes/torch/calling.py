"""How a PyTorch module is called with named tensors, and how what it returns is named. Knows no files."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from inference_engine.domain.errors import InferenceFailed, InvalidManifest, ModelLoadFailed
from inference_engine.domain.model import Signature, TensorSpec

_DTYPES = frozenset(
    ("bool", "float16", "float32", "float64", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)))
)
Call = Callable[[dict[str, Any]], Any]
"""Takes tensors by name and returns whatever the module returns."""


def program_signature(program: Any, place: str) -> Signature:
    """The tensors of an exported program; a dimension that was exported as dynamic is -1, bfloat16 is float32 outside.

    Raises:
        ModelLoadFailed: an input or output is not a tensor, or of a dtype that cannot be served.
    """
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    given = [spec.arg for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    inputs = tuple(_spec(arg.name, values.get(arg.name), place) for arg in given if not _is_constant(arg))
    results = [spec.arg for spec in program.graph_signature.output_specs if spec.kind.name == "USER_OUTPUT"]
    names = output_names(program.call_spec.out_spec)
    outputs = tuple(
        _spec(name, values.get(arg.name), place) for name, arg in zip(names, results, strict=True) if not _is_none(arg)
    )
    return Signature(inputs, outputs)


def program_call(program: Any, module: Any) -> Call:
    """Calls `module`, made of `program`, with its inputs in the structure it was exported with."""
    from torch.utils import _pytree as pytree

    given = [spec.arg for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    structure = program.call_spec.in_spec

    def call(tensors: dict[str, Any]) -> Any:
        flat = [arg.value if _is_constant(arg) else tensors[arg.name] for arg in given]
        args, kwargs = pytree.tree_unflatten(flat, structure)
        return module(*args, **kwargs)

    return call


def module_call(module: Any, names: Sequence[str]) -> Call:
    """Calls `module` with the inputs `names`: by name where `forward` has parameters of these names, else in order.

    Raises:
        InvalidManifest: some names are parameters and some are not, or their number does not suit `forward`.
    """
    parameters, required, any_name = _parameters(module)
    known = [name for name in names if name in parameters]
    if len(known) == len(names) or any_name:
        missing = [name for name in required if name not in names]
        if missing:
            raise InvalidManifest(
                f"forward needs {missing[0]!r}, which signature.inputs does not name", param="signature.inputs"
            )
        return lambda tensors: module(**tensors)
    if known:
        wrong = next(name for name in names if name not in parameters)
        raise InvalidManifest(
            f"signature.inputs: forward has no parameter {wrong!r}; it has {', '.join(parameters)}",
            param="signature.inputs",
        )
    if not len(required) <= len(names) <= len(parameters):
        raise InvalidManifest(
            f"signature.inputs names {len(names)} tensors, forward takes {', '.join(parameters) or 'none'}",
            param="signature.inputs",
        )
    return lambda tensors: module(*(tensors[name] for name in names))


def named_outputs(result: Any, declared: Sequence[str]) -> dict[str, Any]:
    """What a module returned as tensors by name: a dict's keys, or `declared` in order, or `output`, `output_0`, ...

    `declared` are in the order in which the module returns them, or empty.

    Raises:
        InferenceFailed: something in it is not a tensor, or its number differs from what is declared.
    """
    import torch
    from torch.utils import _pytree as pytree

    plain = (result,) if isinstance(result, torch.Tensor) else result
    if type(plain) is tuple and len(plain) == len(declared) and all(isinstance(v, torch.Tensor) for v in plain):
        return dict(zip(declared, plain, strict=True))  # what most modules return, named without a walk
    flat, structure = pytree.tree_flatten(result)
    found = {name: value for name, value in zip(output_names(structure), flat, strict=True) if value is not None}
    if not declared or found.keys() == set(declared):
        return found
    if isinstance(result, dict) or len(found) != len(declared):
        raise InferenceFailed(f"forward returned {sorted(found)}, the signature says {sorted(declared)}")
    return dict(zip(declared, found.values(), strict=True))


def output_names(structure: Any) -> list[str]:
    """A name for every leaf of a pytree: `output` alone, `output_0` in a tuple, the keys of dicts, joined by `_`."""
    from torch.utils import _pytree as pytree

    paths = pytree.tree_flatten_with_path(pytree.tree_unflatten([object()] * structure.num_leaves, structure))[0]
    names = []
    for path, _ in paths:
        words = [_word(key) for key in path]
        inside = bool(words) and not words[0].isdigit()
        names.append("_".join(words if inside else ["output", *words]))
    return names


def _word(key: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key).strip(".[]'\"")


def _parameters(module: Any) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """The names of `forward`'s parameters, those without a default, and whether it takes any keyword."""
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        arguments = module.forward.schema.arguments[1:]
        names = tuple(argument.name for argument in arguments)
        return names, tuple(a.name for a in arguments if not a.has_default_value()), False
    found = inspect.signature(module.forward).parameters.values()
    plain = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = tuple(p.name for p in plain if p.default is p.empty)
    return tuple(p.name for p in plain), required, any(p.kind is p.VAR_KEYWORD for p in found)


def _spec(name: str, value: Any, place: str) -> TensorSpec:
    import torch

    if not isinstance(value, torch.Tensor):
        raise ModelLoadFailed(f"{place}: {name!r} is a {type(value).__name__}, not a tensor", param=name)
    dtype = str(value.dtype).removeprefix("torch.")
    dtype = "float32" if dtype == "bfloat16" else dtype
    if dtype not in _DTYPES:
        raise ModelLoadFailed(f"{place}: {name!r} is {dtype}, which is not supported", param=name)
    return TensorSpec(name, dtype, tuple(size if isinstance(size, int) else -1 for size in value.shape))


def _is_constant(argument: Any) -> bool:
    return type(argument).__name__ == "ConstantArgument"


def _is_none(argument: Any) -> bool:
    return _is_constant(argument) and argument.value is None
