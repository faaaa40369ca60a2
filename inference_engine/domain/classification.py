"""The best classes of an output instead of the output, as the Open Inference Protocol's extension words them."""

from __future__ import annotations

import numpy as np

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.model import Signature
from inference_engine.domain.tensors import Array


def classified(name: str, array: Array, count: int, signature: Signature | None) -> Array:
    """The `count` largest values of each row as `value:index` or `value:index:label`, best first; BYTES.

    A model that batches has the shape [rows, count] in its answer, another one [count]. The labels are those of the
    signature.

    Raises:
        InvalidRequest: the output holds no numbers.
    """
    if array.dtype.kind not in "iuf":
        raise InvalidRequest(
            f"output {name!r} is {array.dtype.name}: classification needs numbers, leave it out", param=name
        )
    batched = signature is not None and signature.batched
    rows = array.reshape(array.shape[0], -1) if batched else array.reshape(1, -1)
    specs = signature.outputs if signature else ()
    labels = next((spec.labels for spec in specs if spec.name == name), ())
    count = min(count, rows.shape[1])
    found = np.empty((rows.shape[0], count), object)
    for row, values in enumerate(rows):
        falling = -np.where(np.isnan(values), -np.inf, values) if array.dtype.kind == "f" else ~values
        best = np.argsort(falling, kind="stable")[:count]
        for place, index in enumerate(best.tolist()):
            found[row, place] = _word(values[index], index, labels).encode()
    return found if batched else found[0]


def _word(value: np.generic, index: int, labels: tuple[str, ...]) -> str:
    number = f"{value.item():f}" if isinstance(value, np.floating) else str(value.item())
    return f"{number}:{index}:{labels[index]}" if index < len(labels) else f"{number}:{index}"
