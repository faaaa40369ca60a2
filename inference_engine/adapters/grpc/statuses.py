"""The gRPC status of every error of the domain."""

from __future__ import annotations

import grpc

from inference_engine.domain import errors
from inference_engine.domain.errors import EngineError

_Code = grpc.StatusCode

STATUS: dict[type[EngineError], grpc.StatusCode] = {
    errors.EngineError: _Code.INTERNAL,
    errors.InvalidRequest: _Code.INVALID_ARGUMENT,
    errors.UnknownField: _Code.INVALID_ARGUMENT,
    errors.InvalidTensor: _Code.INVALID_ARGUMENT,
    errors.ContextLengthExceeded: _Code.INVALID_ARGUMENT,
    errors.UnsupportedTask: _Code.INVALID_ARGUMENT,
    errors.NotFound: _Code.NOT_FOUND,
    errors.ModelNotFound: _Code.NOT_FOUND,
    errors.RouteNotFound: _Code.NOT_FOUND,
    errors.AccessError: _Code.PERMISSION_DENIED,
    errors.Unauthenticated: _Code.UNAUTHENTICATED,
    errors.Forbidden: _Code.PERMISSION_DENIED,
    errors.Unavailable: _Code.UNAVAILABLE,
    errors.QueueFull: _Code.RESOURCE_EXHAUSTED,
    errors.ModelNotReady: _Code.UNAVAILABLE,
    errors.ShuttingDown: _Code.UNAVAILABLE,
    errors.DeadlineExceeded: _Code.DEADLINE_EXCEEDED,
    errors.RequestCancelled: _Code.CANCELLED,
    errors.ModelError: _Code.INTERNAL,
    errors.InvalidManifest: _Code.FAILED_PRECONDITION,
    errors.ModelLoadFailed: _Code.FAILED_PRECONDITION,
    errors.RuntimeMissing: _Code.FAILED_PRECONDITION,
    errors.InferenceFailed: _Code.INTERNAL,
    errors.RunnerLost: _Code.UNAVAILABLE,
}
