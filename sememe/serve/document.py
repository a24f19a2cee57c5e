"""The OpenAPI document: bodies, which routes read by themselves, and the problems that each route may answer with."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from sememe.serve import wire
from sememe.serve.problems import MEDIA_TYPE

if TYPE_CHECKING:
    from sememe.serve.app import Route

WHEN = {
    HTTPStatus.BAD_REQUEST: "The body is no JSON.",
    HTTPStatus.UNAUTHORIZED: "No key, or an unknown one.",
    HTTPStatus.FORBIDDEN: "The key has not the scope, or the caller may not connect.",
    HTTPStatus.NOT_FOUND: "There is no such model.",
    HTTPStatus.REQUEST_TIMEOUT: "The body came too slowly.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is not marked as JSON.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "The request does not fit this description.",
    HTTPStatus.CONFLICT: "The model cannot do this: it has not the rule, the items, vectors; or it is damaged.",
    HTTPStatus.TOO_MANY_REQUESTS: "Too much at once: wait as long as Retry-After says.",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "The headers are too long.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "The server failed.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The store is down, or the server is being stopped.",
}
OF_BODIES = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
}
PATH_ID = TypeAdapter(wire.IdText).json_schema()
MODELS = "/v1/models"
REF = "#/components/schemas/{model}"


def problem_answers(route: "Route") -> dict[int | str, dict[str, Any]]:
    """What `route` may answer beside what it is for."""
    content = {MEDIA_TYPE: {"schema": {"$ref": REF.format(model="Problem")}}}
    return {
        int(status): {"description": text, "content": content}
        for status, text in WHEN.items()
        if _may_answer(route, status)
    }


def _may_answer(route: "Route", status: HTTPStatus) -> bool:
    of_models = route.path.startswith(MODELS)
    if status == HTTPStatus.NOT_FOUND:
        return of_models and "{" in route.path
    if status == HTTPStatus.CONFLICT:
        return of_models or route.body is not None or route.query is not None
    return route.body is not None or status not in OF_BODIES


def describe(app: FastAPI, routes: Sequence["Route"]) -> None:
    """Have `app` describe the bodies and the keys of `routes` too."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(title=app.title, version=app.version, routes=app.routes)
            _complete(found, routes)
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _complete(document: dict[str, Any], routes: Sequence["Route"]) -> None:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    _, problem = _schema(wire.Problem, mode="serialization")
    schemas.update(problem)
    for route in routes:
        operation = document["paths"][route.path][route.method.lower()]
        # Where the server was started without keys, none is needed.
        operation["security"] = [{"key": []}, {}] if route.scope is not None else [{}]
        if "{" in route.path:
            name = route.path.partition("{")[2].partition("}")[0]
            operation["parameters"] = [{"name": name, "in": "path", "required": True, "schema": PATH_ID}]
        if route.query is not None:
            operation["parameters"] = _of_query(route.query)
        if route.body is not None:
            schema, needed = _schema(route.body, mode="validation")
            schemas.update(needed)
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}


def _of_query(kind: Any) -> list[dict[str, Any]]:
    """The fields of a query string, each a parameter."""
    schema = TypeAdapter(kind).json_schema(mode="validation")
    return [
        {"name": name, "in": "query", "required": False, "description": field.pop("description", ""), "schema": field}
        for name, field in schema["properties"].items()
    ]


def _schema(kind: Any, *, mode: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(a schema of `kind`, the schemas by name that it and others refer to)"""
    schema = TypeAdapter(kind).json_schema(mode=mode, ref_template=REF)
    needed = schema.pop("$defs", {})
    if isinstance(kind, type):
        needed[kind.__name__] = schema
        schema = {"$ref": REF.format(model=kind.__name__)}
    return schema, needed
