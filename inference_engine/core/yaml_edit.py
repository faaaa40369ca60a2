"""Changes values in YAML text and leaves everything else as it was written, comments too. Knows no file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from inference_engine.core.yaml_source import YamlError, parse_yaml

if TYPE_CHECKING:
    import yaml


def with_values(text: str, section: str, values: Mapping[str, Any]) -> str:
    """`text` with `values` (numbers, booleans, strings) set in the mapping `section` of the outermost mapping.

    What stands there already is replaced in its place; what does not is put before the section's first key, and a
    section that is missing at the end.

    Raises:
        YamlError: the text is no YAML mapping, or is written in a way (anchors, merges) that this cannot change safely.
    """
    import yaml

    before = parse_yaml(text).data
    if not isinstance(before, dict) or not isinstance(before.get(section) or {}, dict):
        raise YamlError(f"{section} is no mapping", 1)
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    found = next((value for key, value in root.value if key.value == section), None)
    if found is None:
        changed = _with_section(text, root, f"{section}: {{{_flow(values)}}}")
    elif isinstance(found, yaml.MappingNode):
        changed = _with_edits(text, _edits(found, values))
    else:  # `section:` alone
        at = found.start_mark.index
        changed = text[:at] + f" {{{_flow(values)}}}" + text[found.end_mark.index :]
    if parse_yaml(changed).data != before | {section: (before.get(section) or {}) | dict(values)}:
        raise YamlError(f"{section} is written in a way that cannot be changed safely", root.start_mark.line + 1)
    return changed


def _edits(section: yaml.MappingNode, values: Mapping[str, Any]) -> list[tuple[int, int, str]]:
    """Replacements as (from, to, text)."""
    there = {key.value: value for key, value in section.value}
    edits = [
        (there[name].start_mark.index, there[name].end_mark.index, _scalar(value))
        for name, value in values.items()
        if name in there
    ]
    new = {name: value for name, value in values.items() if name not in there}
    if not new:
        return edits
    if not section.value:  # {}
        return [(section.start_mark.index, section.end_mark.index, f"{{{_flow(new)}}}")]
    first = section.value[0][0].start_mark
    if section.flow_style:
        return [*edits, (first.index, first.index, f"{_flow(new)}, ")]
    lines = "".join(f"{name}: {_scalar(value)}\n{' ' * first.column}" for name, value in new.items())
    return [*edits, (first.index, first.index, lines)]


def _with_edits(text: str, edits: list[tuple[int, int, str]]) -> str:
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _with_section(text: str, root: yaml.MappingNode, line: str) -> str:
    if root.flow_style:
        at = root.value[0][0].start_mark.index if root.value else root.start_mark.index + 1
        return text[:at] + line + (", " if root.value else "") + text[at:]
    return text + ("" if text.endswith("\n") else "\n") + line + "\n"


def _flow(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {_scalar(value)}" for name, value in values.items())


def _scalar(value: Any) -> str:
    """JSON's scalars are YAML's; plain words that are no `yes` or `null` need no quotes."""
    plain = isinstance(value, str) and value.isalpha() and parse_yaml(value).data == value
    return value if plain else json.dumps(value)
