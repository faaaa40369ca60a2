"""Runs Hugging Face model folders with transformers on PyTorch; the map of this folder.

load: `infra/huggingface/folder` tells what the model is for, `loading` brings it to its device.
Writing: `text_model` makes the prompt and reads the answer, `batching` decodes sequences together (`joint_cache`),
`single` one at a time where that is not possible, `sampling` chooses tokens, `constraint` binds them.
Rows of text: `rows`. Speech: `speech`, `audio`.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from inference_engine.domain.errors import EngineError, InvalidManifest
from inference_engine.domain.model import Manifest
from inference_engine.domain.ports import Loaded, Sink
from inference_engine.domain.requests import Generate
from inference_engine.domain.results import Delivered
from inference_engine.domain.runtime_defaults import RuntimeDefaults
from inference_engine.domain.tensors import Tensors
from inference_engine.infra.huggingface.folder import HfFolder, Role, SentenceSettings
from inference_engine.infra.huggingface.options import adapter_folders, context_length
from inference_engine.infra.runtimes.files import artifact_path
from inference_engine.infra.runtimes.options import decode_options
from inference_engine.infra.runtimes.threads import thread_count
from inference_engine.infra.runtimes.transformers import loading
from inference_engine.infra.runtimes.transformers.options import TransformersOptions
from inference_engine.infra.runtimes.transformers.rows import ClassRows, EmbeddingRows, RerankRows, Rows
from inference_engine.infra.runtimes.transformers.speech import load_speech
from inference_engine.infra.runtimes.transformers.text_model import TextModel


class Writer(Protocol):
    """A model that generates."""

    def loaded(self, details: dict[str, Any]) -> Loaded: ...

    def generate(self, request: Generate, delivered: Delivered, sink: Sink) -> None: ...

    def tokenize(self, request: Generate) -> tuple[int, ...]: ...

    def gauges(self) -> Mapping[str, float]: ...

    def close(self) -> None: ...


class TransformersRuntime(RuntimeDefaults):
    """One model folder. What it answers follows from the manifest's `task`, or from `config.json`."""

    def __init__(self) -> None:
        self._writer: Writer | None = None
        self._rows: Rows | None = None

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        options = decode_options(manifest.options, TransformersOptions, "transformers")
        path = artifact_path(folder, manifest.artifact)
        hf = HfFolder(path if path.is_dir() else path.parent)
        role = hf.role(manifest.task)
        _check_options(options, role)
        hf.check_trust(options.trust)
        adapters = adapter_folders(options.adapters, folder)
        transformers = loading.import_transformers()
        import torch

        torch.set_num_threads(thread_count(manifest.execution.threads))
        placement = loading.place(manifest.execution.device, options, hf)
        try:
            model = self._load(role, hf, options, placement, folder, adapters)
            parameters = sum(weight.numel() for weight in model.parameters())
            details = {
                "architecture": type(model).__name__,
                "parameters": parameters,
                "device": placement.device,
                "dtype": str(model.dtype).removeprefix("torch."),
                "quantization": options.quantization or "",
                "threads": torch.get_num_threads(),
                "library": f"transformers {transformers.__version__}, torch {torch.__version__}",
            }
            answering = self._writer or self._rows
            assert answering is not None
            return answering.loaded(details)
        except EngineError:
            self.close()
            raise

    def _load(
        self,
        role: Role,
        hf: HfFolder,
        options: TransformersOptions,
        placement: loading.Placement,
        root: Path,
        adapters: dict[str, Path],
    ) -> Any:
        """Make what answers; returns the library's model."""
        if role == "transcribe":
            self._writer = speech = load_speech(hf, options, placement)
            return speech.model
        loaded = loading.load_model(hf, loading.model_class(role), options, placement)
        model = loaded.model
        if role in ("generate", "see"):
            loading.add_adapters(loaded, adapters)
            processor = loading.load_processor(hf, options) if role == "see" else None
            tokenizer = processor.tokenizer if processor else loading.load_part("AutoTokenizer", hf, options)
            self._writer = TextModel(loaded, tokenizer, processor, hf, options, root)
            return model
        tokenizer = loading.load_part("AutoTokenizer", hf, options)
        if role == "embed":
            settings = _sentence_settings(hf, options)
            limit = settings.max_tokens or _row_tokens(hf, options)
            self._rows = EmbeddingRows(model, tokenizer, min(limit, _row_tokens(hf, options)), settings)
        elif role == "rerank":
            self._rows = RerankRows(model, tokenizer, _row_tokens(hf, options))
        else:
            self._rows = ClassRows(model, tokenizer, _row_tokens(hf, options))
        return model

    def run(self, batch: Tensors) -> Tensors:
        return super().run(batch) if self._rows is None else self._rows.run(batch)

    def generate(self, request: Generate, delivered: Delivered, sink: Sink) -> None:
        if self._writer is None:
            super().generate(request, delivered, sink)
        else:
            self._writer.generate(request, delivered, sink)

    def tokenize(self, request: Generate) -> tuple[int, ...]:
        return super().tokenize(request) if self._writer is None else self._writer.tokenize(request)

    def gauges(self) -> Mapping[str, float]:
        return {} if self._writer is None else self._writer.gauges()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = self._rows = None
        gc.collect()


def _check_options(options: TransformersOptions, role: Role) -> None:
    """Raises InvalidManifest: an option that this kind of model could not follow."""
    if options.adapters and role not in ("generate", "see"):
        raise InvalidManifest("options.adapters are for models that write text", param="options.adapters")
    if options.pooling is not None and role != "embed":
        raise InvalidManifest("options.pooling is for models that embed", param="options.pooling")


def _sentence_settings(hf: HfFolder, options: TransformersOptions) -> SentenceSettings:
    found = hf.sentence_settings()
    return SentenceSettings(
        options.pooling or found.pooling,
        found.normalize if options.normalize is None else options.normalize,
        found.max_tokens,
    )


def _row_tokens(hf: HfFolder, options: TransformersOptions) -> int:
    """The most tokens of one row. Models of RoBERTa's kind count positions from behind their padding token."""
    limit = context_length(options.context_length, hf)
    if hf.config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer"):
        padding = hf.config.get("pad_token_id")
        limit = min(limit, (hf.trained_context() or limit) - (padding if isinstance(padding, int) else 1) - 1)
    return limit
