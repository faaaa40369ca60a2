"""A model folder as Triton has them, `<name>/config.pbtxt` beside version folders, read as our manifests.

Knows files and the fields of Triton's ModelConfig; loads no model. What changes a model's meaning and is not served
is refused by name, with the line; what only tunes Triton is passed over.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from inference_engine.domain.ensembles import ENSEMBLE
from inference_engine.domain.errors import InvalidManifest
from inference_engine.domain.model import (
    Execution,
    InstanceGroup,
    Manifest,
    Signature,
    TensorSpec,
    Warmup,
    check_name,
)
from inference_engine.infra.formats.prototext import Message, PrototextError, parse_prototext
from inference_engine.infra.triton.ensembles import read_ensemble
from inference_engine.infra.triton.fields import DTYPES, Fields
from inference_engine.infra.triton.sequences import read_sequences

PBTXT_NAME = "config.pbtxt"
TRITON_CLASS = "TritonPythonModel"
_ENVIRONMENT = "EXECUTION_ENV_PATH"
_MAX_LABELS = 1 << 20


class _Kind(NamedTuple):
    """What a platform or backend is here: our runtime and the file that Triton expects when the config names none."""

    runtime: str
    artifact: str


_KINDS = {
    "onnxruntime_onnx": _Kind("onnx", "model.onnx"),
    "onnxruntime": _Kind("onnx", "model.onnx"),
    "python": _Kind("python", "model.py"),
    "pytorch_libtorch": _Kind("torch", "model.pt"),
    "pytorch": _Kind("torch", "model.pt"),
    "tensorflow_savedmodel": _Kind("tensorflow", "model.savedmodel"),
    "tensorflow": _Kind("tensorflow", "model.savedmodel"),
    "openvino": _Kind("openvino", "model.xml"),
    "ensemble": _Kind(ENSEMBLE, ""),
}
_ELSEWHERE = frozenset(
    (
        *("optimization", "model_metrics", "metric_tags", "runtime", "version_policy"),
        *("name", "platform", "backend", "default_model_filename", "input", "output"),
    )
)
"""Fields that only tune Triton, or are read apart from the others."""
_REFUSED = {
    "batch_input": "inputs made from the batch are not served",
    "batch_output": "outputs cut by another input are not served",
    "model_operations": "custom operator libraries are not loaded",
    "model_repository_agents": "repository agents are not run: `digests` in a model.yaml check files",
    "cc_model_filenames": "files by GPU generation are not chosen: name one in default_model_filename",
}
_SESSION_KEYS = frozenset(
    (
        "inter_op_thread_count",
        "execution_mode",
        "enable_mem_arena",
        "enable_mem_pattern",
        "memory.enable_memory_arena_shrinkage",
    )
)


class LayoutModel(NamedTuple):
    """One version of a model in Triton's layout: its manifest and the version's folder."""

    manifest: Manifest
    folder: Path


def read_layout(folder: Path) -> list[LayoutModel]:
    """The versions of the model in `folder`, which holds `config.pbtxt`, that its version policy serves.

    Raises:
        InvalidManifest: the message names the file, the line, the field and the remedy.
    """
    file = folder / PBTXT_NAME
    try:
        message = parse_prototext(file.read_text(encoding="utf-8"))
    except PrototextError as error:
        raise InvalidManifest(f"{file}:{error.line}: {error.problem}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidManifest(f"{file}: cannot be read: {error}") from None
    return _Config(file, message).models()


class _Config(Fields):
    """One file. Each failure knows its line."""

    def __init__(self, file: Path, message: Message) -> None:
        super().__init__(file)
        self._message = message

    # -- the whole -------------------------------------------------------------------------------------------------

    def models(self) -> list[LayoutModel]:
        known = self._readers()
        for field in self._message.fields:
            if field.name in _REFUSED:
                raise self.fail(field.line, f"{field.name}: {_REFUSED[field.name]}")
            if field.name not in known and field.name not in _ELSEWHERE:
                raise self.fail(field.line, f"{field.name} is not a field of a model's configuration")
        name = self.text(self._message, "name") or self.folder.name
        if name != self.folder.name:
            raise self.fail(
                self._line("name"), f"name is {name!r} but the folder is called {self.folder.name!r}: make them equal"
            )
        check_name(name)
        kind = self._kind()
        values: dict[str, Any] = {"execution": {}, "options": {}}
        for read in known.values():
            read(values, kind)
        execution = Execution(**values.pop("execution"))
        return [
            LayoutModel(self._manifest(name, folder, kind, execution, values), folder) for folder in self._versions()
        ]

    def _line(self, name: str) -> int:
        field = self.one(self._message, name)
        return field.line if field else 1

    def _readers(self) -> dict[str, Callable[[dict[str, Any], _Kind], None]]:
        """What each field of the configuration adds to the manifest's values."""
        return {
            "max_batch_size": self._signature,
            "dynamic_batching": self._batching,
            "sequence_batching": self._sequences,
            "instance_group": self._instances,
            "parameters": self._parameters,
            "response_cache": self._cache,
            "model_warmup": self._warmup,
            "model_transaction_policy": self._transactions,
            "ensemble_scheduling": self._stages,  # after max_batch_size, which makes the signature
        }

    def _kind(self) -> _Kind:
        """`platform` says what a model is; with `backend` alone that says it."""
        word = self.text(self._message, "platform") or self.text(self._message, "backend")
        if not word and self.one(self._message, "ensemble_scheduling") is not None:
            word = ENSEMBLE
        if not word:
            files = {path.name for folder in self._version_folders() for path in folder.iterdir()}
            kinds = [kind for kind in _KINDS.values() if kind.artifact in files]
            if not kinds:
                raise self.fail(1, "neither platform nor backend is given, and no version folder holds a known file")
            return kinds[0]
        if word not in _KINDS:
            line = self._line("platform" if self.text(self._message, "platform") else "backend")
            raise self.fail(line, f"{word!r} is not served; served are: {', '.join(_KINDS)}")
        return _KINDS[word]

    # -- versions --------------------------------------------------------------------------------------------------

    def _version_folders(self) -> list[Path]:
        found = [path for path in self.folder.iterdir() if path.is_dir() and path.name.isdigit()]
        return sorted((path for path in found if path.name == str(int(path.name))), key=lambda path: int(path.name))

    def _versions(self) -> list[Path]:
        folders = self._version_folders()
        if not folders:
            raise self.fail(1, f"{self.folder} holds no version folder: put the model into {self.folder / '1'}")
        policies = self.messages(self._message, "version_policy")
        choices = policies[-1].fields if policies else ()
        if not choices:
            return folders[-1:]
        choice = choices[-1]
        if not isinstance(choice.value, Message):
            raise self.fail(choice.line, f"version_policy.{choice.name} must be a message: {choice.name} {{ ... }}")
        if choice.name == "all":
            return folders
        if choice.name == "latest":
            return folders[-(self.number(choice.value, "num_versions") or 1) :]
        if choice.name == "specific":
            wanted = {str(field.value) for field in choice.value.fields if field.name == "versions"}
            missing = wanted - {folder.name for folder in folders}
            if missing:
                raise self.fail(choice.line, f"version_policy names {sorted(missing)[0]}, but there is no such folder")
            return [folder for folder in folders if folder.name in wanted]
        raise self.fail(choice.line, f"version_policy is {choice.name!r}: it may be latest, all or specific")

    def _manifest(self, name: str, folder: Path, kind: _Kind, execution: Execution, values: dict[str, Any]) -> Manifest:
        if kind.runtime == ENSEMBLE:
            return Manifest(name=name, version=folder.name, runtime=ENSEMBLE, execution=execution, **values)
        artifact = self.text(self._message, "default_model_filename") or kind.artifact
        if "/" in artifact or artifact.startswith(".") or "\\" in artifact:
            raise self.fail(self._line("default_model_filename"), f"{artifact!r} must be the name of a file")
        if not (folder / artifact).exists():
            there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise self.fail(
                self._line("default_model_filename"), f"{folder} holds no {artifact!r} but {there}: name the file"
            )
        if kind.runtime == "python":
            name_of_class = self._python_class(folder / artifact)
            artifact = f"{artifact}:{name_of_class}"
            if name_of_class == TRITON_CLASS:
                values = values | {"options": self._triton_options(values["options"])}
        return Manifest(
            name=name, version=folder.name, runtime=kind.runtime, artifact=artifact, execution=execution, **values
        )

    def _python_class(self, file: Path) -> str:
        """The one class of a file that is written for the `python` runtime."""
        try:
            source = file.read_text(encoding="utf-8")
            body = ast.parse(source).body
        except (OSError, SyntaxError, ValueError) as error:
            raise InvalidManifest(f"{file}: cannot be read as Python: {error}") from None
        names = [node.name for node in body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        if TRITON_CLASS in names:
            return TRITON_CLASS
        if len(names) != 1:
            raise InvalidManifest(f"{file}: must hold exactly one public class, it holds {len(names)}")
        return names[0]

    def _triton_options(self, parameters: dict[str, str]) -> dict[str, Any]:
        """`options` of a class that is written for Triton's Python backend."""
        if _ENVIRONMENT in parameters:
            raise self.fail(
                self._line("parameters"),
                f"parameters: {_ENVIRONMENT} is not unpacked: name the packages in a requirements.txt beside the model",
            )
        policies = self.messages(self._message, "model_transaction_policy")
        decoupled = any(self.flag(policy, "decoupled") for policy in policies)
        return ({"parameters": parameters} if parameters else {}) | ({"decoupled": True} if decoupled else {})

    # -- tensors ---------------------------------------------------------------------------------------------------

    def _signature(self, values: dict[str, Any], _: _Kind) -> None:
        batch = self.number(self._message, "max_batch_size")
        inputs = [self._tensor(tensor, "input", batched=batch > 0) for tensor in self.messages(self._message, "input")]
        outputs = [
            self._tensor(tensor, "output", batched=batch > 0) for tensor in self.messages(self._message, "output")
        ]
        if inputs or self.one(self._message, "max_batch_size") is not None:
            values["execution"]["max_batch_size"] = max(1, batch)
        if inputs:
            values["signature"] = Signature(tuple(inputs), tuple(outputs))

    def _tensor(self, tensor: Message, side: str, *, batched: bool) -> TensorSpec:
        self.known(
            tensor,
            side,
            *("name", "data_type", "dims", "format", "reshape", "label_filename"),
            *("is_shape_tensor", "allow_ragged_batch", "optional", "is_non_linear_format_io"),
        )
        name = self.text(tensor, "name")
        if not name:
            raise self.fail(tensor.line, f"{side}.name is missing")
        for field in tensor.fields:
            if field.name == "reshape":
                raise self.fail(field.line, f"{side} {name!r}: reshape is not served: give the model's own dims")
        for flag in ("is_shape_tensor", "allow_ragged_batch", "optional", "is_non_linear_format_io"):
            if self.flag(tensor, flag):
                raise self.fail(tensor.line, f"{side} {name!r}: {flag} is not served")
        kind = self.one(tensor, "data_type")
        if kind is None or kind.value not in DTYPES:
            said = kind.value if kind else "missing"
            line = kind.line if kind else tensor.line
            raise self.fail(line, f"{side} {name!r}: data_type is {said}, served are: {', '.join(DTYPES)}")
        dims = self.dims(tensor, f"{side} {name!r}")
        return TensorSpec(name, DTYPES[str(kind.value)], (-1, *dims) if batched else dims, self._labels(tensor))

    def _labels(self, tensor: Message) -> tuple[str, ...]:
        name = self.text(tensor, "label_filename")
        if not name:
            return ()
        line = next(field.line for field in tensor.fields if field.name == "label_filename")
        if "/" in name or "\\" in name or name.startswith("."):
            raise self.fail(line, f"label_filename {name!r} must be a file beside {PBTXT_NAME}")
        try:
            labels = tuple((self.folder / name).read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise self.fail(line, f"label_filename {name!r} cannot be read: {error}") from None
        if len(labels) > _MAX_LABELS:
            raise self.fail(line, f"label_filename {name!r} holds more than {_MAX_LABELS} labels")
        return labels

    # -- ensembles -------------------------------------------------------------------------------------------------

    def _stages(self, values: dict[str, Any], kind: _Kind) -> None:
        schedulings = self.messages(self._message, "ensemble_scheduling")
        if kind.runtime != ENSEMBLE:
            if schedulings:
                raise self.fail(schedulings[0].line, 'ensemble_scheduling needs platform: "ensemble"')
            return
        for name in ("dynamic_batching", "instance_group"):
            if self.one(self._message, name) is not None:
                raise self.fail(self._line(name), f"{name} is for models: an ensemble has none, give it to its steps")
        if not schedulings:
            raise self.fail(self._line("platform"), "an ensemble needs ensemble_scheduling { step [ ... ] }")
        values["ensemble"] = read_ensemble(self, schedulings[-1], values.get("signature"))
        batch = values["execution"].get("max_batch_size", 1)
        values["execution"] = {"max_batch_size": batch}  # what only tunes Triton's own ensembles is passed over
        values["options"] = {}

    # -- execution -------------------------------------------------------------------------------------------------

    def _batching(self, values: dict[str, Any], _: _Kind) -> None:
        execution = values["execution"]
        for batching in self.messages(self._message, "dynamic_batching"):
            self.known(
                batching,
                "dynamic_batching",
                *("preferred_batch_size", "max_queue_delay_microseconds", "preserve_ordering", "priority_levels"),
                *("default_priority_level", "default_queue_policy", "priority_queue_policy"),
            )
            execution["max_delay_ms"] = self.number(batching, "max_queue_delay_microseconds") / 1000
            for field in batching.fields:
                if field.name == "priority_queue_policy":
                    raise self.fail(field.line, "priority_queue_policy is not served: one queue policy holds for all")
            for policy in self.messages(batching, "default_queue_policy"):
                action = self.one(policy, "timeout_action")
                if action is not None and action.value not in ("REJECT", 0):
                    raise self.fail(action.line, f"timeout_action {action.value} is not served: it may be REJECT")
                if limit := self.number(policy, "max_queue_size"):
                    execution["queue_limit"] = limit
                if timeout := self.number(policy, "default_timeout_microseconds"):
                    execution["timeout_s"] = timeout / 1e6

    def _instances(self, values: dict[str, Any], _: _Kind) -> None:
        groups = [
            made for group in self.messages(self._message, "instance_group") for made in self._group(group, values)
        ]
        if not groups:
            return
        devices = {group.device for group in groups}
        if len(devices) > 1:
            values["execution"]["instances"] = tuple(groups)
        else:
            values["execution"] |= {"instances": sum(group.count for group in groups), "device": devices.pop()}

    def _group(self, group: Message, values: dict[str, Any]) -> list[InstanceGroup]:
        self.known(
            group,
            "instance_group",
            *("name", "kind", "count", "gpus", "profile", "passive", "host_policy", "rate_limiter"),
        )
        kind = self.one(group, "kind")
        word = str(kind.value) if kind else "KIND_AUTO"
        if word not in ("KIND_AUTO", "KIND_CPU", "KIND_GPU", "KIND_MODEL"):
            raise self.fail(group.line, f"instance_group.kind {word} is not served")
        gpus = [field.value for field in group.fields if field.name == "gpus"]
        count = self.number(group, "count") or 1
        self._limits(group, values)
        if word == "KIND_CPU" or (not gpus and word != "KIND_GPU"):
            return [InstanceGroup(count, "cpu" if word == "KIND_CPU" else "auto")]
        return [InstanceGroup(count, f"cuda:{gpu}") for gpu in gpus] or [InstanceGroup(count, "cuda")]

    def _limits(self, group: Message, values: dict[str, Any]) -> None:
        """What an instance needs. Groups that need different things would be different models here."""
        needs: dict[str, int] = {}
        priority = 1
        for limiter in self.messages(group, "rate_limiter"):
            self.known(limiter, "rate_limiter", "resources", "priority")
            priority = self.number(limiter, "priority") or 1
            for resource in self.messages(limiter, "resources"):
                self.known(resource, "rate_limiter.resources", "name", "global", "count")
                if needed := self.number(resource, "count"):
                    needs[self.text(resource, "name")] = needed
        found = {"resources": needs, "resource_priority": priority}
        before = {name: values["execution"].get(name, value) for name, value in found.items()}
        if before != found:
            raise self.fail(group.line, "rate_limiter: every group of a model must need the same: make them equal")
        values["execution"] |= found

    def _sequences(self, values: dict[str, Any], _: _Kind) -> None:
        for batching in self.messages(self._message, "sequence_batching"):
            read_sequences(self, batching, values, batched=self.number(self._message, "max_batch_size") > 0)

    def _parameters(self, values: dict[str, Any], kind: _Kind) -> None:
        for entry in self.messages(self._message, "parameters"):
            key = self.text(entry, "key")
            texts = self.messages(entry, "value")
            text = self.text(texts[-1], "string_value") if texts else ""
            if kind.runtime in ("python", ENSEMBLE):
                values["options"][key] = text
            elif key == "intra_op_thread_count":
                if not text.isdigit():
                    raise self.fail(entry.line, f"parameters: {key} must be a whole number, not {text!r}")
                values["execution"]["threads"] = int(text)
            elif key not in _SESSION_KEYS:
                raise self.fail(entry.line, f"parameters: {key!r} is not served for this backend: leave it out")

    def _cache(self, values: dict[str, Any], _: _Kind) -> None:
        for cache in self.messages(self._message, "response_cache"):
            values["execution"]["cache"] = self.flag(cache, "enable")

    def _transactions(self, _values: dict[str, Any], kind: _Kind) -> None:
        for policy in self.messages(self._message, "model_transaction_policy"):
            if self.flag(policy, "decoupled"):
                self._decoupled(policy.line, kind)

    def _decoupled(self, line: int, kind: _Kind) -> None:
        if kind.runtime != "python":
            raise self.fail(line, "decoupled: only models in Python give several responses to one request")

    def _warmup(self, values: dict[str, Any], _: _Kind) -> None:
        warmups = []
        for warmup in self.messages(self._message, "model_warmup"):
            shapes = {}
            for entry in self.messages(warmup, "inputs"):
                for value in self.messages(entry, "value"):
                    if any(field.name == "input_data_file" for field in value.fields):
                        raise self.fail(value.line, "model_warmup: input_data_file is not read: use zero_data")
                    shapes[self.text(entry, "key")] = self.dims(value, "model_warmup")
            rows = self.number(warmup, "batch_size") or 1
            warmups += [Warmup(rows, shapes=shapes)] * (self.number(warmup, "count") or 1)
        if warmups:
            values["execution"]["warmup"] = tuple(warmups)
