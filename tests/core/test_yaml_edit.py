"""Changing values in YAML leaves the rest as it was written."""

from __future__ import annotations

from typing import Any

import pytest

from inference_engine.core.yaml_edit import with_values
from inference_engine.core.yaml_source import YamlError, parse_yaml

VALUES = {"threads": 2, "max_delay_ms": 0.5, "executor": "thread"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "name: a # the name\nexecution:\n  # one for each core\n  threads: 1 # was 4\n  pin: true\ntags: [x]\n",
            "name: a # the name\nexecution:\n  # one for each core\n"
            "  max_delay_ms: 0.5\n  executor: thread\n  threads: 2 # was 4\n  pin: true\ntags: [x]\n",
        ),
        (
            "name: a\nexecution: {threads: 1, # all\n  pin: true}\n",
            "name: a\nexecution: {max_delay_ms: 0.5, executor: thread, threads: 2, # all\n  pin: true}\n",
        ),
        ("name: a # no end", "name: a # no end\nexecution: {threads: 2, max_delay_ms: 0.5, executor: thread}\n"),
        (
            "name: a\nexecution: {}\nx: 1\n",
            "name: a\nexecution: {threads: 2, max_delay_ms: 0.5, executor: thread}\nx: 1\n",
        ),
        (
            "name: a\nexecution:\nx: 1\n",
            "name: a\nexecution: {threads: 2, max_delay_ms: 0.5, executor: thread}\nx: 1\n",
        ),
        ("{name: a}", "{execution: {threads: 2, max_delay_ms: 0.5, executor: thread}, name: a}"),
    ],
)
def test_values_are_set_and_the_rest_stays(text: str, expected: str) -> None:
    assert with_values(text, "execution", VALUES) == expected


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "execution: 3\n",
        "base: &b {threads: 1}\nexecution: *b\n",
        "execution: {threads: 1\n",
    ],
)
def test_what_cannot_be_changed_safely_is_refused(text: str) -> None:
    with pytest.raises(YamlError):
        with_values(text, "execution", VALUES)


@pytest.mark.parametrize("value", [1, 2.5, True, "runner", "a: b", "'", "12", "yes"])
def test_every_scalar_comes_back(value: Any) -> None:
    assert parse_yaml(with_values("execution: {a: 1}\n", "execution", {"a": value})).data == {"execution": {"a": value}}
