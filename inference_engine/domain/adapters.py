"""LoRA adapters as a manifest names them: `options.adapters` maps each name to what its runtime loads."""

from __future__ import annotations

from inference_engine.domain.model import Manifest


def adapter_names(manifest: Manifest) -> tuple[str, ...]:
    """The adapters a request may choose with `model@name`, in the manifest's order; known before the model is loaded.

    What is not a mapping is no adapter here: the runtime refuses it when the model is loaded.
    """
    adapters = manifest.options.get("adapters")
    return tuple(str(name) for name in adapters) if isinstance(adapters, dict) else ()
