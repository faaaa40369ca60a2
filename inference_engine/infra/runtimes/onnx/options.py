"""The `options` of an onnx model in model.yaml. Knows no ONNX Runtime."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Size = Annotated[int, msgspec.Meta(ge=1)]


class OnnxSession(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is rarely changed in a session.

    memory_arena: keep memory of finished batches for the next ones. memory_pattern: plan it ahead while shapes repeat.
    prepacking: hold weights in the order that the processor likes, which takes more memory. deterministic: the same
    bits every time. denormals_as_zero: round numbers that are almost zero. free_dimensions: sizes for dimensions that
    the file leaves open, by their names in it.
    """

    memory_arena: bool = True
    memory_pattern: bool = True
    prepacking: bool = True
    deterministic: bool = False
    denormals_as_zero: bool = False
    free_dimensions: dict[str, Size] = {}


class OnnxOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`options` of an onnx model.

    intra_op_threads: threads of one operator, instead of execution.threads. inter_op_threads: operators side by side.
    graph_optimization: how far the graph is rewritten at load. spinning: idle threads keep a core busy for a little
    less latency. io_binding: hand tensors over bound; it costs more on a CPU. provider_options: the library's own
    options of a provider, by the device's word for it.
    """

    intra_op_threads: Annotated[int, msgspec.Meta(ge=0)] | None = None
    inter_op_threads: Size = 1
    graph_optimization: Literal["all", "extended", "basic", "off"] = "all"
    spinning: bool = False
    io_binding: bool = False
    provider_options: dict[str, dict[str, str | int | float | bool]] = {}
    session: OnnxSession = OnnxSession()
