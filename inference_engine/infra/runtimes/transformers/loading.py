"""Loads a Hugging Face model folder with transformers: device, dtype, quantization, adapters, and no code but ours."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from inference_engine.domain.errors import EngineError, InvalidManifest, ModelLoadFailed, RuntimeMissing
from inference_engine.infra.huggingface.folder import HfFolder, Role, read_json
from inference_engine.infra.runtimes.transformers.options import TransformersOptions

EXTRA = 'pip install torch==2.13.0, then pip install "inference-engine[transformers]"'
_CLASSES: dict[Role, str] = {
    "generate": "AutoModelForCausalLM",
    "see": "AutoModelForImageTextToText",
    "embed": "AutoModel",
    "rerank": "AutoModelForSequenceClassification",
    "classify": "AutoModelForSequenceClassification",
}


@dataclass(frozen=True)
class Placement:
    """Where a model computes, and in which numbers. `dtype` is a `torch.dtype`."""

    device: str
    dtype: Any


class LoadedModel:
    """A model with its adapters. `switch` is called before every computation, by one thread at a time."""

    def __init__(self, model: Any, placement: Placement) -> None:
        self.model = model
        self.placement = placement
        self.adapters: tuple[str, ...] = ()
        self._active: str | None = None
        self._switching = threading.Lock()

    def add_adapters(self, folders: dict[str, Path]) -> None:
        """Load PEFT adapters by their names; none of them is active afterwards."""
        for name, folder in folders.items():
            self.model.load_adapter(str(folder), adapter_name=name, use_safetensors=True)
        if folders:
            self.model.disable_adapters()
            self.model.eval()
        self.adapters = tuple(folders)

    def switch(self, adapter: str | None) -> None:
        """Make the model answer with `adapter`, or with none."""
        with self._switching:
            if adapter == self._active:
                return
            if adapter is None:
                self.model.disable_adapters()
            else:
                self.model.enable_adapters()
                self.model.set_adapter(adapter)
            self._active = adapter


def import_transformers() -> Any:
    """The library. Raises RuntimeMissing: it, or torch, is not installed."""
    try:
        import torch  # noqa: F401  transformers alone imports without it and fails later
        import transformers
    except ImportError as error:
        raise RuntimeMissing(f"transformers cannot be used ({error}): {EXTRA}") from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def place(wanted: str, options: TransformersOptions, folder: HfFolder) -> Placement:
    """The device and dtype for `execution.device` and the options.

    Raises:
        InvalidManifest: the device is not one of torch's, or is not here.
    """
    import torch

    device = _device(wanted)
    if options.dtype != "auto":
        return Placement(device, getattr(torch, options.dtype))
    stored = folder.config.get("dtype") or folder.config.get("torch_dtype") or folder.text_config().get("dtype")
    dtype = getattr(torch, str(stored), torch.float32) if stored else torch.float32
    if device == "cpu" and dtype is torch.float16:
        dtype = torch.float32  # a CPU computes half precision slowly or not at all
    if device == "cpu" and dtype is torch.bfloat16 and not torch.backends.mkldnn.is_available():
        dtype = torch.float32
    return Placement(device, dtype)


def _device(wanted: str) -> str:
    import torch

    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device("cuda" if wanted == "gpu" else wanted)
    except RuntimeError:
        raise InvalidManifest(
            f"execution.device is {wanted!r}: use auto, cpu, gpu, or a device of torch such as cuda:1",
            param="execution.device",
        ) from None
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(device.type, False) or (device.index or 0) >= max(1, torch.cuda.device_count()):
        raise InvalidManifest(
            f"execution.device is {wanted!r}, which torch {torch.__version__} does not find here: use auto",
            param="execution.device",
        )
    return str(device)


def load_model(folder: HfFolder, class_name: str, options: TransformersOptions, placement: Placement) -> LoadedModel:
    """The model in `folder`, ready to compute.

    Raises:
        ModelLoadFailed: the weights are damaged, not of this architecture, or not trusted.
        RuntimeMissing: the library for the quantization or the adapters is not installed.
    """
    transformers = import_transformers()
    pickled = folder.check_trust(options.trust)
    with reported(folder):
        model, info = getattr(transformers, class_name).from_pretrained(
            str(folder.path),
            dtype=placement.dtype,
            device_map=placement.device,
            local_files_only=True,
            use_safetensors=not pickled,
            weights_only=True,
            trust_remote_code=trusts_code(folder, options),
            quantization_config=_quantization(options, placement),
            output_loading_info=True,
        )
    if info["missing_keys"] and class_name != "AutoModel":  # a bare encoder may lack the pooler it does not use
        missing = sorted(info["missing_keys"])
        raise ModelLoadFailed(
            f"{folder.path} lacks {len(missing)} of the weights of {type(model).__name__} ({missing[0]}, ...): the "
            "files are incomplete, or task in model.yaml is not what the model was trained for",
            param="artifact",
        )
    if info["mismatched_keys"]:
        raise ModelLoadFailed(
            f"{folder.path}: the weight {sorted(info['mismatched_keys'])[0]} has not the size that config.json says",
            param="artifact",
        )
    return LoadedModel(model.eval(), placement)


def model_class(role: Role) -> str:
    """transformers' class for what a model does."""
    return _CLASSES[role]


def load_part(class_name: str, folder: HfFolder, options: TransformersOptions, **more: Any) -> Any:
    """A tokenizer, feature extractor or processor of the folder.

    Raises:
        ModelLoadFailed: its files are missing or damaged. RuntimeMissing: it needs a library that is not there.
    """
    transformers = import_transformers()
    with reported(folder):
        return getattr(transformers, class_name).from_pretrained(
            str(folder.path), local_files_only=True, trust_remote_code=trusts_code(folder, options), **more
        )


def load_processor(folder: HfFolder, options: TransformersOptions) -> Any:
    """The processor of a model that sees. One that also takes video is made without that half where torchvision is
    not installed: the library would refuse the whole.

    Raises what `load_part` raises.
    """
    try:
        return load_part("AutoProcessor", folder, options)
    except RuntimeMissing:
        if find_spec("torchvision") is not None:
            raise
        made = _processor_without_video(folder, options)
        if made is None:
            raise
        return made


def _processor_without_video(folder: HfFolder, options: TransformersOptions) -> Any:
    """None where the library knows no processor for this kind of model."""
    transformers = import_transformers()
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    name = PROCESSOR_MAPPING_NAMES.get(folder.config["model_type"])
    if name is None:
        return None
    kind = getattr(transformers, name)

    def check(self: Any, part: str, given: Any) -> Any:
        return type(None) if given is None else kind.check_argument_for_proper_class(self, part, given)

    taken = inspect.signature(kind.__init__).parameters
    path = folder.path / "processor_config.json"
    settings = read_json(path) if path.is_file() else {}
    tokenizer = load_part("AutoTokenizer", folder, options)
    images = load_part("AutoImageProcessor", folder, options, backend="pil")
    with reported(folder):
        return type(name, (kind,), {"check_argument_for_proper_class": check})(
            image_processor=images,
            tokenizer=tokenizer,
            video_processor=None,
            chat_template=tokenizer.chat_template,
            **{key: value for key, value in settings.items() if key in taken and not isinstance(value, dict)},
        )


@contextlib.contextmanager
def reported(folder: HfFolder) -> Iterator[None]:
    """What the library raises while it reads the folder, as the engine's errors."""
    try:
        yield
    except EngineError:
        raise
    except ImportError as error:
        raise RuntimeMissing(f"{folder.path} needs a library that is not installed: {_first_line(error)}") from error
    except Exception as error:  # the library raises what it likes
        if "trust_remote_code" in str(error):
            raise ModelLoadFailed(
                f"{folder.path} brings Python code of its own, which can do anything: if you trust who wrote it, set "
                "options.trust: [code] in model.yaml",
                param="options.trust",
            ) from None
        raise ModelLoadFailed(
            f"transformers cannot load {folder.path}: {type(error).__name__}: {_first_line(error)}", param="artifact"
        ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def trusts_code(folder: HfFolder, options: TransformersOptions) -> bool:
    """Whether the folder's own Python code is run."""
    return folder.has_code and "code" in options.trust


def _quantization(options: TransformersOptions, placement: Placement) -> Any:
    if options.quantization is None:
        return None
    transformers = import_transformers()
    bits8 = options.quantization == "8bit"
    try:
        if placement.device.startswith("cuda"):
            import bitsandbytes  # noqa: F401  asked for here, so that its absence is named

            if bits8:
                return transformers.BitsAndBytesConfig(load_in_8bit=True)
            return transformers.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=placement.dtype
            )
        import torch
        from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig

        return transformers.TorchAoConfig(
            quant_type=Int8WeightOnlyConfig() if bits8 else IntxWeightOnlyConfig(weight_dtype=torch.int4)
        )
    except ImportError as error:
        raise RuntimeMissing(
            f"options.quantization: {options.quantization} needs {error.name} ({error}): pip install "
            f"{'bitsandbytes' if placement.device.startswith('cuda') else 'torchao'}"
        ) from error


def add_adapters(loaded: LoadedModel, folders: dict[str, Path]) -> None:
    """Load adapters onto their base.

    Raises:
        RuntimeMissing: peft is not installed. ModelLoadFailed: an adapter is not for this base, or damaged.
    """
    if not folders:
        return
    try:
        import peft  # noqa: F401  asked for here, so that its absence is named
    except ImportError as error:
        raise RuntimeMissing(f"adapters need peft ({error}): {EXTRA}") from error
    try:
        loaded.add_adapters(folders)
    except Exception as error:  # the library raises what it likes
        raise ModelLoadFailed(
            f"an adapter of {', '.join(folders)} cannot be put on this model: {type(error).__name__}: "
            f"{_first_line(error)}; was it trained for another base?",
            param="options.adapters",
        ) from error
