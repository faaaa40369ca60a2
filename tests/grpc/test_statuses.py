"""Every error of the domain has its gRPC status."""

from __future__ import annotations

import grpc
import pytest

from inference_engine.adapters.grpc.admission import told
from inference_engine.domain.errors import EngineError, all_errors


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_is_mapped(kind: type[EngineError]) -> None:
    code, text = told(kind("do this instead"), "ModelInfer")
    assert code not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN)
    assert text == "do this instead"
