"""Judges exported programs before PyTorch reads them. Knows the archive's layout; computes nothing.

`torch.export.load` unpickles without restraint what a safe pickle cannot hold, gives size expressions to sympy (which
evaluates them), looks operators up by dotted name from the package `torch` itself, and makes Python of guards and
names. So everything of that kind must look as `torch.export.save` writes it. This is no sandbox: an operator that is
allowed may still compute for ever.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_RECORDS = re.compile(
    r"(weights|constants|models|sample_inputs|extra)/[^/]+|archive_format|archive_version|byteorder|version"
    r"|\.data/(version|serialization_id)|\.format_version"
)
_CODE_RECORDS = re.compile(r"(aotinductor|executorch|mtia)/|.*(opaque_obj_|custom_obj_)\d|.*\.(so|cpp|cubin)$")
_NAME = re.compile(r"[A-Za-z0-9_.\-]*")
_TARGET = re.compile(r"torch\.ops\.[a-z]\w*\.\w+(\.\w+)?|torch\.sym_\w+|torch\._sym_\w+|math\.\w+|_operator\.\w+")
_REFUSED_TARGETS = re.compile(
    r".*(__|load_library|import_module|triton|torchbind|delegate|from_file)|torch\.ops\.aten\.save"
    r"|_operator\.(call|attrgetter|methodcaller)"
)
_FUNCTIONS = """
    Symbol Integer Float Rational Max Min Eq Ne Lt Le Gt Ge And Or Not Mod FloorDiv ModularIndexing PythonMod Where
    CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift PowByNatural FloatPow FloatTrueDiv IntTrueDiv TruncToFloat
    TruncToInt RoundToInt RoundDecimal ToFloat Identity IsNonOverlappingAndDenseIndicator Abs floor ceiling
    max min abs int float bool len sym_max sym_min size stride storage_offset dim numel
"""
_CALLED = frozenset(_FUNCTIONS.split())
_SYNTAX = (
    ast.Expression, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.keyword, ast.Constant, ast.Name,
    ast.Subscript, ast.Attribute, ast.Load, ast.boolop, ast.operator, ast.unaryop, ast.cmpop, ast.IfExp, ast.Tuple,
)  # fmt: skip


class CouldRunCode(Exception):
    """A file holds more than tensors and a graph. The message continues a sentence that begins with its path."""


def vet_program(path: Path) -> None:
    """Return when the exported program at `path` holds tensors and a graph and nothing else.

    Raises:
        CouldRunCode: it holds compiled code, pickled objects, or expressions and operators that could run code.
    """
    import torch

    reader = torch._C.PyTorchFileReader(str(path))  # the one that torch.export.load uses: both see the same records
    records = reader.get_all_records()
    for name in records:
        inner = name.removeprefix("data/")
        if _CODE_RECORDS.match(inner):
            raise CouldRunCode(f"holds {name}, which is compiled code or a pickled object")
        if not _RECORDS.fullmatch(inner):
            raise CouldRunCode(f"holds {name}, which torch.export.save does not write")
    pickled = {name for name in records if name.endswith(".pt")}
    for name in records:
        if name.endswith(".json"):
            content = json.loads(reader.get_record(name))
            pickled |= {f"{name.rpartition('/')[0]}/{inner}" for inner in _pickled(content)}
            _vet(content)
    for name in sorted(pickled & set(records)):
        _vet_pickle(reader.get_record(name), name)


def _pickled(value: Any) -> Iterator[str]:
    for mapping in _mappings(value):
        if mapping.get("use_pickle"):
            yield str(mapping.get("path_name"))


def _vet(content: Any) -> None:
    for mapping in _mappings(content):
        for key, value in mapping.items():
            if key in ("target", "as_operator") and isinstance(value, str):
                _vet_target(value)
            elif key in ("expr_str", "guards_code"):
                for text in value if isinstance(value, list) else [value]:
                    _vet_expression(text)
            elif key.endswith(("name", "names")):
                _vet_names(value)
            elif key == "in_spec" and isinstance(value, str):
                _vet_names(_keywords(value))


def _vet_target(target: str) -> None:
    if not _TARGET.fullmatch(target) or _REFUSED_TARGETS.match(target):
        raise CouldRunCode(f"calls {target[:80]!r}, which is not an operator of a graph")


def _vet_names(value: Any) -> None:
    for name in value if isinstance(value, list) else [value]:
        if isinstance(name, str) and not _NAME.fullmatch(name):
            raise CouldRunCode(f"names something {name[:80]!r}")


def _keywords(structure: str) -> list[Any]:
    """The names of the keyword arguments in a serialized pytree of (positional, keyword) arguments."""
    try:
        found = json.loads(json.loads(structure)[1]["children_spec"][1]["context"])
    except (ValueError, TypeError, LookupError):  # none there, as in the structure of an inner module
        return []
    return found if isinstance(found, list) else []


def _vet_expression(text: Any) -> None:
    if text is None:
        return
    refused = CouldRunCode(f"gives a size as {str(text)[:80]!r}")
    if not isinstance(text, str) or len(text) > 10_000 or "#" in text:
        raise refused
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise refused from None
    for node in ast.walk(tree):
        if not isinstance(node, _SYNTAX) or _reaches_out(node):
            raise refused


def _reaches_out(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return _called(node.func) not in _CALLED
    if isinstance(node, ast.Attribute):
        return node.attr.startswith("_") or "__" in node.attr
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return not _NAME.fullmatch(node.value)  # these strings are cut and joined again before they are compiled
    return isinstance(node, ast.Name) and "__" in node.id


def _called(function: ast.expr) -> str:
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else ""


def _vet_pickle(content: bytes, place: str) -> None:
    import torch

    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # whatever it raises: PyTorch itself would go on without restraint
        raise CouldRunCode(f"holds more than tensors in {place} ({_first_line(error)})") from None


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
