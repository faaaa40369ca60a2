"""Which requests are equal, which are worth remembering, and how their results are kept. Computes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from inference_engine.domain.model import Manifest, ModelRef
from inference_engine.domain.requests import Call, Generate, Kind
from inference_engine.domain.results import Delta
from inference_engine.domain.tensors import Tensors
from inference_engine.services.reuse import Codec, Key

_encoder = msgspec.msgpack.Encoder()
_deltas = msgspec.msgpack.Decoder(list[Delta])


def key_of(kind: Kind, ref: ModelRef, request: Generate | Tensors, call: Call) -> Key:
    """The key of a request. Every value counts, names of fields and their order in JSON schemas too: what the model
    sees differs with them. Never equal for two tenants."""
    digest = hashlib.sha256(kind.encode())
    if isinstance(request, Mapping):
        for name in sorted(request):
            array = request[name]
            values = array.ravel().tolist() if array.dtype.kind in "OSU" else np.ascontiguousarray(array).data.cast("B")
            digest.update(_encoder.encode((name, array.dtype.str, array.shape)))
            digest.update(_encoder.encode(values) if isinstance(values, list) else values)
    else:
        digest.update(_encoder.encode(request))
    return Key(call.principal.tenant, ref, digest.digest())


def reuses_generation(manifest: Manifest, request: Generate, call: Call) -> bool:
    """True when an answer that was made before may be given again: it would be the same, or the client asks for it."""
    if not reuses_texts(manifest, call):
        return False
    return call.reuse == "always" or deterministic(request, manifest)


def reuses_texts(manifest: Manifest, call: Call) -> bool:
    """As `reuses_generation`, for embeddings and rankings, which are always the same."""
    return call.reuse != "never" and manifest.execution.cache is not False


def reuses_prediction(manifest: Manifest, call: Call) -> bool:
    """As `reuses_generation`, for predictions: only where model or client ask for it, because most are cheap."""
    return reuses_texts(manifest, call) and (call.reuse == "always" or manifest.execution.cache is True)


def deterministic(request: Generate, manifest: Manifest) -> bool:
    """True when the same request gives the same answer: greedy decoding, or a seed. The manifest may make the model
    greedy (`options: {sampling: {temperature: 0}}`)."""
    sampling, given = request.sampling, manifest.options.get("sampling")
    defaults = given if isinstance(given, dict) else {}
    temperature = defaults.get("temperature") if sampling.temperature is None else sampling.temperature
    top_k = defaults.get("top_k") if sampling.top_k is None else sampling.top_k
    return sampling.seed is not None or temperature == 0 or top_k == 1


def _pack_deltas(deltas: list[Any]) -> tuple[bytes, int]:
    packed = _encoder.encode(deltas)
    return packed, len(packed)


def _pack_outputs(items: list[Any]) -> tuple[list[dict[str, Any]], int]:
    """Own copies, because outputs may be views of memory that is to be given back; read-only, because many get them."""
    copies: list[dict[str, Any]] = []
    size = 0
    for outputs in items:
        copy = {name: np.array(array) for name, array in outputs.items()}
        for array in copy.values():
            array.flags.writeable = False
            size += array.nbytes if array.dtype.kind not in "OSU" else sum(map(len, array.ravel())) + array.nbytes
        copies.append(copy)
    return copies, size


DELTAS = Codec(_pack_deltas, _deltas.decode)
"""Generations are kept as the bytes of their deltas."""
OUTPUTS = Codec(_pack_outputs, list)
"""Tensors are kept as they are, one dictionary of outputs."""
