"""The HTTP status of every error of the domain, for dialects whose protocol does not say otherwise."""

from __future__ import annotations

from inference_engine.domain import errors
from inference_engine.domain.errors import EngineError

STATUS: dict[type[EngineError], int] = {
    errors.EngineError: 500,
    errors.InvalidRequest: 400,
    errors.UnknownField: 400,
    errors.InvalidTensor: 400,
    errors.ContextLengthExceeded: 400,
    errors.UnsupportedTask: 400,
    errors.NotFound: 404,
    errors.ModelNotFound: 404,
    errors.RouteNotFound: 404,
    errors.AccessError: 403,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.Unavailable: 503,
    errors.QueueFull: 429,
    errors.ModelNotReady: 503,
    errors.ShuttingDown: 503,
    errors.DeadlineExceeded: 504,
    errors.RequestCancelled: 499,
    errors.ModelError: 500,
    errors.InvalidManifest: 500,
    errors.ModelLoadFailed: 500,
    errors.RuntimeMissing: 501,
    errors.InferenceFailed: 500,
    errors.RunnerLost: 503,
}
