"""Reads a Hugging Face model folder without loading a library: what the model is for, and whether it may be loaded.

Layout: https://huggingface.co/docs/transformers/main_classes/configuration ; sentence-transformers adds `modules.json`
and a folder for each module.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from inference_engine.domain.errors import InvalidManifest, ModelLoadFailed

CONFIG_NAME = "config.json"
Role = Literal["generate", "see", "embed", "rerank", "classify", "transcribe"]
Trust = Literal["pickle", "code"]
Pooling = Literal["mean", "cls", "last"]

_ROLES: dict[str, Role] = {
    "text-generation": "generate",
    "image-text-to-text": "see",
    "feature-extraction": "embed",
    "sentence-similarity": "embed",
    "text-ranking": "rerank",
    "text-classification": "classify",
    "sentiment-analysis": "classify",
    "automatic-speech-recognition": "transcribe",
}
_TASKS: dict[Role, str] = {
    "generate": "text-generation",
    "see": "image-text-to-text",
    "embed": "feature-extraction",
    "rerank": "text-ranking",
    "classify": "text-classification",
    "transcribe": "automatic-speech-recognition",
}
_MAX_JSON_BYTES = 16 << 20


@dataclass(frozen=True)
class SentenceSettings:
    """How a sentence-transformers model makes one vector of its tokens' vectors."""

    pooling: Pooling
    normalize: bool
    max_tokens: int | None


class HfFolder:
    """One folder with a `config.json`. Files are read when asked for; nothing of the model's code is run."""

    def __init__(self, path: Path) -> None:
        """Raises ModelLoadFailed: `config.json` is missing or says not what the model is."""
        self.path = path
        self.config = read_json(path / CONFIG_NAME)
        if not isinstance(self.config.get("model_type"), str):
            raise ModelLoadFailed(
                f"{path / CONFIG_NAME} names no model_type: it is not the configuration of a Hugging Face model",
                param="artifact",
            )

    @property
    def architecture(self) -> str:
        """The class it was saved from, as `LlamaForCausalLM`; empty where the configuration does not tell."""
        named = self.config.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else ""

    def role(self, task: str) -> Role:
        """What the model does: by the manifest's `task`, else by its files.

        Raises:
            InvalidManifest: the task is none that is served from such a folder, or none is given and none can be told.
        """
        if task:
            role = _ROLES.get(task)
            if role is None:
                raise InvalidManifest(
                    f"task {task!r} is not served from a Hugging Face folder; served are: {', '.join(_ROLES)}",
                    param="task",
                )
            return role
        found = self._guessed_role()
        if found is None:
            raise InvalidManifest(
                f"{self.path / CONFIG_NAME} names the architecture {self.architecture or 'nowhere'!r}, which does not "
                f"tell what the model is for: set task in model.yaml to one of: {', '.join(_ROLES)}",
                param="task",
            )
        return found

    def _guessed_role(self) -> Role | None:
        name = self.architecture
        if (self.path / "modules.json").is_file():
            return "embed"
        if name.endswith(("ForCausalLM", "LMHeadModel")):
            return "generate"
        if name.endswith("ForSequenceClassification"):
            return "rerank" if self._labels() == 1 else "classify"
        if name.endswith(("ForCTC", "ForSpeechSeq2Seq")) or self.config["model_type"] == "whisper":
            return "transcribe"
        if name.endswith("ForConditionalGeneration") and "vision_config" in self.config:
            return "see"
        return "embed" if name.endswith("Model") else None

    def _labels(self) -> int:
        labels = self.config.get("id2label")
        return len(labels) if isinstance(labels, dict) else int(self.config.get("num_labels", 2))

    @property
    def task(self) -> str:
        """The Hugging Face word for what it does; "" where the files do not tell."""
        role = self._guessed_role()
        return _TASKS[role] if role else ""

    def check_trust(self, trust: Collection[str]) -> bool:
        """Whether pickled weights must be read; SafeTensors are taken wherever they are there.

        Raises:
            ModelLoadFailed: there are no weights, or only pickled ones, or the model needs code of its own, and
                `trust` does not name it.
        """
        if any(self.path.glob("*.safetensors")):
            return False
        pickled = next(iter(sorted([*self.path.glob("pytorch_model*.bin"), *self.path.glob("*.pt")])), None)
        if pickled is None:
            raise ModelLoadFailed(f"{self.path} holds no weights: model.safetensors is missing", param="artifact")
        if "pickle" not in trust:
            raise ModelLoadFailed(
                f"{pickled} is a pickle, which can run any code when it is read: convert the weights to SafeTensors, "
                "or, if you trust who made them, set options.trust: [pickle] in model.yaml",
                param="options.trust",
            )
        return True

    @property
    def has_code(self) -> bool:
        """Whether the folder brings Python code of its own for the model (`auto_map`)."""
        return bool(self.config.get("auto_map"))

    def text_config(self) -> dict[str, Any]:
        """The part of the configuration that is about text: its own section in a model that also sees or hears."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config

    def trained_context(self) -> int | None:
        """The most tokens the model was trained for, or None."""
        for source in (self.text_config(), self.config):
            for key in ("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx"):
                value = source.get(key)
                if isinstance(value, int) and value > 0:
                    return value
        return None

    def generation_defaults(self) -> dict[str, Any]:
        """`generation_config.json`, or nothing."""
        path = self.path / "generation_config.json"
        return read_json(path) if path.is_file() else {}

    def sentence_settings(self) -> SentenceSettings:
        """Pooling as sentence-transformers' files say; without them the mean, without normalisation.

        Raises:
            ModelLoadFailed: a module or a pooling that is not computed here: the vectors would be others.
        """
        modules = self.path / "modules.json"
        if not modules.is_file():
            return SentenceSettings("mean", normalize=False, max_tokens=None)
        pooling: Pooling = "mean"
        normalize = False
        for module in _listed(modules):
            kind = str(module.get("type", "")).rpartition(".")[2]
            if kind == "Pooling":
                pooling = _pooling(self.path / str(module.get("path", "")) / CONFIG_NAME)
            elif kind == "Normalize":
                normalize = True
            elif kind != "Transformer":
                raise ModelLoadFailed(f"{modules} has a module {kind!r}, which is not computed here", param="artifact")
        bert = self.path / "sentence_bert_config.json"
        limit = read_json(bert).get("max_seq_length") if bert.is_file() else None
        return SentenceSettings(pooling, normalize, limit if isinstance(limit, int) and limit > 0 else None)


def _pooling(path: Path) -> Pooling:
    config = read_json(path)
    named = config.get("pooling_mode")
    keys = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}
    known: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last", "last": "last"}
    if isinstance(named, str) and named in known:
        return known[named]
    active = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    chosen = next((known[name] for name, key in keys.items() if active == [key]), None)
    if chosen is None:
        raise ModelLoadFailed(
            f"{path} wants the pooling {', '.join(active) or named!r}; computed are: {', '.join(keys.values())}",
            param="artifact",
        )
    return chosen


def _listed(path: Path) -> list[dict[str, Any]]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelLoadFailed(f"{path} cannot be read: {error}", param="artifact") from None
    return [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of reasonable size.

    Raises:
        ModelLoadFailed: the file is missing, too large, or holds no JSON object.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ModelLoadFailed(f"{path} is larger than {_MAX_JSON_BYTES >> 20} MiB", param="artifact")
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelLoadFailed(f"{path} cannot be read: {error}", param="artifact") from None
    if not isinstance(data, dict):
        raise ModelLoadFailed(f"{path} must hold a JSON object", param="artifact")
    return data
