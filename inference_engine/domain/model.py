"""What a model is: its identity, its manifest and its signature. Knows no file system and no runtime library."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from inference_engine.domain.errors import InvalidRequest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

ExecutorKind = Literal["runner", "thread"]


class ModelRef(msgspec.Struct, frozen=True, order=True):
    """The exact identity of a model: every answer can be traced to one of these."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


def check_name(text: str, field: str = "model") -> str:
    """Return `text` when it is a legal model or route name.

    Raises:
        InvalidRequest: when it could leave the model repository or does not match `[A-Za-z0-9][A-Za-z0-9._-]*`.
    """
    if not _NAME.fullmatch(text) or ".." in text:
        raise InvalidRequest(
            f"{field} {text[:80]!r} is not a valid name: use letters, digits, '.', '_' and '-', "
            "starting with a letter or digit, at most 128 characters",
            param=field,
        )
    return text


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One input or output: numpy dtype name (`bytes` for strings) and shape, where -1 is any size.

    `labels` name the positions of an output's last dimension, where they are classes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a predictive model takes and gives. The first -1 of every shape is the batch."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...] = ()

    @property
    def batched(self) -> bool:
        """True when every tensor starts with a free dimension, so that requests can be merged."""
        specs = self.inputs + self.outputs
        return bool(self.inputs) and all(spec.shape and spec.shape[0] == -1 for spec in specs)


class PipelineSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The explicit steps around a model. Each step is `{use: NAME, ...options}`."""

    preprocess: tuple[dict[str, Any], ...] = ()
    postprocess: tuple[dict[str, Any], ...] = ()


class Warmup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request that is computed after a load, before anybody else's: `rows` rows of zeros.

    `shapes` gives the sizes of an input without its rows, where the signature leaves some open (else they are 1);
    `inputs` gives values instead of zeros, as lists nested like the tensor.
    """

    rows: int = 1
    shapes: dict[str, tuple[int, ...]] = {}
    inputs: dict[str, list[Any]] = {}


class InstanceGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`count` instances of a model on one `device`."""

    count: int = 1
    device: str = "auto"


class SequenceControls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of inputs that tell the model about the sequence of each row, and that no client sends.

    `start` and `end` are 1 (or true) at the first and the last request, `id` is the client's id, `ready` is 0 (or
    false) for rows that hold no request. An empty name leaves one out.
    """

    start: str = ""
    end: str = ""
    ready: str = ""
    id: str = ""


class SequenceState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor that the server keeps for each sequence: what the model gave as `output` is its next `input`.

    At the beginning it is `initial`, or zeros; `shape`, without rows, gives the sizes that the model leaves open.
    Clients get it only where it is `visible`.
    """

    input: str
    output: str
    initial: list[Any] | float | None = None
    shape: tuple[int, ...] | None = None
    visible: bool = False


class Sequences(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model that keeps something between requests is run: a sequence stays with one instance.

    An instance holds up to `max_sequences` at a time, and forgets one that had no request for `max_idle_s` seconds.
    `oldest` merges the requests that have waited longest. `direct` gives each sequence a row of its own in every batch,
    and an instance holds `max_batch_size` of them.
    """

    max_idle_s: float = 60.0
    max_sequences: int = 64
    strategy: Literal["oldest", "direct"] = "oldest"
    controls: SequenceControls = SequenceControls()
    states: tuple[SequenceState, ...] = ()


class Execution(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is run. Times are seconds unless the name says otherwise.

    `instances` is a number, all of them on `device`, or groups with a device each. `resources` is what one instance
    needs of what the server has, while it computes; with a lower `resource_priority` a model gets more turns.

    `cache` None keeps answers that would be the same again, but no predictions; true keeps these too, false nothing.
    """

    executor: ExecutorKind = "runner"
    instances: int | tuple[InstanceGroup, ...] = 1
    threads: int = 0
    device: str = "auto"
    max_batch_size: int = 64
    max_delay_ms: float = 0.0
    queue_limit: int = 1024
    timeout_s: float = 30.0
    keep_alive_s: float = 300.0
    preload: bool = False
    pin: bool = False
    memory_limit_mb: int | None = None
    cache: bool | None = None
    warmup: tuple[Warmup, ...] = ()
    sequences: Sequences | None = None
    resources: dict[str, int] = {}
    resource_priority: int = 1

    @property
    def groups(self) -> tuple[InstanceGroup, ...]:
        """The instances by device."""
        if isinstance(self.instances, int):
            return (InstanceGroup(self.instances, self.device),)
        return self.instances

    @property
    def instance_count(self) -> int:
        return sum(group.count for group in self.groups)


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message that a conversation starts with."""

    role: Literal["system", "user", "assistant"]
    content: str


class Conversation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every chat with the model starts from.

    `system` is for chats that bring no system message, `messages` come before the client's own. `stop` strings and
    `max_tokens` are for requests that set none, `adapter` answers where the target names none.
    """

    system: str = ""
    messages: tuple[Turn, ...] = ()
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    adapter: str | None = None


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model of an ensemble. `model` is a target: `name` goes by its route, `name:version` is exact.

    Tensors are handed on in a pool of names. `inputs` says for each tensor the model takes which name of the pool it
    is; `outputs` gives those of its tensors that are wanted their names in the pool.
    """

    model: str
    inputs: dict[str, str]
    outputs: dict[str, str]


class EnsembleSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Models that are served as one. What no stage makes are the ensemble's inputs."""

    stages: tuple[Stage, ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`model.yaml`: everything the engine knows of a model before it is loaded.

    `artifact` is empty where there is no file: an `ensemble`, or the runtime `identity`.
    """

    name: str
    version: str
    runtime: str
    artifact: str = ""
    task: str = ""
    description: str = ""
    signature: Signature | None = None
    pipeline: PipelineSpec = PipelineSpec()
    ensemble: EnsembleSpec | None = None
    execution: Execution = Execution()
    options: dict[str, Any] = {}
    conversation: Conversation = Conversation()
    tags: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    licence: str = ""
    digests: dict[str, str] = {}

    @property
    def ref(self) -> ModelRef:
        return ModelRef(self.name, self.version)
