"""What OpenAPI says of an endpoint, from its `Doc`: msgspec types as schemas, examples, errors. Knows no framework."""

from __future__ import annotations

import http
import re
from typing import Any, NamedTuple

import msgspec

from inference_engine.adapters.http.endpoints import Doc, Endpoint

REFERENCE = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"{([a-z_]+)(?::path)?}")


class Described(NamedTuple):
    """An endpoint for OpenAPI: what the framework merges in, and the schemas it refers to."""

    operation_id: str
    extra: dict[str, Any]
    responses: dict[int | str, dict[str, Any]]
    schemas: dict[str, Any]


def describe(endpoint: Endpoint, doc: Doc, dialect: str) -> Described:
    """Everything OpenAPI is told of one endpoint."""
    schemas: dict[str, Any] = {}
    extra: dict[str, Any] = {"parameters": [_path_parameter(name) for name in _PARAMETER.findall(endpoint.path)]}
    extra["security"] = [] if endpoint.public else [{"bearer": []}, {"key": []}, {}]
    if doc.request is not None:
        content: dict[str, Any] = {"schema": _schema(doc.request, dialect, schemas)}
        if doc.request_examples:
            content["examples"] = {name: {"value": value} for name, value in doc.request_examples.items()}
        contents = {doc.request_type: content}
        if doc.form is not None:
            contents["multipart/form-data"] = {"schema": _schema(doc.form, dialect, schemas)}
        extra["requestBody"] = {"required": True, "content": contents}
    responses: dict[int | str, dict[str, Any]] = {200: _answer(doc, dialect, schemas)}
    responses |= {status: {"description": http.HTTPStatus(status).phrase} for status in doc.errors}
    words = re.sub(r"[^a-z0-9]+", "_", endpoint.path.lower()).strip("_")
    return Described(f"{endpoint.method.lower()}_{words}", extra, responses, schemas)


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _answer(doc: Doc, dialect: str, schemas: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if doc.response is not None:
        content["schema"] = _schema(doc.response, dialect, schemas)
    if doc.response_example is not None:
        content["example"] = doc.response_example
    return {"description": "OK", "content": {doc.response_type: content}}


def _schema(kind: Any, dialect: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to the schema of a type; its components get names of their own in each dialect."""
    (schema,), components = msgspec.json.schema_components(
        [kind], ref_template=f"#/components/schemas/{dialect}.{{name}}"
    )
    schemas.update({f"{dialect}.{name}": component for name, component in components.items()})
    return schema


def security_schemes(key_header: str) -> dict[str, Any]:
    """The two ways to send a key."""
    return {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": key_header},
    }
