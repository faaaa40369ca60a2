"""schemathesis sends what the OpenAPI of the inference routes allows, and what it forbids."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.http.image_models import add_image_models
from tests.http.support import World, listening

pytestmark = pytest.mark.slow
EXAMPLES = 40


def test_no_request_is_answered_by_a_server_error() -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="it is among the test dependencies")
    from hypothesis import HealthCheck, given, settings

    world = World()
    add_image_models(world)
    with listening(world) as url:
        raw: dict[str, Any] = httpx.get(f"{url}/openapi.json").json()
        raw["paths"] = {path: item for path, item in raw["paths"].items() if path.startswith("/inference/")}
        operations = [result.ok() for result in schemathesis.openapi.from_dict(raw).get_all_operations()]
        assert len(operations) >= 4
        for operation in operations:

            @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            @given(operation.as_strategy())
            def holds(case: Any) -> None:
                answer = case.call(base_url=url)
                assert answer.status_code < 500, (case, answer.text)
                if answer.status_code >= 400:
                    assert set(answer.json()["error"]) == {"code", "message", "field"}

            holds()
