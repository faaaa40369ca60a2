"""LoRA adapters on one base: checked before llama.cpp sees them, loaded with the base, chosen by each request.

Two traps of llama.cpp. A request that names no adapter runs with those of the start, so every request names them all.
A slot forgets its prompt when the adapters change, but the cache of past prompts in RAM does not know under which
adapter a prompt was computed and would hand it to another: with adapters that cache is off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inference_engine.domain.errors import InvalidManifest, InvalidRequest, ModelLoadFailed
from inference_engine.domain.model import check_name
from inference_engine.infra.formats.gguf import GgufHead, read_head
from inference_engine.infra.runtimes.files import file_inside
from inference_engine.infra.runtimes.llama_cpp.options import AdapterOptions, LlamaCppOptions

_ACTIVATED = "adapter.alora.invocation_tokens"


class Adapters:
    """The adapters of one model, in the order llama.cpp numbers them."""

    def __init__(self, scales: dict[str, float]) -> None:
        self._scales = scales

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._scales)

    def chosen(self, adapter: str | None) -> dict[str, Any]:
        """The fields of a request that answers with `adapter` alone, or with the bare base.

        Raises:
            InvalidRequest: there is no such adapter.
        """
        if adapter is not None and adapter not in self._scales:
            known = ", ".join(self._scales) or "none"
            raise InvalidRequest(f"there is no adapter {adapter!r}; known adapters: {known}", param="model")
        if not self._scales:
            return {}
        scales = [scale if name == adapter else 0.0 for name, scale in self._scales.items()]
        return {"lora": [{"id": index, "scale": scale} for index, scale in enumerate(scales)]}


def load_adapters(params: Any, options: LlamaCppOptions, base: GgufHead, folder: Path) -> Adapters:
    """Check the manifest's adapters against `base` and have `params` load them, not applied to anything yet.

    Raises:
        InvalidManifest: a name is not legal or leads out of the folder.
        ModelLoadFailed: a file is missing, damaged, no LoRA adapter, or made for another base.
    """
    import xllamacpp

    scales: dict[str, float] = {}
    infos = []
    for name, given in options.adapters.items():
        field = f"options.adapters.{name}"
        chosen = AdapterOptions(given) if isinstance(given, str) else given
        _check_name(name, field)
        path = file_inside(folder, chosen.file, field)
        _check(path, base, field)
        infos.append(xllamacpp.CommonAdapterLoraInfo(str(path), 0.0))
        scales[name] = chosen.scale
    if infos:
        params.lora_adapters = infos
        params.cache_ram_mib = 0
    return Adapters(scales)


def _check_name(name: str, field: str) -> None:
    try:
        check_name(name, field)
    except InvalidRequest as error:
        raise InvalidManifest(error.message, param=field) from None


def _check(path: Path, base: GgufHead, field: str) -> None:
    try:
        head = read_head(path)
    except ModelLoadFailed as error:
        error.param = field
        raise
    kind = head.metadata.get("general.type"), head.metadata.get("adapter.type")
    if kind != ("adapter", "lora"):
        raise ModelLoadFailed(f"{path} is a GGUF file but not a LoRA adapter: correct {field}", param=field)
    if _ACTIVATED in head.metadata:
        raise ModelLoadFailed(f"{path} is an activated LoRA, which is not supported: use a plain one", param=field)
    if head.architecture != base.architecture:
        raise _other_base(path, f"it is of {head.architecture}, the base of {base.architecture}", field)
    if int(base.metadata.get("split.count", 1)) <= 1:  # else most of the base's tensors are in other files
        _check_tensors(path, head, base, field)


def _check_tensors(path: Path, head: GgufHead, base: GgufHead, field: str) -> None:
    for name, shape in head.tensors.items():
        target, _, half = name.rpartition(".")
        if half not in ("lora_a", "lora_b"):
            if name.endswith("_norm.weight"):
                continue  # llama.cpp leaves these out, too
            raise ModelLoadFailed(f"{path} holds {name!r}, which is no half of a LoRA pair", param=field)
        other = head.tensors.get(f"{target}.lora_b" if half == "lora_a" else f"{target}.lora_a")
        if other is None:
            raise ModelLoadFailed(f"{path} holds {name!r} without its other half: it is incomplete", param=field)
        wanted = base.tensors.get(target)
        if wanted is None:
            raise _other_base(path, f"the base has no tensor {target!r}", field)
        if half == "lora_a" and not _fits(target, shape, other, wanted):
            raise _other_base(
                path, f"{target!r} is {list(wanted)} in the base, the adapter has {shape} x {other}", field
            )


def _fits(target: str, a: tuple[int, ...], b: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """The conditions of llama.cpp (src/llama-adapter.cpp): the embedding's pair is stored the other way round."""
    if min(len(a), len(b), len(wanted)) < 2:
        return False
    if target.endswith("token_embd.weight"):
        return (b[1], a[1]) == wanted[:2]
    return (a[0], b[1]) == wanted[:2] and a[1] == b[0]


def _other_base(path: Path, why: str, field: str) -> ModelLoadFailed:
    return ModelLoadFailed(
        f"{path} was made for another base model: {why}. Name an adapter of this base in {field}", param=field
    )
