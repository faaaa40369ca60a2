"""A model's instances in the words of Triton's ModelConfig, over any wire."""

from __future__ import annotations

from typing import Any

from inference_engine.domain.model import Execution

_KINDS = {"cpu": "KIND_CPU", "auto": "KIND_AUTO"}


def instance_groups(execution: Execution) -> list[dict[str, Any]]:
    """Each group as `kind`, `count` and `gpus`."""
    groups = []
    for group in execution.groups:
        index = group.device.rpartition(":")[2]
        gpus = [int(index)] if index.isdigit() else []
        groups.append({"kind": _KINDS.get(group.device, "KIND_GPU"), "count": group.count, "gpus": gpus})
    return groups
