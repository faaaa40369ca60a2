"""The KV caches of several sequences as one, so that a decode step computes them together. Knows tensors, no request.

A sequence is padded on its left to the longest one; the attention mask keeps the padding out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_PROBES = ((3, 1, 4, 1, 5, 9, 2, 6, 5), (2, 7, 1, 8), (1, 6, 1, 8, 0, 3))
_TOLERANCE = {"float32": 0.02}
_ROUGH_TOLERANCE = 0.3


class JointCache:
    """`lengths` are the tokens each sequence has in the cache, in the order of its rows."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = None
        self.lengths: list[int] = []

    def join(self, cache: Any, length: int) -> None:
        """Add a sequence of `length` tokens as the last row; `cache` becomes this one's own."""
        if self._cache is None:
            self._cache = cache
        else:
            width = max(*self.lengths, length)
            for mine, theirs in zip(self._cache.layers, cache.layers, strict=True):
                mine.keys = _joined(mine.keys, theirs.keys, width)
                mine.values = _joined(mine.values, theirs.values, width)
        self.lengths.append(length)

    def keep(self, rows: Sequence[int]) -> None:
        """Take out all rows but these, and the padding that nobody needs any more."""
        if len(rows) == len(self.lengths):
            return
        self.lengths = [self.lengths[row] for row in rows]
        if not rows:
            self._cache = None
            return
        import torch

        index = torch.tensor(list(rows), device=self._model.device)
        width = max(self.lengths)
        for layer in self._cache.layers:
            layer.keys = layer.keys[index][:, :, -width:].contiguous()
            layer.values = layer.values[index][:, :, -width:].contiguous()

    def step(self, tokens: Sequence[int]) -> Any:
        """Compute one more token of each row; the logits after them, of shape [rows, vocabulary]."""
        import torch

        device = self._model.device
        lengths = torch.tensor(self.lengths, device=device)
        width = max(self.lengths) + 1
        mask = torch.arange(width, device=device)[None, :] >= (width - 1 - lengths)[:, None]
        output = self._model(
            input_ids=torch.tensor([[token] for token in tokens], device=device),
            attention_mask=mask.long(),
            position_ids=lengths[:, None],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.lengths = [length + 1 for length in self.lengths]
        return output.logits[:, -1]


def _joined(mine: Any, theirs: Any, width: int) -> Any:
    import torch

    return torch.cat([_padded(mine, width), _padded(theirs, width)])


def _padded(states: Any, width: int) -> Any:
    """`states` [rows, heads, tokens, size] with zeros before its tokens."""
    import torch

    return torch.nn.functional.pad(states, (0, 0, width - states.shape[-2], 0))


def prefill(model: Any, ids: Sequence[int], cache: Any, done: int) -> Any:
    """Compute a chunk of one prompt after `done` tokens; the logits after it, of shape [1, vocabulary]."""
    import torch

    tokens = torch.tensor([list(ids)], device=model.device)
    positions = torch.arange(done, done + len(ids), device=model.device)[None, :]
    output = model(input_ids=tokens, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return output.logits[:, -1]


def why_not_joint(model: Any, vocabulary: int) -> str:
    """Why this model's sequences cannot share a `JointCache`; "" where they can. Tried, not assumed.

    The model continues three short sequences alone and together, and must give the same logits.
    """
    import torch

    probes = [[token % vocabulary for token in probe] for probe in _PROBES]
    try:
        with torch.inference_mode():
            alone = [model(input_ids=torch.tensor([ids], device=model.device)).logits[0, -1].float() for ids in probes]
            together = _together(model, probes)
    except Exception as error:  # whatever the library raises means: not like this
        return f"a trial failed: {type(error).__name__}: {error}"
    if together is None:
        return "its cache is not a plain one of keys and values"
    tolerance = _TOLERANCE.get(str(model.dtype).removeprefix("torch."), _ROUGH_TOLERANCE)
    for one, other in zip(alone, together.float(), strict=True):
        if not float((one - other).abs().max()) < tolerance * (float(one.std()) or 1.0):
            return "its answers change when sequences are computed together"
    return ""


def _together(model: Any, probes: list[list[int]]) -> Any:
    """The logits after each of `probes`, the last tokens computed together; None where caches are of other kinds."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    joint = JointCache(model)
    for ids in probes:
        cache = DynamicCache()
        half = len(ids) // 2
        prefill(model, ids[:half], cache, 0)
        prefill(model, ids[half:-1], cache, half)
        if not cache.layers or not all(type(layer) is DynamicLayer and layer.is_initialized for layer in cache.layers):
            return None
        joint.join(cache, len(ids) - 1)
    return joint.step([ids[-1] for ids in probes])
