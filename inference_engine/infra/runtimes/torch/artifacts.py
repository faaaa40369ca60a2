"""Opens what PyTorch saves: tells the formats apart by content. Runs no model.

What could run code while it is read is read only where the operator trusts exactly these bytes.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

from inference_engine.domain.errors import InvalidManifest, ModelError, ModelLoadFailed, RuntimeMissing
from inference_engine.domain.model import Manifest
from inference_engine.infra.runtimes.files import artifact_path
from inference_engine.infra.runtimes.torch.vetting import CouldRunCode, vet_program
from inference_engine.infra.runtimes.torch.vetting_script import vet_script
from inference_engine.infra.runtimes.trust import digest_of, require_trust
from inference_engine.infra.runtimes.user_code import import_file, siblings_importable, user_code

Format = Literal["program", "script", "weights", "safetensors"]


def format_of(path: Path) -> Format:
    """What the file at `path` is, by what it holds.

    Raises:
        ModelLoadFailed: it is empty or damaged, or none of these.
    """
    if path.is_dir():
        raise ModelLoadFailed(f"{path} is a folder: name the file of weights or the program in it", param="artifact")
    if path.suffix.lower() == ".safetensors":
        return "safetensors"
    with path.open("rb") as opened:
        head = opened.read(4)
    if not head.startswith(b"PK"):
        if head[:1] == b"\x80":  # a pickle, as PyTorch wrote it before version 1.6
            return "weights"
        raise damaged(path, "it is no archive of PyTorch")
    import torch

    try:
        # not zipfile, which would take the archive in a record of a cut one for the whole
        inner = frozenset(torch._C.PyTorchFileReader(str(path)).get_all_records())
    except RuntimeError as error:
        raise damaged(path, str(error)) from None
    if "archive_format" in inner:
        return "program"
    if "constants.pkl" in inner:
        return "script"
    if "data.pkl" in inner:
        return "weights"
    raise damaged(path, "it is no archive of PyTorch")


def load_program(path: Path, device: Any, manifest: Manifest) -> Any:
    """The `ExportedProgram` at `path`, moved to `device`. Raises `ModelLoadFailed`, also for code nobody trusts."""
    import torch
    from torch.export.passes import move_to_device_pass

    try:
        program = torch.export.load(_judged(path, vet_program, manifest))
        return program if device.type == "cpu" else move_to_device_pass(program, device)
    except ModelError:
        raise
    except Exception as error:  # a damaged archive fails in many ways
        raise damaged(path, f"{type(error).__name__}: {error}") from None


def load_script(path: Path, device: Any, manifest: Manifest) -> Any:
    """The TorchScript module at `path` in evaluation mode. Raises `ModelLoadFailed`, also for code nobody trusts."""
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is, and is served all the same
            return torch.jit.load(_judged(path, vet_script, manifest), map_location=device).eval()
    except ModelError:
        raise
    except Exception as error:  # a damaged archive fails in many ways
        raise damaged(path, f"{type(error).__name__}: {error}") from None


def _judged(path: Path, vet: Callable[[Path], None], manifest: Manifest) -> str | IO[bytes]:
    """What PyTorch may read: the file where `vet` has no objection, else the bytes that the operator trusts."""
    try:
        vet(path)
    except CouldRunCode as error:
        return _trusted(path, str(error), manifest)
    return str(path)


def _trusted(path: Path, what: str, manifest: Manifest) -> IO[bytes]:
    """The content of `path`, which the operator trusts. Raises what `require_trust` raises; `what` is its reason."""
    content = path.read_bytes()
    require_trust(path, digest_of(content), manifest, what)
    return io.BytesIO(content)


def load_module(
    path: Path, kind: Format, folder: Path, reference: str | None, init: dict[str, Any], manifest: Manifest
) -> Any:
    """The class `reference` ("FILE.py:Name" in `folder`), made with `init`, with the weights at `path`, on the CPU.

    A whole module that was pickled needs no class: it comes back as it is, where the operator trusts the file.

    Raises:
        InvalidManifest: no class is named. ModelLoadFailed: the weights hold more than tensors, or do not fit it.
    """
    import torch

    if kind == "weights":
        weights = _unpickled(path, folder, manifest)
        if isinstance(weights, torch.nn.Module):
            if reference is not None:
                raise InvalidManifest(
                    f"options.class: {path.name} is a whole module and needs no class: leave it out",
                    param="options.class",
                )
            return weights.eval()
    if reference is None:
        raise InvalidManifest(
            f"{path.name} holds weights alone: name the class they belong to, options: {{class: 'model.py:Net'}}, "
            "or export the whole program with torch.export.save",
            param="options.class",
        )
    weights = _safetensors(path) if kind == "safetensors" else _state_dict(path, weights)
    file, colon, name = reference.partition(":")
    if not (colon and file.endswith(".py") and name.isidentifier()):
        raise InvalidManifest(f"options.class {reference!r} must be FILE.py:ClassName", param="options.class")
    source = artifact_path(folder, file)
    with user_code(ModelLoadFailed, folder), siblings_importable(folder):
        cls = getattr(import_file(source), name, None)
        if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
            raise ModelLoadFailed(f"{source} has no torch.nn.Module called {name}", param="options.class")
        module = cls(**init)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelLoadFailed(f"{path} does not fit {name} of {source}: {error}", param="options.class") from None
    return module.eval()


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise RuntimeMissing(f"safetensors cannot be imported ({error}): pip install safetensors") from error
    try:
        found: dict[str, Any] = load_file(path)
    except Exception as error:  # SafetensorError, and what a lying header leads to
        raise damaged(path, f"{type(error).__name__}: {error}") from None
    return found


def _unpickled(path: Path, folder: Path, manifest: Manifest) -> Any:
    """What `torch.save` wrote: tensors, or anything at all where the operator trusts these bytes."""
    import torch

    try:
        return torch.load(str(path), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0][:300]
        opened = _trusted(path, f"holds more than tensors or is damaged (PyTorch says: {reason})", manifest)
    except Exception as error:  # a damaged archive fails in many ways
        raise damaged(path, f"{type(error).__name__}: {error}") from None
    try:
        with siblings_importable(folder):
            return torch.load(opened, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise ModelLoadFailed(
            f"{path} needs classes that are not here ({error}): put the file that defines them beside it, under the "
            "name it had when the module was saved",
            param="artifact",
        ) from error
    except Exception as error:  # a pickle may raise anything
        raise damaged(path, f"{type(error).__name__}: {error}") from error


def _state_dict(path: Path, found: Any) -> dict[str, Any]:
    """`found` in `path` as a state dict, also where a trainer wrote it beside other things."""
    import torch

    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ModelLoadFailed(f"{path} holds no state dict: save module.state_dict()", param="artifact")
    return found


def damaged(path: Path, why: str) -> ModelLoadFailed:
    first = why.strip().splitlines()[0][:500] if why.strip() else "it cannot be read"
    return ModelLoadFailed(f"{path} cannot be loaded by PyTorch: {first}. The file may be damaged", param="artifact")
