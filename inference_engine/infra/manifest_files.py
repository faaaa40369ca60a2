"""`model.yaml`: reads it strictly, with the place of every mistake, and writes one. Loads no model and no runtime."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from inference_engine.core.yaml_source import (
    Keys,
    YamlDocument,
    YamlError,
    dotted,
    parse_yaml,
    split_problem,
    suggestion,
)
from inference_engine.domain.ensembles import ENSEMBLE, EnsembleProblem, graph_of
from inference_engine.domain.errors import InvalidManifest, InvalidRequest
from inference_engine.domain.model import (
    Conversation,
    EnsembleSpec,
    Execution,
    InstanceGroup,
    Manifest,
    PipelineSpec,
    SequenceControls,
    Sequences,
    SequenceState,
    Signature,
    Stage,
    TensorSpec,
    Turn,
    Warmup,
    check_name,
)

MANIFEST_NAME = "model.yaml"
DTYPES = (
    *("bool", "bytes", "float16", "float32", "float64"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "": Manifest,
    "execution": Execution,
    "signature": Signature,
    "inputs": TensorSpec,
    "outputs": TensorSpec,
    "pipeline": PipelineSpec,
    "ensemble": EnsembleSpec,
    "stages": Stage,
    "conversation": Conversation,
    "messages": Turn,
    "warmup": Warmup,
    "instances": InstanceGroup,
    "sequences": Sequences,
    "controls": SequenceControls,
    "states": SequenceState,
}
_MAX_SEQUENCES = 4096
_FILELESS = (ENSEMBLE, "identity")
"""Runtimes without a file."""
_OF_STAGES = (
    "executor",
    "instances",
    "threads",
    "device",
    "max_delay_ms",
    "queue_limit",
    "memory_limit_mb",
    "warmup",
    "sequences",
    "resources",
    "resource_priority",
)
"""What of `execution` an ensemble has no use for: it is the business of each stage's model."""
_LEAST: dict[str, float] = {
    "instances": 1,
    "resource_priority": 1,
    "threads": 0,
    "max_batch_size": 1,
    "max_delay_ms": 0,
    "queue_limit": 1,
    "timeout_s": 0.001,
    "keep_alive_s": 0,
    "memory_limit_mb": 1,
}


def read_manifest(file: Path, name: str, version: str) -> Manifest:
    """Decode `file`, which stands in the folders `name`/`version`, and check everything that needs no runtime.

    Raises:
        InvalidManifest: the message names the file, the line, the dotted key and the remedy.
    """
    try:
        document = parse_yaml(file.read_text(encoding="utf-8"))
    except YamlError as error:
        raise InvalidManifest(f"{file}:{error.line}: {error.problem}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidManifest(f"{file}: cannot be read: {error}") from None
    if not isinstance(document.data, dict):
        raise InvalidManifest(f"{file}:1: must hold `key: value` lines, starting with name, version, runtime, artifact")
    checks = _Checks(file, document)
    manifest = checks.decode()
    checks.identity(manifest, name, version)
    checks.files(manifest)
    checks.execution(manifest.execution)
    checks.sequences(manifest)
    checks.conversation(manifest.conversation)
    checks.signature(manifest.signature)
    checks.pipeline(manifest.pipeline)
    checks.ensemble(manifest)
    return manifest


def artifact_file(manifest: Manifest) -> str:
    """The file or folder of the artifact: a `python` artifact names a class after its file, `model.py:Name`."""
    return manifest.artifact.partition(":")[0] if manifest.runtime == "python" else manifest.artifact


def manifest_yaml(manifest: Manifest) -> str:
    """`manifest` as the text of a `model.yaml`, leaving out what equals the default."""
    import yaml

    text: str = yaml.safe_dump(
        _without_defaults(manifest), sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
    )
    return text


def _without_defaults(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        defaults = {field.name: _default(field) for field in msgspec.structs.fields(value)}
        kept = {name: getattr(value, name) for name in defaults if getattr(value, name) != defaults[name]}
        return {name: _without_defaults(item) for name, item in kept.items()}
    if isinstance(value, dict):
        return {key: _without_defaults(item) for key, item in value.items()}
    return [_without_defaults(item) for item in value] if isinstance(value, list | tuple) else value


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default


class _Checks:
    """The checks of one file; each failure knows its line."""

    def __init__(self, file: Path, document: YamlDocument) -> None:
        self._file = file
        self._document = document

    def fail(self, keys: Keys, problem: str) -> InvalidManifest:
        key = dotted(keys)
        place = f"{self._file}:{self._document.line(keys)}: "
        return InvalidManifest(f"{place}{key}: {problem}" if key else place + problem, param=key or None)

    def decode(self) -> Manifest:
        data = dict(self._document.data)
        if ("version",) in self._document.scalars:
            # YAML makes numbers and dates of 1, 1.10 and 2026-01-31; what counts is what was written.
            data["version"] = self._document.scalars["version",]
        try:
            return msgspec.convert(data, Manifest)
        except msgspec.ValidationError as error:
            keys, problem, unknown = split_problem(error)
        if unknown is None:
            raise self.fail(keys, problem)
        section = next((str(key) for key in reversed(keys) if isinstance(key, str)), "")
        known = _SECTIONS.get(section, Manifest).__struct_fields__
        raise self.fail((*keys, unknown), f"unknown key: {suggestion(unknown, known)}")

    def identity(self, manifest: Manifest, name: str, version: str) -> None:
        for field, written, folder in (("name", manifest.name, name), ("version", manifest.version, version)):
            try:
                check_name(written, field)
            except InvalidRequest as error:
                raise self.fail((field,), error.message) from None
            if written != folder:
                raise self.fail(
                    (field,), f"is {written!r} but the folder is called {folder!r}: they must be equal, mend either"
                )

    def files(self, manifest: Manifest) -> None:
        artifact = artifact_file(manifest)
        if manifest.runtime in _FILELESS:
            if artifact:
                raise self.fail(("artifact",), f"a model with runtime: {manifest.runtime} has no file: leave it out")
        else:
            self._artifact(artifact)
        for name, digest in manifest.digests.items():
            self._inside(("digests", name), name)
            if not _DIGEST.fullmatch(digest):
                raise self.fail(("digests", name), "must be 'sha256:' and 64 lower-case hexadecimal digits")

    def _artifact(self, artifact: str) -> None:
        if not artifact:
            raise self.fail(("artifact",), "is missing: name the model's file or folder beside the manifest")
        self._inside(("artifact",), artifact)
        if not (self._file.parent / artifact).exists():
            there = sorted(path.name for path in self._file.parent.iterdir() if path.name != MANIFEST_NAME)
            raise self.fail(
                ("artifact",), f"there is no {artifact!r} beside the manifest; {suggestion(artifact, there)}"
            )

    def _inside(self, keys: Keys, name: str) -> None:
        # Only the text is judged: a symbolic link was put there by the operator, a manifest may come from anyone.
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise self.fail(keys, f"{name!r} must be a path inside the model's folder: relative and without '..'")

    def execution(self, execution: Execution) -> None:
        for field, least in _LEAST.items():
            value = getattr(execution, field)
            if isinstance(value, int | float) and not value >= least:
                raise self.fail(("execution", field), f"is {value}, it must be at least {least:g}")

        self._groups(execution)
        for name, amount in execution.resources.items():
            if amount < 1:
                raise self.fail(("execution", "resources", name), f"is {amount}, it must be at least 1")
        for index, warmup in enumerate(execution.warmup):
            if warmup.rows < 1:
                raise self.fail(("execution", "warmup", index, "rows"), f"is {warmup.rows}, it must be at least 1")
            for name, shape in warmup.shapes.items():
                if any(size < 0 for size in shape):
                    raise self.fail(("execution", "warmup", index, "shapes", name), "sizes are 0 or more")

    def _groups(self, execution: Execution) -> None:
        if isinstance(execution.instances, int):
            return
        if not execution.instances:
            raise self.fail(("execution", "instances"), "is empty: give a number, or groups of a count and a device")
        if execution.device != "auto":
            raise self.fail(("execution", "device"), "cannot stand beside groups of instances, which have their own")
        for index, group in enumerate(execution.instances):
            if group.count < 1:
                raise self.fail(("execution", "instances", index, "count"), f"is {group.count}, it must be at least 1")

    def sequences(self, manifest: Manifest) -> None:
        sequences = manifest.execution.sequences
        if sequences is None:
            return
        keys = ("execution", "sequences")
        if not sequences.max_idle_s > 0:
            raise self.fail((*keys, "max_idle_s"), f"is {sequences.max_idle_s:g}, it must be above 0")
        if not 1 <= sequences.max_sequences <= _MAX_SEQUENCES:
            raise self.fail((*keys, "max_sequences"), f"must be from 1 to {_MAX_SEQUENCES}")
        if manifest.execution.cache:
            raise self.fail(("execution", "cache"), "answers of a model that keeps sequences cannot be used again")
        if manifest.pipeline != PipelineSpec():
            raise self.fail(keys, "cannot stand beside a pipeline: leave one of them out")
        if manifest.execution.warmup and manifest.runtime == "python":
            raise self.fail(("execution", "warmup"), "a Python class that keeps sequences warms itself up in load")

    def conversation(self, conversation: Conversation) -> None:
        if not all(conversation.stop):
            raise self.fail(("conversation", "stop"), "holds an empty text: leave it out")
        if conversation.max_tokens is not None and conversation.max_tokens < 1:
            raise self.fail(("conversation", "max_tokens"), f"is {conversation.max_tokens}, it must be at least 1")

    def signature(self, signature: Signature | None) -> None:
        if signature is None:
            return
        for side in ("inputs", "outputs"):
            seen: set[str] = set()
            specs: tuple[TensorSpec, ...] = getattr(signature, side)
            for index, spec in enumerate(specs):
                keys = ("signature", side, index)
                if not spec.name or spec.name in seen:
                    raise self.fail((*keys, "name"), f"{spec.name!r} is empty or given twice")
                seen.add(spec.name)
                if spec.dtype not in DTYPES:
                    raise self.fail(
                        (*keys, "dtype"), f"{spec.dtype!r} is not a dtype: {suggestion(spec.dtype, DTYPES)}"
                    )
                if any(size < -1 for size in spec.shape):
                    raise self.fail((*keys, "shape"), f"{list(spec.shape)}: sizes are 0 or more, or -1 for any")

    def pipeline(self, pipeline: PipelineSpec) -> None:
        for side in ("preprocess", "postprocess"):
            for index, step in enumerate(getattr(pipeline, side)):
                if not isinstance(step.get("use"), str):
                    raise self.fail(("pipeline", side, index), "every step says what it uses: {use: NAME, ...}")

    def ensemble(self, manifest: Manifest) -> None:
        spec = manifest.ensemble
        if (spec is not None) != (manifest.runtime == ENSEMBLE):
            raise self.fail(("runtime",), f"`runtime: {ENSEMBLE}` and the section `ensemble` belong together")
        if spec is None:
            return
        self._no_model_of_its_own(manifest)
        try:
            graph_of(spec, manifest.signature)
        except EnsembleProblem as problem:
            raise self.fail(problem.keys, problem.text) from None

    def _no_model_of_its_own(self, manifest: Manifest) -> None:
        """What only a model with a runtime can have."""
        if manifest.pipeline != PipelineSpec():
            raise self.fail(("pipeline",), "an ensemble has no steps: make them a stage, with `runtime: identity`")
        if manifest.options:
            raise self.fail(("options",), "an ensemble has no options: give them to the models of its stages")
        if manifest.conversation != Conversation():
            raise self.fail(("conversation",), "an ensemble takes tensors, it does not talk: leave it out")
        default = Execution()
        for field in _OF_STAGES:
            if getattr(manifest.execution, field) != getattr(default, field):
                raise self.fail(("execution", field), "is for models: set it in the manifests of the stages")
        if manifest.execution.cache:
            raise self.fail(("execution", "cache"), "answers are kept by stages: set it in their manifests")
