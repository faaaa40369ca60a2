"""Generation one sequence at a time through the library's own `generate`, for models that cannot be batched here.

Those are models that see, and models whose cache is not one of keys and values alone. Tokens are chosen by the same
sampler as in `batching`: it stands in as a logits processor that leaves the library one token to take.
"""

from __future__ import annotations

import threading
from typing import Any

from inference_engine.infra.runtimes.transformers.sequences import SequenceRun, Switch, failed


class SingleFile:
    """Computes a sequence in the thread that starts it; others wait their turn."""

    def __init__(self, model: Any, switch: Switch) -> None:
        self._model = model
        self._switch = switch
        self._turn = threading.Lock()

    def start(self, run: SequenceRun) -> None:
        """Let `run` be computed in a thread of its own; its events tell how it goes."""
        threading.Thread(target=self._run, args=(run,), name="generate", daemon=True).start()

    def close(self) -> None:
        self._turn.acquire()  # waits for the one that is running; none starts after it

    def gauges(self) -> dict[str, float]:
        return {"sequences_running": float(self._turn.locked())}

    def _run(self, run: SequenceRun) -> None:
        with self._turn:
            try:
                self._switch(run.adapter)
                if not run.cancelled:
                    generate(self._model, run)
                run.end(None)
            except Exception as error:  # whatever the library raises: this sequence alone is at fault
                run.end(failed(error))


def generate(model: Any, run: SequenceRun) -> None:
    """Compute `run` to its end with the library's `generate`. Blocking.

    Where `run.inputs` holds `decoder_input_ids`, those stand for its ids: the model has an encoder.
    """
    import torch
    from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList

    def chooser(_ids: Any, scores: Any) -> Any:
        token = run.step(scores[0])
        only = torch.full_like(scores, float("-inf"))
        only[0, token] = 0.0
        return only

    def stop(ids: Any, _scores: Any, **_kwargs: Any) -> Any:
        return torch.full((ids.shape[0],), run.ended or run.cancelled, device=ids.device)

    inputs = dict(run.inputs)
    if "decoder_input_ids" not in inputs:
        inputs["input_ids"] = torch.tensor([run.ids], device=model.device)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        for name in [name for name in inputs if name.endswith("token_type_ids")]:  # delivered tokens are plain text
            missing = len(run.ids) - inputs[name].shape[-1]
            inputs[name] = torch.nn.functional.pad(inputs[name], (0, missing))
    with torch.inference_mode():
        GenerationMixin.generate(
            model,
            **inputs,
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=run.limit, eos_token_id=None, pad_token_id=0, use_cache=True
            ),
            logits_processor=LogitsProcessorList([chooser]),
            stopping_criteria=StoppingCriteriaList([stop]),
        )
