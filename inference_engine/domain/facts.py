"""What can be told of a stored model without loading it, and the port that reads it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol

import msgspec

from inference_engine.domain.ports import StoredModel


class ModelFacts(msgspec.Struct, frozen=True):
    """Facts from a model's files. Empty and 0 mean that the files do not say.

    `digest` (hexadecimal SHA-256) changes whenever the manifest or a file does. `capabilities` are in Ollama's words,
    as far as the files show them; `metadata` is the format's own, long arrays are left out. `defaults` are the
    manifest's sampling values and limits under the names that Ollama gives them.
    """

    digest: str
    modified_at: datetime
    format: str = ""
    family: str = ""
    parameters: int = 0
    quantization: str = ""
    context_length: int = 0
    template: str = ""
    capabilities: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    projector: dict[str, Any] = {}
    defaults: dict[str, Any] = {}


class FactsReader(Protocol):
    def read(self, model: StoredModel) -> ModelFacts:
        """Blocking; remembered as long as the files stay the same. A damaged file gives fewer facts, no error."""
