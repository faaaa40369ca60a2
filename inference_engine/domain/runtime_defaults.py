"""What a runtime may leave out: inherit from `RuntimeDefaults` and write only what the library offers."""

from __future__ import annotations

from collections.abc import Mapping

from inference_engine.domain.errors import UnsupportedTask
from inference_engine.domain.ports import Sink, TensorSink
from inference_engine.domain.requests import Generate
from inference_engine.domain.results import Delivered
from inference_engine.domain.tensors import Tensors


class RuntimeDefaults:
    """The optional half of the port `Runtime`; `load` and `close` are always the runtime's own."""

    def run(self, batch: Tensors) -> Tensors:  # noqa: ARG002  the port's shape
        raise UnsupportedTask("this model generates text: ask it for a chat or a completion", param="model")

    def run_stream(self, inputs: Tensors, sink: TensorSink) -> None:  # noqa: ARG002
        raise UnsupportedTask("this model gives one response to each prediction", param="model")

    def generate(self, request: Generate, delivered: Delivered, sink: Sink) -> None:  # noqa: ARG002
        raise UnsupportedTask("this model computes tensors: ask it for a prediction", param="model")

    def tokenize(self, request: Generate) -> tuple[int, ...]:  # noqa: ARG002
        raise UnsupportedTask("this model's runtime does not tell how it splits text into tokens", param="model")

    def gauges(self) -> Mapping[str, float]:
        return {}
