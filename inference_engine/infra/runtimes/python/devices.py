"""The device that a Python class is told to use."""

from __future__ import annotations

from inference_engine.domain.errors import InvalidManifest
from inference_engine.infra.hardware import detect


def placed(device: str) -> str:
    """`execution.device` as it is given to a class: `cpu`, `cuda:0` or another the class knows; `auto` is resolved.

    Raises:
        InvalidManifest: it is a GPU that this machine does not have.
    """
    kind, _, index = device.partition(":")
    if device == "auto":
        return "cuda:0" if detect().gpus else "cpu"
    if kind != "cuda":
        return device
    there = [gpu.index for gpu in detect().gpus]
    wanted = int(index) if index.isdigit() else 0
    if wanted not in there:
        raise InvalidManifest(
            f"execution.device is {device!r}, GPUs here: {', '.join(map(str, there)) or 'none'}: use auto or cpu",
            param="execution.device",
        )
    return f"cuda:{wanted}"
