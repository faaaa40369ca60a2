"""Models stored in folders: finds them, adopts what has no manifest, checks digests. Knows files, loads no model.

A root holds `<name>/<version>/model.yaml`. Without a manifest, a lone `.gguf`, `.onnx`, `.pt2`, `.keras` or `.skops`
file, or an XGBoost (`.ubj`, `.json`) or LightGBM (`.txt`) file that its first bytes show to be one, is adopted where it
is: in the version's folder, in the name's folder (version "1"), or loose in the root (name from the file, version "1").
So is a Hugging Face folder: a `config.json` that tells what the model is for, beside weights in SafeTensors. And so is
a TensorFlow SavedModel: the folder of a name or version itself, or the only one in a version's. A folder with a
`config.pbtxt` is one of Triton's layout (`triton/layout.py`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from inference_engine.domain.errors import EngineError, InvalidManifest, ModelLoadFailed
from inference_engine.domain.model import Manifest, check_name
from inference_engine.domain.ports import BrokenModel, StoredModel
from inference_engine.domain.routing import version_key
from inference_engine.infra.huggingface.folder import CONFIG_NAME, HfFolder
from inference_engine.infra.manifest_files import MANIFEST_NAME, artifact_file, read_manifest
from inference_engine.infra.triton.layout import PBTXT_NAME, read_layout

_ADOPTED = {
    ".gguf": ("llama_cpp", "text-generation"),
    ".onnx": ("onnx", ""),
    ".pt2": ("torch", ""),
    ".keras": ("tensorflow", ""),
    ".skops": ("sklearn", ""),
    ".ubj": ("xgboost", ""),
    ".json": ("xgboost", ""),
    ".txt": ("lightgbm", ""),
}
_SHOWN: dict[str, Callable[[bytes], bool]] = {
    ".ubj": lambda head: head.startswith(b"{") and b"learner" in head[:32],
    ".json": lambda head: head.startswith(b"{") and b'"learner"' in head[:200],
    ".txt": lambda head: head.startswith(b"tree\nversion="),
}
"""For endings that others use too: whether a file's first bytes show a model."""
_HEAD_BYTES = 256
_FOREIGN = frozenset((".safetensors", ".pt", ".pth", ".h5", ".tflite", ".pkl", ".joblib", ".mlmodel"))
_SAVED_MODEL = "saved_model.pb"
_FOREIGN_NAMES = frozenset((_SAVED_MODEL, "pytorch_model.bin", "openvino_model.xml"))
_GGUF_HEAD_BYTES = 4096
_SHARD = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_CHUNK_BYTES = 1 << 20


class FolderRepository:
    """A `ModelRepository` over folders. Of two models with one name and version, the one in the earlier root wins."""

    def __init__(self, roots: Iterable[Path], later: Path | None = None) -> None:
        """`later` is a root that need not exist yet."""
        self._roots = tuple(roots)
        self._later = later
        self._digests: dict[tuple[str, int, int], str] = {}

    def scan(self) -> tuple[list[StoredModel], list[BrokenModel]]:
        models: dict[tuple[str, str], StoredModel] = {}
        broken: list[BrokenModel] = []
        roots = [root for root in self._roots if root != self._later or root.is_dir()]
        for found in (found for root in roots for found in _scan_root(root)):
            if isinstance(found, BrokenModel):
                broken.append(found)
                continue
            key = (found.manifest.name, found.manifest.version)
            first = models.setdefault(key, found)
            if first is not found:
                broken.append(BrokenModel(found.folder, _shadowed(found, first)))
        return sorted(models.values(), key=_order), broken

    def verify(self, model: StoredModel) -> None:
        artifact = model.folder / artifact_file(model.manifest)
        if not artifact.exists():
            raise ModelLoadFailed(f"{artifact} is missing: restore it or remove the model")
        for name, expected in model.manifest.digests.items():
            file = model.folder / name
            try:
                actual = self._digest(file)
            except OSError as error:
                raise ModelLoadFailed(f"{file} cannot be read: {error.strerror}; the manifest has its digest") from None
            if actual != expected:
                raise ModelLoadFailed(
                    f"{file} is damaged or was changed: its digest is {actual}, the manifest says {expected}; "
                    "fetch the file again, or correct `digests` in model.yaml"
                )

    def _digest(self, file: Path) -> str:
        stat = file.stat()
        key = (str(file), stat.st_size, stat.st_mtime_ns)
        if key not in self._digests:
            self._digests[key] = file_digest(file)
        return self._digests[key]


def file_digest(file: Path) -> str:
    """`sha256:` and the hexadecimal digest of a file, read in chunks. Blocking: about a second for each gigabyte."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def _order(model: StoredModel) -> tuple[object, ...]:
    return model.manifest.name, version_key(model.manifest.version)


def _shadowed(found: StoredModel, first: StoredModel) -> str:
    return (
        f"{found.folder}: {found.manifest.ref} is already served from {first.folder}, which comes first: "
        "rename one of them or give it another version"
    )


def _scan_root(root: Path) -> Iterator[StoredModel | BrokenModel]:
    try:
        children = _children(root)
    except OSError as error:
        yield BrokenModel(root, f"{root}: the models folder cannot be read: {error.strerror}")
        return
    files = [path for path in children if path.is_file()]
    if any(path.name == MANIFEST_NAME for path in files):
        yield BrokenModel(root, f"{root / MANIFEST_NAME}: this is one model: name the folder two levels above it")
        return
    for candidate in _candidates(files):
        yield from _guarded(root, partial(_adopt, candidate, _name_from(candidate), "1", alone=False))
    for folder in children:
        if folder.is_dir():
            yield from _scan_name(folder)


def _scan_name(folder: Path) -> Iterator[StoredModel | BrokenModel]:
    try:
        children = _children(folder)
    except OSError as error:
        yield BrokenModel(folder, f"{folder}: cannot be read: {error.strerror}")
        return
    files = [path for path in children if path.is_file()]
    if any(path.name == PBTXT_NAME for path in files):
        yield from _scan_layout(folder)
        return
    if any(path.name == MANIFEST_NAME for path in files):
        wanted = folder / "1" / MANIFEST_NAME
        yield BrokenModel(folder, f"{folder / MANIFEST_NAME}: move the files into a version folder, as in {wanted}")
        return
    candidates = _candidates(files)
    foreign = not candidates and (_is_hugging_face(files) or bool(_foreign(files)))
    if candidates or foreign:
        yield from _guarded(folder, partial(_adopt_lone, folder, files, folder.name, "1", alone=False))
    if foreign:
        return  # a foreign model's inner folders are its own, not versions
    for version in children:
        if version.is_dir():
            yield from _guarded(version, partial(_read_version, version, folder.name))


def _scan_layout(folder: Path) -> Iterator[StoredModel | BrokenModel]:
    """A model in Triton's layout."""
    try:
        found = read_layout(folder)
    except EngineError as error:
        text = error.message if str(folder) in error.message else f"{folder / PBTXT_NAME}: {error.message}"
        yield BrokenModel(folder, text)
        return
    except OSError as error:
        yield BrokenModel(folder, f"{error.filename or folder}: cannot be read: {error.strerror}")
        return
    for model in found:
        yield StoredModel(model.manifest, model.folder, assumed=False, size_bytes=_tree_bytes(model.folder))


def _read_version(folder: Path, name: str) -> StoredModel | None:
    files = [path for path in _children(folder) if path.is_file()]
    if any(path.name == MANIFEST_NAME for path in files):
        manifest = read_manifest(folder / MANIFEST_NAME, name, folder.name)
        return StoredModel(manifest, folder, assumed=False, size_bytes=_tree_bytes(folder))
    return _adopt_lone(folder, files, name, folder.name, alone=True)


def _guarded(folder: Path, read: Callable[[], StoredModel | None]) -> Iterator[StoredModel | BrokenModel]:
    """One bad folder never hides the others."""
    try:
        found = read()
    except EngineError as error:
        text = error.message if str(folder) in error.message else f"{folder}: {error.message}"
        yield BrokenModel(folder, text)
    except OSError as error:
        yield BrokenModel(folder, f"{error.filename or folder}: cannot be read: {error.strerror}")
    else:
        if found is not None:
            yield found


def _adopt_lone(folder: Path, files: list[Path], name: str, version: str, *, alone: bool) -> StoredModel | None:
    candidates = _candidates(files)
    if len(candidates) == 1:
        projectors = [path for path in files if _is_projector(path)]
        projector = projectors[0].name if len(projectors) == 1 else None
        return _adopt(candidates[0], name, version, alone=alone, projector=projector)
    if candidates:
        names = ", ".join(path.name for path in candidates)
        raise InvalidManifest(
            f"{folder} holds several model files ({names}): give each its own version folder, "
            f"or write a {MANIFEST_NAME} whose `artifact` names one"
        )
    if _is_hugging_face(files):
        return _adopt_hugging_face(folder, name, version)
    if any(file.name == _SAVED_MODEL for file in files):
        return _adopt_saved_model(folder, ".", name, version)
    if foreign := _foreign(files):
        raise InvalidManifest(
            f"{folder} holds {foreign[0].name}, which cannot be adopted by itself: write a {MANIFEST_NAME} that names "
            "its runtime and artifact, or convert it to GGUF or ONNX"
        )
    inner = [file.parent.name for file in folder.glob(f"*/{_SAVED_MODEL}")] if alone else []
    return _adopt_saved_model(folder, inner[0], name, version) if len(inner) == 1 else None


def _adopt(file: Path, name: str, version: str, *, alone: bool, projector: str | None = None) -> StoredModel:
    """`projector` is a vision projector (mmproj) that lies beside a language model."""
    check_name(name, "folder name")
    check_name(version, "version folder")
    runtime, task = _ADOPTED[file.suffix.lower()]
    parts = _shards(file)
    options = {}
    if file.suffix.lower() == ".gguf":
        if projector is not None:
            task, options = "image-text-to-text", {"mmproj": projector}
        elif _is_encoder(file):
            task = ""  # it embeds or reranks; which, the runtime sees
    manifest = Manifest(name=name, version=version, runtime=runtime, artifact=file.name, task=task, options=options)
    size = _tree_bytes(file.parent) if alone else sum(part.stat().st_size for part in parts)
    return StoredModel(manifest, file.parent, assumed=True, size_bytes=size)


def _is_hugging_face(files: list[Path]) -> bool:
    """Whether a folder's files are those of a Hugging Face model, its weights included."""
    return any(file.name == CONFIG_NAME for file in files) and any(
        file.suffix.lower() == ".safetensors" or file.name.startswith("pytorch_model") for file in files
    )


def _adopt_hugging_face(folder: Path, name: str, version: str) -> StoredModel:
    """The folder as a model, its task guessed.

    Raises:
        InvalidManifest: it does not tell what it is for. ModelLoadFailed: its weights must be trusted first.
    """
    check_name(name, "folder name")
    check_name(version, "version folder")
    hugging_face = HfFolder(folder)
    hugging_face.check_trust(())
    task = hugging_face.task
    if not task:
        hugging_face.role(task)  # says what is missing
    manifest = Manifest(name=name, version=version, runtime="transformers", artifact=".", task=task)
    return StoredModel(manifest, folder, assumed=True, size_bytes=_tree_bytes(folder))


def _adopt_saved_model(folder: Path, artifact: str, name: str, version: str) -> StoredModel:
    """`artifact` is the SavedModel's folder in `folder`, or "." when it is that itself."""
    check_name(name, "folder name")
    check_name(version, "version folder")
    manifest = Manifest(name=name, version=version, runtime="tensorflow", artifact=artifact)
    return StoredModel(manifest, folder, assumed=True, size_bytes=_tree_bytes(folder))


def _candidates(files: list[Path]) -> list[Path]:
    """The files that can be adopted: of a sharded GGUF only the first; vision projectors (mmproj) are not models."""
    found = []
    for file in files:
        shard = _SHARD.fullmatch(file.name)
        first = shard is None or int(shard["index"]) == 1
        if file.suffix.lower() in _ADOPTED and first and not _is_projector(file) and _is_shown(file):
            found.append(file)
    return found


def _is_shown(file: Path) -> bool:
    """Whether a file is what its ending says, where the ending alone does not say it."""
    check = _SHOWN.get(file.suffix.lower())
    if check is None:
        return True
    try:
        with file.open("rb") as opened:
            return check(opened.read(_HEAD_BYTES))
    except OSError:  # what cannot be read is no model that could be adopted
        return False


def _is_projector(file: Path) -> bool:
    return file.suffix.lower() == ".gguf" and "mmproj" in file.name.lower()


def _is_encoder(file: Path) -> bool:
    """Whether a GGUF file's architecture is one of BERT's kin, which cannot write: it stands near the file's begin."""
    with file.open("rb") as opened:
        head = opened.read(_GGUF_HEAD_BYTES)
    _, key, rest = head.partition(b"general.architecture")
    return bool(key) and b"bert" in rest[12 : 12 + int.from_bytes(rest[4:12], "little")][:64]


def _shards(file: Path) -> list[Path]:
    """All files of a model: for a sharded GGUF every part, for ONNX also the weights kept beside it.

    Raises:
        ModelLoadFailed: a part is missing.
    """
    if shard := _SHARD.fullmatch(file.name):
        count = int(shard["count"])
        names = (f"{shard['stem']}-{index:05d}-of-{count:05d}{file.suffix}" for index in range(1, count + 1))
        parts = [file.with_name(name) for name in names]
        for part in parts:
            if not part.exists():
                raise ModelLoadFailed(f"{part} is missing: {file.name} needs all its {count} parts in one folder")
        return parts
    beside = (file.with_name(file.name + end) for end in ("_data", ".data"))
    return [file, *(part for part in beside if part.is_file())]


def artifact_files(file: Path) -> list[Path]:
    """All files of the adopted model whose first file is `file`. Raises `ModelLoadFailed` when a part is missing."""
    return _shards(file)


def shard_index(name: str) -> int | None:
    """Which part of a GGUF in several parts a file is, counted from 1; None for a file that is whole."""
    shard = _SHARD.fullmatch(name)
    return int(shard["index"]) if shard else None


def _foreign(files: list[Path]) -> list[Path]:
    return [file for file in files if file.suffix.lower() in _FOREIGN or file.name in _FOREIGN_NAMES]


def _name_from(file: Path) -> str:
    shard = _SHARD.fullmatch(file.name)
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", shard["stem"] if shard else file.stem)
    return re.sub(r"\.{2,}", ".", text).strip(".-_")[:128] or "model"


def _children(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))


def _tree_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
