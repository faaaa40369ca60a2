"""YAML text with places: knows on which line every key stands, and nothing of what the keys mean."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

import msgspec

Keys = tuple[str | int, ...]
"""Where a value stands inside a document, outermost key first: `("execution", "threads")`."""

_MAX_NODES = 50_000
_STEP = re.compile(r"\.([^.\[\]`]+)|\[(\d+)\]")
_AT = re.compile(r" - at `(?:key in )?\$([^`]*)`$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(.*)`$")


class YamlError(ValueError):
    """The text is not usable YAML. `line` counts from 1."""

    def __init__(self, problem: str, line: int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


class YamlDocument(msgspec.Struct, frozen=True):
    """`data` as `yaml.safe_load` gives it; `lines` and the raw text of `scalars` by their keys."""

    data: Any
    lines: dict[Keys, int]
    scalars: dict[Keys, str]

    def line(self, keys: Keys) -> int:
        """The line of `keys`, or of the nearest outer key that is written in the text."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, 1)


def parse_yaml(text: str) -> YamlDocument:
    """Parse one YAML document of plain data.

    Raises:
        YamlError: bad syntax, a key given twice, a tag that would build an object, or far too many nodes.
    """
    import yaml

    lines: dict[Keys, int] = {}
    scalars: dict[Keys, str] = {}

    def walk(node: Any, keys: Keys) -> None:
        # Aliases are expanded here, so this count also stops a document that grows without bound through them.
        if len(lines) + len(scalars) > _MAX_NODES:
            raise YamlError("the document is too large", node.start_mark.line + 1)
        lines.setdefault(keys, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else "?"
                inner = (*keys, name)
                if inner in lines:
                    raise YamlError(f"key {name!r} is given twice", key.start_mark.line + 1)
                lines[inner] = key.start_mark.line + 1
                walk(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                walk(value, (*keys, index))
        else:
            scalars[keys] = node.value

    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return YamlDocument(None, lines, scalars)
            walk(node, ())
            return YamlDocument(loader.construct_document(node), lines, scalars)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        last = max(1, len(text.splitlines()))  # an unfinished document is noticed behind its last line
        raise YamlError(error.problem or str(error), min(mark.line + 1, last) if mark else 1) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, YamlError):
            raise
        raise YamlError(" ".join(str(error).split()) or "nested too deeply", 1) from None


def split_problem(error: msgspec.ValidationError) -> tuple[Keys, str, str | None]:
    """Take a msgspec error apart: the keys it is about, what is wrong there, and the unknown field if that is it."""
    text = str(error)
    keys: Keys = ()
    if at := _AT.search(text):
        text = text[: at.start()]
        keys = tuple(int(index) if index else name for name, index in _STEP.findall(at[1]))
    unknown = _UNKNOWN.match(text)
    return keys, text, unknown[1] if unknown else None


def dotted(keys: Keys) -> str:
    """`("inputs", 0, "shape")` as people write it: `inputs[0].shape`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def suggestion(word: str, known: Iterable[str]) -> str:
    """What to do about an unknown word: the nearest known one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
