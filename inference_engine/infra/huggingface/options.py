"""Options that runtimes on a Hugging Face folder share, and what they come to for a given folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec

from inference_engine.domain.errors import InvalidManifest, ModelLoadFailed
from inference_engine.domain.requests import Sampling
from inference_engine.infra.huggingface.folder import HfFolder
from inference_engine.infra.runtimes.files import file_inside

DEFAULT_CONTEXT = 8192


class SamplingDefaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is taken where a request leaves a sampling value open; None leaves it to `generation_config.json`."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=5)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    repeat_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] | None = None

    def value(self, sampling: Sampling, config: dict[str, Any], name: str, default: float) -> float:
        """A sampling value: the request's, else the option, else `generation_config.json`'s (`config`), else `default`.

        A model that is said to sample not (`do_sample: false`) answers greedily unless it is told otherwise.
        """
        for source in (getattr(sampling, name), getattr(self, name, None)):
            if source is not None:
                return float(source)
        if name == "temperature" and config.get("do_sample") is False:
            return 0.0
        found = config.get("repetition_penalty" if name == "repeat_penalty" else name)
        return default if found is None else float(found)


def context_length(wanted: int | None, folder: HfFolder) -> int:
    """Tokens one request may use: the option, else the trained length within reason.

    Raises:
        InvalidManifest: the option is more than the model was trained for.
    """
    trained = folder.trained_context()
    if wanted is not None and trained is not None and wanted > trained:
        raise InvalidManifest(
            f"options.context_length is {wanted}, this model was trained for {trained}: lower it",
            param="options.context_length",
        )
    return wanted or min(trained or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def chat_template(value: str | None, root: Path, *parts: Any) -> str | None:
    """The text of the template: the option's, or a file's in `root`, or what the first of `parts` has; None: none.

    Raises:
        InvalidManifest: the option names a file that is not text. ModelLoadFailed: it is not there.
    """
    if value is None:
        return next((own for own in map(_own_template, parts) if own), None)
    if "{" in value:
        return value
    path = file_inside(root, value, "options.chat_template")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidManifest(f"{path} cannot be read as a template: {error}", param="options.chat_template") from None


def _own_template(part: Any) -> str | None:
    template = getattr(part, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None


def end_tokens(folder: HfFolder, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer, from all places that name one."""
    places = (folder.generation_defaults(), folder.text_config())
    ends: set[int] = set()
    for value in (*(place.get("eos_token_id") for place in places), tokenizer.eos_token_id):
        ends |= {int(token) for token in (value if isinstance(value, list) else [value]) if token is not None}
    return frozenset(ends)


def adapter_folders(adapters: dict[str, str], root: Path) -> dict[str, Path]:
    """The folders of LoRA adapters by name; checked, not loaded.

    Raises:
        InvalidManifest: a folder leads out of the model's. ModelLoadFailed: it holds no LoRA adapter in SafeTensors.
    """
    found: dict[str, Path] = {}
    for name, where in adapters.items():
        field = f"options.adapters.{name}"
        path = file_inside(root, where, field)
        if not (path / "adapter_config.json").is_file():
            raise ModelLoadFailed(f"{path} holds no adapter_config.json: it is no PEFT adapter", param=field)
        if not (path / "adapter_model.safetensors").is_file():
            raise ModelLoadFailed(
                f"{path} holds no adapter_model.safetensors: adapters are read from SafeTensors only", param=field
            )
        found[name] = path
    return found
