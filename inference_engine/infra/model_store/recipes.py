"""From a recipe and the files beside it to a manifest. Knows GGUF and the options of llama_cpp, writes nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from inference_engine.domain.errors import InvalidManifest, InvalidRequest, ModelLoadFailed
from inference_engine.domain.model import Conversation, Manifest
from inference_engine.domain.model_store import PERFORMANCE, Recipe
from inference_engine.infra.formats.gguf import GgufHead, read_head
from inference_engine.infra.model_facts import PROJECTOR
from inference_engine.infra.repository import shard_index
from inference_engine.infra.runtimes.llama_cpp.options import LlamaCppOptions, SamplingDefaults
from inference_engine.infra.runtimes.options import decode_options

ADAPTERS = "adapters"
"""The option of llama_cpp that names LoRA adapters."""
_GO_TEMPLATE = re.compile(r"{{-?\s*(\.|\$|(if|else|range|end|with|define|block|template|or|and|eq|not|len)\b)")
_UNLIMITED = (-1, -2)


class Cook:
    """Makes the manifest of one recipe. `folder` holds the files that the model will have."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self._recipe = recipe
        self._folder = folder
        self._notes: list[str] = []
        self._head: GgufHead | None = None

    def manifest(self) -> tuple[Manifest, list[str]]:
        """The manifest, and what had to be left out.

        Raises:
            InvalidRequest: something cannot be honoured and the recipe is strict. ModelLoadFailed: a file is damaged.
        """
        recipe = self._recipe
        base = self._base()
        if base.runtime == "llama_cpp":
            self._head = _readable(self._folder / base.artifact)
        options, conversation = dict(base.options), base.conversation
        conversation = self._adapters(options, conversation)
        self._template(options)
        conversation = self._parameters(options, conversation)
        changes = recipe.changes
        if changes.system is not None:
            conversation = msgspec.structs.replace(conversation, system=changes.system)
        if changes.messages is not None:
            conversation = msgspec.structs.replace(conversation, messages=changes.messages)
        made = msgspec.structs.replace(
            base,
            name=recipe.ref.name,
            version=recipe.ref.version,
            options=options,
            conversation=conversation,
            licence=base.licence if changes.licence is None else changes.licence,
            description=base.description if changes.description is None else changes.description,
            digests=base.digests | recipe.files | recipe.adapters,
        )
        self._check_options(made)
        return made, self._notes

    def _base(self) -> Manifest:
        if self._recipe.base is not None:
            return self._recipe.base.manifest
        models, projectors = [], []
        for name in sorted(self._recipe.files):
            head = _readable(self._folder / name) if shard_index(name) in (None, 1) else None
            kind = None if head is None else head.metadata.get("general.type")
            if head is not None and (head.architecture == "clip" or kind == "mmproj"):
                projectors.append(name)
            elif kind == "adapter":
                raise InvalidRequest(
                    f"{name} is an adapter: give it in adapters, with the model it is for", param="files"
                )
            elif head is not None:
                models.append(name)
                self._head = head
        if len(models) != 1 or len(projectors) > 1:
            raise InvalidRequest(
                "a model is one GGUF file (or its parts) and at most one projector; "
                f"here are models: {models or 'none'}, projectors: {projectors or 'none'}",
                param="files",
            )
        embeds = self._head is not None and self._head.of_architecture("pooling_type") is not None
        return Manifest(
            name=self._recipe.ref.name,
            version=self._recipe.ref.version,
            runtime="llama_cpp",
            artifact=models[0],
            task="feature-extraction" if embeds else "text-generation",
            options={PROJECTOR: projectors[0]} if projectors else {},
        )

    def _adapters(self, options: dict[str, Any], conversation: Conversation) -> Conversation:
        """All can be chosen as `model@name`; the first one answers where none is named, as its publisher means it."""
        if not self._recipe.adapters:
            return conversation
        for name in self._recipe.adapters:
            _readable(self._folder / name)
        names = {_adapter_name(file): file for file in self._recipe.adapters}
        options[ADAPTERS] = options.get(ADAPTERS, {}) | names
        return msgspec.structs.replace(conversation, adapter=next(iter(names)))

    def _template(self, options: dict[str, Any]) -> None:
        template = self._recipe.changes.template
        if not template:
            return
        if not _GO_TEMPLATE.search(template):
            if self._head is None:
                self._refuse("template", "only GGUF models take a chat template")
            else:
                options["chat_template"] = template
            return
        own = self._head is not None and "tokenizer.chat_template" in self._head.metadata
        instead = "the model's own is used" if own else "the model has none of its own and so only continues texts"
        self._refuse(
            "template", f"it is written for Go; here chat templates are written in Jinja and get `messages`: {instead}"
        )

    def _parameters(self, options: dict[str, Any], conversation: Conversation) -> Conversation:
        sampling = dict(options.get("sampling", {}))
        for name, value in self._recipe.changes.parameters.items():
            if name == "stop":
                stop = (value,) if isinstance(value, str) else tuple(value)
                conversation = msgspec.structs.replace(conversation, stop=stop)
            elif name == "num_predict":
                limit = None if value in _UNLIMITED else value
                conversation = msgspec.structs.replace(conversation, max_tokens=limit)
            elif name == "num_ctx" and self._head is not None:
                self._context(options, value)
            elif name in SamplingDefaults.__struct_fields__ and self._head is not None:
                sampling[name] = value
            elif name not in PERFORMANCE:
                self._refuse(f"parameters.{name}", "it is not supported")
        if sampling:
            options["sampling"] = sampling
        return conversation

    def _context(self, options: dict[str, Any], wanted: Any) -> None:
        trained = self._head.of_architecture("context_length") if self._head else None
        if isinstance(trained, int) and isinstance(wanted, int) and wanted > trained:
            self._refuse("parameters.num_ctx", f"it is {wanted}, the model was trained for {trained}")
            wanted = trained
        options["context_length"] = wanted

    def _refuse(self, field: str, why: str) -> None:
        if not self._recipe.lenient:
            raise InvalidRequest(f"{field} cannot be honoured: {why}", param=field)
        self._notes.append(f"note: {field} is left out: {why}")

    def _check_options(self, manifest: Manifest) -> None:
        if manifest.runtime != "llama_cpp":
            return
        try:
            decode_options(manifest.options, LlamaCppOptions, "llama_cpp")
        except InvalidManifest as error:
            raise InvalidRequest(_in_words_of_the_recipe(error.message), param=error.param) from None


def _adapter_name(file: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(file).stem).strip("-_") or "adapter"


def _in_words_of_the_recipe(message: str) -> str:
    for ours, theirs in {
        f"options.{ADAPTERS}": "adapters",
        "options.sampling": "parameters",
        "options.context_length": "parameters.num_ctx",
        "options.chat_template": "template",
    }.items():
        message = message.replace(ours, theirs)
    return message


def _readable(file: Path) -> GgufHead:
    """Raises `ModelLoadFailed` without the place where the file happens to lie."""
    try:
        return read_head(file)
    except ModelLoadFailed as error:
        raise ModelLoadFailed(error.message.replace(str(file), file.name), param="files") from None
