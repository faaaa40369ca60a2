"""GET /api/version, /api/tags, /api/ps and POST /api/show: which models there are, and what is known of them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec

from inference_engine.adapters.http.decoding import decode
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.ollama import wire
from inference_engine.adapters.http.ollama.values import resolve
from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.facts import FactsReader, ModelFacts
from inference_engine.domain.model import Manifest, ModelRef
from inference_engine.domain.ports import StoredModel
from inference_engine.domain.text_tensors import TEXT
from inference_engine.services.models import ModelService, ModelStatus

API_VERSION = "0.13.0"
"""The version of Ollama whose API this is: its clients ask for a least one."""
_SHOW = msgspec.json.Decoder(wire.ShowRequest)
_ENCODER = msgspec.json.Encoder()
_FOREVER = datetime(2300, 1, 1, tzinfo=UTC)
_TENSOR_TASKS = ("tabular-", "image-classification", "object-detection", "image-segmentation", "time-series-")


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
        found = [status for status in self._models.statuses() if _takes_texts(self._stored(status).manifest)]
        names = [(f"{status.name}:{status.version}", status) for status in found]
        refs = {ModelRef(status.name, status.version): status for status in found}
        names += [
            (f"{route.name}:latest", refs[route.target])
            for route in self._models.routes()
            if route.rule == "pinned" and route.target in refs
        ]
        listed = [await self._listed(name, status) for name, status in names]
        await exchange.respond(200, _ENCODER.encode(wire.Tags(listed)), compress=True)

    async def _listed(self, name: str, status: ModelStatus) -> wire.ListedModel:
        facts = await self._read(self._stored(status))
        return wire.ListedModel(
            name, name, facts.modified_at, status.size_bytes, facts.digest, _details(facts),
            list(self._capabilities(facts, status)),
        )  # fmt: skip

    async def running(self, exchange: Exchange) -> None:
        """The models that are loaded, with their measured memory."""
        models = []
        for status in self._models.statuses():
            if status.state in ("ready", "restarting", "draining"):
                name = f"{status.name}:{status.version}"
                facts = await self._read(self._stored(status))
                expires = status.expires_at or _FOREVER
                context = status.context_length or 0
                models.append(
                    wire.RunningModel(
                        name, name, status.memory_bytes, facts.digest, _details(facts), expires, 0, context
                    )
                )
        await exchange.respond(200, _ENCODER.encode(wire.Running(models)), compress=True)

    async def show(self, exchange: Exchange) -> None:
        body = decode(_SHOW, await exchange.body())
        ref = resolve(self._models, named(body)).ref
        status = self._models.status(ref)
        stored = self._models.stored(ref)
        facts = await self._read(stored)
        conversation = stored.manifest.conversation
        shown = wire.Shown(
            details=_details(facts),
            model_info=facts.metadata,
            capabilities=list(self._capabilities(facts, status)),
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

    def _capabilities(self, facts: ModelFacts, status: ModelStatus) -> tuple[str, ...]:
        """What the files show, and what the model says of itself once it is loaded."""
        loaded = self._models.loaded(ModelRef(status.name, status.version))
        found = list(facts.capabilities)
        if loaded is not None:
            found += ["completion"] if {"chat", "complete"} & set(loaded.kinds) else []
            found += ["embedding"] if "embed" in loaded.kinds else []
            found += ["vision"] if "image" in loaded.media else []
        return tuple(dict.fromkeys(found))

    def _stored(self, status: ModelStatus) -> StoredModel:
        return self._models.stored(ModelRef(status.name, status.version))

    async def _read(self, stored: StoredModel) -> ModelFacts:
        return await asyncio.to_thread(self._facts.read, stored)


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
