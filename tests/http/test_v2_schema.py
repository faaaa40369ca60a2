"""schemathesis sends what the OpenAPI of v2 allows, and what it forbids: nothing may end in a server error."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from inference_engine.core.settings import Settings
from tests.http.support import World, listening

pytestmark = pytest.mark.slow
EXAMPLES = 25
EXTENSIONS = (
    "/v2/models/{model}/versions/{version}/infer",
    "/v2/models/{model}/generate",
    "/v2/models/{model}/generate_stream",
    "/v2/models/stats",
    "/v2/models/{model}/config",
    "/v2/models/{model}/trace/setting",
    "/v2/trace/setting",
    "/v2/logging",
    "/v2/systemsharedmemory/region/{region}/register",
    "/v2/cudasharedmemory/region/{region}/register",
    "/v2/repository/index",
)


def test_no_request_is_answered_by_a_server_error() -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="it is among the test dependencies")

    with listening(World(Settings(http_shared_memory=True))) as url:
        raw: dict[str, Any] = httpx.get(f"{url}/openapi.json").json()
        raw["paths"] = {path: item for path, item in raw["paths"].items() if path.startswith("/v2")}
        schema = schemathesis.openapi.from_dict(raw)
        operations = [result.ok() for result in schema.get_all_operations()]
        probed = {operation.path for operation in operations}
        assert {*EXTENSIONS} <= probed, probed
        for operation in operations:
            _probe(operation.as_strategy(), url)


def _probe(cases: Any, url: str) -> None:
    from hypothesis import HealthCheck, given, settings

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(cases)
    def holds(case: Any) -> None:
        answer = case.call(base_url=url)
        assert answer.status_code < 500 or answer.status_code == 503, (case, answer.text)

    holds()
