"""Makes the ASGI application out of services and dialects: the one place here that names every dialect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference_engine.adapters.http import admin, anthropic, inference_api, ollama, openai, v2
from inference_engine.adapters.http.calls import Calls
from inference_engine.adapters.http.console import CONSOLE_DIST, Console
from inference_engine.adapters.http.cool import Cool
from inference_engine.adapters.http.edge import Edge, EdgeOptions
from inference_engine.adapters.http.exchange import App
from inference_engine.adapters.http.operations import dialect as operations
from inference_engine.adapters.shared_memory import Regions
from inference_engine.core.settings import Settings
from inference_engine.domain.facts import FactsReader
from inference_engine.services.access import AccessService
from inference_engine.services.analysis import Analysis
from inference_engine.services.health import HealthService
from inference_engine.services.inference import InferenceService
from inference_engine.services.model_store import ModelStore
from inference_engine.services.models import ModelService


def create_app(
    settings: Settings,
    models: ModelService,
    inference: InferenceService,
    store: ModelStore,
    facts: FactsReader,
    access: AccessService,
    health: HealthService,
    exposition: Callable[[], tuple[bytes, str]],
    system: Callable[[], Any],
    version: str,
    stateful: openai.Stateful,
    analysis: Analysis,
    clock: Callable[[], float],
    console_dist: Path = CONSOLE_DIST,
) -> Edge:
    """The whole HTTP side as one ASGI callable.

    `stateful` is what is remembered for tenants, `exposition` gives the metrics and their content type, `system`
    describes the machine as plain values, `clock` is the monotonic clock that the services
    use. Opening and closing the services is the caller's.
    """
    calls = Calls(clock, settings.request_timeout_s)
    items = inference_api.BatchLimits(settings.inference_batch_max_items, settings.inference_batch_concurrency)
    regions = Regions(settings.http_shared_memory, "http_shared_memory")
    dialects = (
        openai.dialect(models, inference, calls, settings.default_model, version, stateful),
        anthropic.dialect(models, inference, calls, settings.default_model),
        v2.dialect(models, inference, health, calls, version, regions),
        admin.dialect(models, inference.reuse, system),
        inference_api.dialect(analysis, inference, calls, items, clock),
        ollama.dialect(models, inference, store, facts, calls, version, clock),
        operations(health, exposition, Console(console_dist, settings.root_path), settings.api_docs),
    )
    edge = Edge(
        dialects,
        access,
        EdgeOptions(
            version=version,
            host=settings.host,
            max_body_bytes=int(settings.max_body_mb * (1 << 20)),
            cors_origins=settings.cors_origins,
            root_path=settings.root_path,
            access_log=settings.access_log,
        ),
    )

    def site() -> App:
        from inference_engine.adapters.http.site import make_site

        return make_site(edge, dialects, version, settings.api_key_header, settings.api_docs)

    edge.cool = Cool(site)
    return edge
