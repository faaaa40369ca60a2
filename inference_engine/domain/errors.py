"""Every error the engine raises on purpose, as one tree; knows no transport and no status code.

EngineError
    InvalidRequest             the caller can mend the request
        UnknownField           a field that would change the meaning and is not supported
        InvalidTensor          wrong name, dtype, shape, element count or value
        ContextLengthExceeded  prompt plus answer do not fit the model's context
        UnsupportedTask        the model cannot do what was asked of it
    NotFound
        ModelNotFound
        RouteNotFound
    AccessError
        Unauthenticated
        Forbidden
    Unavailable                try again later (`retry_after_s`)
        QueueFull
        ModelNotReady
        ShuttingDown
    DeadlineExceeded
    RequestCancelled
    ModelError                 the model's files or its runtime are at fault
        InvalidManifest
        ModelLoadFailed
        RuntimeMissing         the library that runs this format is not installed
        InferenceFailed
        RunnerLost             the runner process died and the work could not be continued
"""

from __future__ import annotations


class EngineError(Exception):
    """An error with a stable `code`, a `message` that says what to do next, and the field at fault (`param`)."""

    code = "engine_error"
    retryable = False

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidRequest(EngineError):
    code = "invalid_request"


class UnknownField(InvalidRequest):
    code = "unknown_field"


class InvalidTensor(InvalidRequest):
    code = "invalid_tensor"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class UnsupportedTask(InvalidRequest):
    code = "unsupported_task"


class NotFound(EngineError):
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class RouteNotFound(NotFound):
    code = "route_not_found"


class AccessError(EngineError):
    code = "access_error"


class Unauthenticated(AccessError):
    code = "unauthenticated"


class Forbidden(AccessError):
    code = "forbidden"


class Unavailable(EngineError):
    code = "unavailable"
    retryable = True

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = 1.0) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)


class QueueFull(Unavailable):
    code = "queue_full"


class ModelNotReady(Unavailable):
    code = "model_not_ready"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class DeadlineExceeded(EngineError):
    code = "deadline_exceeded"
    retryable = True


class RequestCancelled(EngineError):
    code = "cancelled"


class ModelError(EngineError):
    code = "model_error"


class InvalidManifest(ModelError):
    code = "invalid_manifest"


class ModelLoadFailed(ModelError):
    code = "model_load_failed"


class RuntimeMissing(ModelError):
    code = "runtime_missing"


class InferenceFailed(ModelError):
    code = "inference_failed"


class RunnerLost(ModelError):
    code = "runner_lost"
    retryable = True


def all_errors() -> tuple[type[EngineError], ...]:
    """Every class of the tree, root first: dialects and their tests go through it."""
    found: list[type[EngineError]] = [EngineError]
    for cls in found:
        found.extend(cls.__subclasses__())
    return tuple(found)


def error_from_code(
    code: str, message: str, *, param: str | None = None, retry_after_s: float | None = None
) -> EngineError:
    """Rebuild an error that crossed a process boundary; an unknown code becomes `InferenceFailed`."""
    cls = {candidate.code: candidate for candidate in all_errors()}.get(code, InferenceFailed)
    return cls(message, param=param, retry_after_s=retry_after_s)
