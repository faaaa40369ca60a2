"""The `options` of a torch model in model.yaml. Knows no PyTorch."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from inference_engine.domain.model import Signature


class TorchOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`options` of a torch model.

    class: "FILE.py:Name", the module that weights alone are loaded into. init: its keyword arguments.
    dtype: what parameters and floating-point inputs become, instead of what the file holds.
    compile: what `torch.compile` does to the module before the first request. signature: the module's own tensors,
    where the manifest's signature is that of a pipeline around it.
    """

    class_: str | None = msgspec.field(name="class", default=None)
    init: dict[str, Any] = {}
    dtype: Literal["float32", "float16", "bfloat16", "float64"] | None = None
    compile: bool | Literal["default", "reduce-overhead", "max-autotune"] = False
    signature: Signature | None = None
