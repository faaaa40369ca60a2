"""A runtime with a pipeline around it, behind the same port. Knows no step and no model format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from inference_engine.domain.errors import InferenceFailed, InvalidManifest, InvalidTensor
from inference_engine.domain.model import Manifest, PipelineSpec, Signature
from inference_engine.domain.pipeline import Pipeline, part_notes
from inference_engine.domain.ports import Loaded, Runtime, Sink, TensorSink
from inference_engine.domain.requests import Generate
from inference_engine.domain.results import Delivered
from inference_engine.domain.signatures import agreed
from inference_engine.domain.tensors import InputCheck, Tensors
from inference_engine.infra.pipeline.catalog import StepCatalog
from inference_engine.infra.runtimes.catalog import EntryPointCatalog


def create_runtime(
    manifest: Manifest, runtimes: EntryPointCatalog | None = None, steps: StepCatalog | None = None
) -> Runtime:
    """The runtime a manifest names, nothing loaded yet, with its pipeline around it if it lists one.

    Raises:
        InvalidManifest: no such runtime. RuntimeMissing: its package cannot be imported.
    """
    runtime = (runtimes or EntryPointCatalog()).create(manifest.runtime)
    if manifest.pipeline == PipelineSpec():
        return runtime
    return PipelineRuntime(runtime, steps or StepCatalog())


class PipelineRuntime:
    """Runs the manifest's steps before and after `inner`. Generations pass through: steps are for tensors.

    With a pipeline the manifest's `signature` is the client's view. The inner runtime is given a manifest without it
    and reports the model's own; what the steps make of that is held to what the manifest declares.
    """

    def __init__(self, inner: Runtime, steps: StepCatalog) -> None:
        self._inner = inner
        self._steps = steps
        self._pipeline = Pipeline()
        self._takes = InputCheck(Signature(()))

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        self._pipeline = self._steps.build(manifest.pipeline, folder)
        loaded = self._load_inner(manifest, folder)
        try:
            model = _own_signature(loaded)
            client = self._pipeline.preview(model)
            if manifest.signature is not None:
                client = agreed(manifest.signature, client, "with the pipeline")
        except InvalidManifest:
            self._inner.close()
            raise
        self._takes = InputCheck(model)
        self._pipeline = self._pipeline.joined()
        return msgspec.structs.replace(loaded, signature=client)

    def run(self, batch: Tensors) -> Tensors:
        notes, inputs = part_notes(self._pipeline.before(batch))
        try:
            self._takes.rows(inputs)
        except InvalidTensor as error:  # not the client's fault: what it sent was held to the preview before
            raise InferenceFailed(f"after pipeline.preprocess: {error.message}", param=error.param) from None
        return self._pipeline.after({**self._inner.run(inputs), **notes})

    def run_stream(self, inputs: Tensors, sink: TensorSink) -> None:
        self._inner.run_stream(inputs, sink)

    def generate(self, request: Generate, delivered: Delivered, sink: Sink) -> None:
        self._inner.generate(request, delivered, sink)

    def tokenize(self, request: Generate) -> tuple[int, ...]:
        return self._inner.tokenize(request)

    def gauges(self) -> Mapping[str, float]:
        return self._inner.gauges()

    def close(self) -> None:
        self._inner.close()

    def _load_inner(self, manifest: Manifest, folder: Path) -> Loaded:
        bare = msgspec.structs.replace(manifest, signature=None, pipeline=PipelineSpec())
        try:
            return self._inner.load(bare, folder)
        except InvalidManifest as error:
            if error.param != "signature" or manifest.signature is None:
                raise
            raise InvalidManifest(
                f"{error.message}. In a manifest with a pipeline, `signature` is what the client sees: "
                "the model itself must carry its own",
                param="signature",
            ) from None


def _own_signature(loaded: Loaded) -> Signature:
    if "predict" not in loaded.kinds:
        raise InvalidManifest(
            f"a pipeline changes tensors, this model only answers {', '.join(loaded.kinds)}: remove `pipeline`",
            param="pipeline",
        )
    if "predict_stream" in loaded.kinds:
        raise InvalidManifest(
            "a pipeline stands around one response to each prediction, this model gives several: remove `pipeline`",
            param="pipeline",
        )
    if loaded.signature is None or not loaded.signature.outputs:
        raise InvalidManifest(
            "a pipeline needs a model that tells its inputs and outputs with dtypes and shapes", param="signature"
        )
    return loaded.signature
