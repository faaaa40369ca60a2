"""A model of steps alone: gives back what it gets, and the pipeline around it does all the work. Knows no library."""

from __future__ import annotations

from pathlib import Path

import msgspec

from inference_engine.domain.errors import InvalidManifest
from inference_engine.domain.model import Manifest, Signature, TensorSpec
from inference_engine.domain.ports import Loaded
from inference_engine.domain.runtime_defaults import RuntimeDefaults
from inference_engine.domain.tensors import Tensors
from inference_engine.infra.manifest_files import DTYPES
from inference_engine.infra.runtimes.options import decode_options


class IdentityOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`options` of an identity model.

    tensors: what stands between the steps of `preprocess` and those of `postprocess`, each {name, dtype, shape}.
    """

    tensors: tuple[TensorSpec, ...] = ()


class IdentityRuntime(RuntimeDefaults):
    """Its outputs are its inputs, under the same names."""

    def load(self, manifest: Manifest, folder: Path) -> Loaded:  # noqa: ARG002  there is no file
        tensors = decode_options(manifest.options, IdentityOptions, "identity").tensors
        if not tensors and manifest.signature is not None:
            tensors = manifest.signature.inputs
        if not tensors:
            raise InvalidManifest(
                "options.tensors is missing: an identity model says what stands between its steps, as "
                "[{name: image, dtype: float32, shape: [-1, 3, 224, 224]}]",
                param="options.tensors",
            )
        _check(tensors)
        signature = Signature(tensors, tensors)
        declared = manifest.signature
        if declared is not None and (declared.inputs != tensors or declared.outputs not in ((), tensors)):
            raise InvalidManifest(
                "an identity model without steps gives what it gets: signature.outputs must equal signature.inputs",
                param="signature",
            )
        return Loaded(kinds=("predict",), signature=signature)

    def run(self, batch: Tensors) -> Tensors:
        return dict(batch)

    def close(self) -> None:
        """There is nothing to free."""


def _check(tensors: tuple[TensorSpec, ...]) -> None:
    names = [spec.name for spec in tensors]
    for index, spec in enumerate(tensors):
        place = f"options.tensors[{index}]"
        if not spec.name or names.count(spec.name) > 1:
            raise InvalidManifest(f"{place}.name: {spec.name!r} is empty or given twice", param=f"{place}.name")
        if spec.dtype not in DTYPES:
            raise InvalidManifest(f"{place}.dtype: {spec.dtype!r} is none of {', '.join(DTYPES)}", param=place)
        if any(size < -1 for size in spec.shape):
            raise InvalidManifest(f"{place}.shape: {list(spec.shape)}: sizes are 0 or more, or -1 for any", param=place)
