"""Judges TorchScript before PyTorch reads it: its code may compute, and neither touch files nor use foreign objects.

The archive's code is a subset of Python's grammar, resolved by PyTorch's own interpreter, which knows `torch` (the
operators), `ops` (operators by namespace) and `__torch__` (the archive's classes). So the names in it tell what it
can reach. This is no sandbox: an operator that is allowed may still compute for ever.
"""

from __future__ import annotations

import ast
import pickletools
from collections.abc import Iterator
from pathlib import Path

from inference_engine.infra.runtimes.torch.vetting import CouldRunCode

_FILE_OPERATORS = frozenset(("save", "from_file"))
"""Operators of `torch` that write or read files of their own choosing."""
_PACKED = ("mkldnn_prepacked", "prepacked", "_quantized")
_NAMESPACES = frozenset(("aten", "prim", "profiler", "quantized", "quantization", "sparse", "mkldnn", *_PACKED))
_CLASSES = frozenset(("quantized", "rnn", "xnnpack", "mkldnn", "profiler"))
"""Native classes that hold packed weights or measure; others open sockets and libraries."""
_ROOTS = frozenset(("torch", "ops"))


def vet_script(path: Path) -> None:
    """Return when the code of the TorchScript archive at `path` only computes.

    Raises:
        CouldRunCode: it names what touches files, other native code, or is no code of TorchScript.
    """
    import torch

    reader = torch._C.PyTorchFileReader(str(path))  # the one that torch.jit.load uses: both see the same records
    for name in reader.get_all_records():
        if name == "model.json":
            raise CouldRunCode("is TorchScript of PyTorch 1.0, which is not judged")
        if name.endswith(".py"):
            for word in _reached(_parsed(name, reader.get_record(name))):
                raise CouldRunCode(f"uses {word[:80]!r} in {name}, which is more than computing")
        elif name.endswith(".pkl"):
            _vet_classes(name, reader.get_record(name))


def _parsed(name: str, code: bytes) -> ast.AST:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise CouldRunCode(f"holds {name}, which is no code of TorchScript") from None


def _reached(tree: ast.AST) -> Iterator[str]:
    """The names that must not be there."""
    bases: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name):
                bases.add(id(node.value))
                if node.value.id == "ops" and node.attr not in _NAMESPACES:
                    yield f"ops.{node.attr}"
            if node.attr in _FILE_OPERATORS:
                yield f"torch.{node.attr}"
            if isinstance(node.value, ast.Attribute) and node.value.attr == "classes" and node.attr not in _CLASSES:
                yield f"torch.classes.{node.attr}"
        elif isinstance(node, ast.Name) and node.id in _ROOTS and id(node) not in bases:
            yield node.id  # a parent is walked before its children: this one stands alone, as for another name
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            yield from (str(a.value) for a in node.args if isinstance(a, ast.Constant) and a.value in _FILE_OPERATORS)


def _vet_classes(name: str, pickled: bytes) -> None:
    """The objects in a pickle are made by PyTorch's own reader: of classes in the archive, and of native ones."""
    try:
        words = [str(argument) for _, argument, _ in pickletools.genops(pickled) if isinstance(argument, str)]
    except Exception as error:  # a damaged pickle fails in many ways
        raise CouldRunCode(f"holds {name}, which is no pickle of TorchScript ({error})") from None
    for word in words:
        _, native, rest = word.partition("torch.classes.")
        if native and rest.replace(" ", ".").split(".")[0] not in _CLASSES:  # pickletools puts a space before the class
            raise CouldRunCode(f"holds an object of {word[:80]!r}, which is more than a tensor")
