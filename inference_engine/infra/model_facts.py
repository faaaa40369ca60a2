"""Reads what a model's files tell of it: a `FactsReader` over GGUF heads. Loads no model."""

from __future__ import annotations

import hashlib
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from inference_engine.domain.errors import ModelLoadFailed
from inference_engine.domain.facts import ModelFacts
from inference_engine.domain.model import Manifest
from inference_engine.domain.ports import StoredModel
from inference_engine.infra.manifest_files import MANIFEST_NAME, artifact_file

if TYPE_CHECKING:  # a server starts without them
    from inference_engine.infra.formats.gguf import GgufHead

PROJECTOR = "mmproj"
"""The option of llama_cpp that names the projector of a vision model."""
# llama.cpp's numbers for the mixture of types in a file; https://github.com/ggml-org/llama.cpp/blob/master/include/llama.h
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip


class FileFacts:
    """A `FactsReader`. Thread-safe."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, str, int, int], ModelFacts] = {}
        self._reading = threading.Lock()

    def read(self, model: StoredModel) -> ModelFacts:
        artifact = model.folder / artifact_file(model.manifest)
        try:
            return self._remembered(model, artifact)
        except OSError:  # gone since the folder was read: there is nothing to tell
            return ModelFacts("", datetime.fromtimestamp(0, UTC))

    def _remembered(self, model: StoredModel, artifact: Path) -> ModelFacts:
        stat = artifact.stat()
        manifest = hashlib.sha256(msgspec.json.encode(model.manifest, order="sorted")).hexdigest()
        key = (artifact, manifest, stat.st_size, stat.st_mtime_ns)
        with self._reading:
            if key not in self._known:
                self._known[key] = _read(model, artifact, ":".join(map(str, key[1:])))
            return self._known[key]


def _read(model: StoredModel, artifact: Path, content: str) -> ModelFacts:
    manifest = model.manifest
    described = model.folder / MANIFEST_NAME
    changed = (described if described.is_file() and not model.assumed else artifact).stat().st_mtime
    facts = ModelFacts(
        digest=hashlib.sha256(content.encode()).hexdigest(),
        modified_at=datetime.fromtimestamp(changed, UTC),
        format=artifact.suffix.removeprefix(".").lower(),
        family=manifest.runtime,
        capabilities=_declared(manifest),
        defaults=_defaults(manifest),
    )
    if facts.format != "gguf":
        return facts
    from inference_engine.infra.formats.gguf import read_head

    try:
        head = read_head(artifact)
    except ModelLoadFailed:  # told when it is loaded
        return facts
    return _of_gguf(facts, head, manifest, model.folder)


def _of_gguf(facts: ModelFacts, head: GgufHead, manifest: Manifest, folder: Path) -> ModelFacts:
    trained = head.of_architecture("context_length")
    own = manifest.options.get("chat_template")
    template = own if isinstance(own, str) else head.metadata.get("tokenizer.chat_template", "")
    file_type = head.metadata.get("general.file_type")
    return msgspec.structs.replace(
        facts,
        family=head.architecture,
        parameters=head.parameters,
        quantization=_FILE_TYPES.get(file_type, "") if isinstance(file_type, int) else "",
        context_length=trained if isinstance(trained, int) else 0,
        template=str(template),
        capabilities=tuple(dict.fromkeys((*_shown(head, str(template), manifest), *facts.capabilities))),
        metadata={
            key: value
            for key, value in head.metadata.items()
            if not key.endswith("#length") and key != "tokenizer.chat_template"
        }
        | {"general.parameter_count": head.parameters},
        projector=_projector(manifest, folder),
    )


def _shown(head: GgufHead, template: str, manifest: Manifest) -> list[str]:
    """What a GGUF file shows of a model's abilities."""
    if head.of_architecture("pooling_type") is not None:
        return ["embedding"]
    found = ["completion"]
    if "tools" in template:
        found.append("tools")
    if "<think>" in template or "enable_thinking" in template or "reasoning_content" in template:
        found.append("thinking")
    if any(key in head.metadata for key in ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id")):
        found.append("insert")
    if PROJECTOR in manifest.options:
        found.append("vision")
    return found


_WORDS = {
    "chat": "completion", "completion": "completion", "complete": "completion", "tools": "tools",
    "embed": "embedding", "embedding": "embedding", "embeddings": "embedding", "vision": "vision", "image": "vision",
    "audio": "audio", "thinking": "thinking", "reasoning": "thinking", "insert": "insert", "infill": "insert",
}  # fmt: skip


def _declared(manifest: Manifest) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_WORDS[word] for word in manifest.capabilities if word in _WORDS))


def _defaults(manifest: Manifest) -> dict[str, Any]:
    sampling = manifest.options.get("sampling")
    found: dict[str, Any] = dict(sampling) if isinstance(sampling, dict) else {}
    if "context_length" in manifest.options:
        found["num_ctx"] = manifest.options["context_length"]
    if manifest.conversation.stop:
        found["stop"] = list(manifest.conversation.stop)
    if manifest.conversation.max_tokens is not None:
        found["num_predict"] = manifest.conversation.max_tokens
    return found


def _projector(manifest: Manifest, folder: Path) -> dict[str, Any]:
    from inference_engine.infra.formats.gguf import read_head

    name = manifest.options.get(PROJECTOR)
    if not isinstance(name, str):
        return {}
    try:
        return read_head(folder / name).metadata
    except ModelLoadFailed:
        return {}
