"""GET /api/version, /api/tags, /api/ps and POST /api/show: which models there are, and what is known of them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from inference_engine.adapters.http.decoding import decode
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.ollama import wire
from inference_engine.adapters.http.ollama.values import resolve
from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.facts import FactsReader, ModelFacts
from inference_engine.domain.model import Manifest, ModelRef
from inference_engine.domain.ports import Loaded, StoredModel
from inference_engine.domain.text_tensors import TEXT
from inference_engine.services.models import ModelService, ModelStatus

API_VERSION = "0.13.0"
"""The version of Ollama whose API this is: its clients ask for a least one."""
_SHOW = msgspec.json.Decoder(wire.ShowRequest)
_ENCODER = msgspec.json.Encoder()
_FOREVER = datetime(2300, 1, 1, tzinfo=UTC)
_TENSOR_TASKS = ("tabular-", "image-classification", "object-detection", "image-segmentation", "time-series-")


class _Known(NamedTuple):
    """All that the service knows of a model at one moment: it may be gone while its files are read."""

    status: ModelStatus
    stored: StoredModel
    loaded: Loaded | None


class Catalog:
    """What can be asked of the models without running them. `server` names this program and its version."""

    def __init__(self, models: ModelService, facts: FactsReader, server: str) -> None:
        self._models = models
        self._facts = facts
        self._server = server

    async def version(self, exchange: Exchange) -> None:
        await exchange.respond(200, _ENCODER.encode(wire.Version(API_VERSION, self._server)))

    async def tags(self, exchange: Exchange) -> None:
        """Every model that takes texts: exact names first, then the pinned routes."""
        known = {_ref(status): self._known(status) for status in self._models.statuses()}
        found = {ref: one for ref, one in known.items() if _takes_texts(one.stored.manifest)}
        names = [(str(ref), one) for ref, one in found.items()]
        names += [
            (f"{route.name}:latest", found[route.target])
            for route in self._models.routes()
            if route.rule == "pinned" and route.target in found
        ]
        listed = [await self._listed(name, one) for name, one in names]
        await exchange.respond(200, _ENCODER.encode(wire.Tags(listed)), compress=True)

    async def _listed(self, name: str, one: _Known) -> wire.ListedModel:
        facts = await self._read(one.stored)
        size = one.status.size_bytes
        capabilities = _capabilities(facts, one.loaded)
        return wire.ListedModel(name, name, facts.modified_at, size, facts.digest, _details(facts), capabilities)

    async def running(self, exchange: Exchange) -> None:
        """The models that are loaded, with their measured memory."""
        known = [self._known(status) for status in self._models.statuses()]
        models = [await self._running(one) for one in known if one.loaded is not None]
        await exchange.respond(200, _ENCODER.encode(wire.Running(models)), compress=True)

    async def _running(self, one: _Known) -> wire.RunningModel:
        facts = await self._read(one.stored)
        name, status = str(_ref(one.status)), one.status
        expires, context = status.expires_at or _FOREVER, status.context_length or 0
        return wire.RunningModel(name, name, status.memory_bytes, facts.digest, _details(facts), expires, 0, context)

    async def show(self, exchange: Exchange) -> None:
        body = decode(_SHOW, await exchange.body())
        ref = resolve(self._models, named(body)).ref
        one = self._known(self._models.status(ref))
        stored = one.stored
        facts = await self._read(stored)
        conversation = stored.manifest.conversation
        shown = wire.Shown(
            details=_details(facts),
            model_info=facts.metadata,
            capabilities=_capabilities(facts, one.loaded),
            modified_at=facts.modified_at,
            modelfile=_modelfile(stored.manifest, facts),
            license=stored.manifest.licence,
            parameters=_parameters(facts.defaults),
            template=facts.template,
            system=conversation.system,
            messages=[{"role": turn.role, "content": turn.content} for turn in conversation.messages],
            projector_info=facts.projector,
        )
        await exchange.respond(200, _ENCODER.encode(shown), compress=True)

    def _known(self, status: ModelStatus) -> _Known:
        ref = _ref(status)
        return _Known(status, self._models.stored(ref), self._models.loaded(ref))

    async def _read(self, stored: StoredModel) -> ModelFacts:
        return await asyncio.to_thread(self._facts.read, stored)


def _ref(status: ModelStatus) -> ModelRef:
    return ModelRef(status.name, status.version)


def _capabilities(facts: ModelFacts, loaded: Loaded | None) -> list[str]:
    """What the files show, and what the model says of itself once it is loaded."""
    found = list(facts.capabilities)
    if loaded is not None:
        found += ["completion"] if {"chat", "complete"} & set(loaded.kinds) else []
        found += ["embedding"] if "embed" in loaded.kinds else []
        found += ["vision"] if "image" in loaded.media else []
    return list(dict.fromkeys(found))


def named(body: wire.NameRequest) -> str:
    """The model that a request names. Raises `InvalidRequest` when it names none."""
    name = body.model or body.name
    if not name:
        raise InvalidRequest("model is missing: name one of GET /api/tags", param="model")
    return name


def _takes_texts(manifest: Manifest) -> bool:
    """Ollama's clients offer every listed model for chats: those that compute tensors stay out of the list."""
    if manifest.signature is not None:
        return any(spec.name == TEXT for spec in manifest.signature.inputs)
    return not manifest.task.startswith(_TENSOR_TASKS)


def _details(facts: ModelFacts) -> wire.Details:
    families = [facts.family] if facts.family else []
    families += ["clip"] if facts.projector else []
    return wire.Details("", facts.format, facts.family, families, _size(facts.parameters), facts.quantization)


def _size(parameters: int) -> str:
    for unit, factor in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if parameters >= factor:
            return f"{parameters / factor:.1f}{unit}"
    return str(parameters) if parameters else ""


def _parameters(defaults: dict[str, Any]) -> str:
    lines = []
    for name, value in defaults.items():
        values = value if isinstance(value, list) else [value]
        lines += [f"{name:<30} {_quoted(item)}" for item in values]
    return "\n".join(lines)


def _quoted(value: Any) -> str:
    return msgspec.json.encode(value).decode() if isinstance(value, str) else str(value)


def _modelfile(manifest: Manifest, facts: ModelFacts) -> str:
    """What would make this model again from itself; the template stays in it."""
    lines = [f"FROM {manifest.ref}"]
    if manifest.conversation.system:
        lines.append(f'SYSTEM """{manifest.conversation.system}"""')
    for name, value in facts.defaults.items():
        lines += [f"PARAMETER {name} {_quoted(item)}" for item in (value if isinstance(value, list) else [value])]
    return "\n".join(lines) + "\n"
