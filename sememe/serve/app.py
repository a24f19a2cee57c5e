"""Routes of the API, and nothing else: who may call them, what they take and give, which part of the service answers.

A route is a line of `ROUTES`.  Bodies are read and checked by pydantic straight from the bytes, and answers written the
same way: what FastAPI would do on the way costs more than the answer; its document of the API is complete all the same.
"""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, TypeAdapter
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.types import Receive
from starlette.types import Scope as Connection

from sememe import __version__
from sememe.serve import browse, browse_wire, wire, wire_catalogue, wire_models
from sememe.serve.document import describe, problem_answers
from sememe.serve.exchange import Endpoint, Reply, read_body
from sememe.serve.gate import Gate
from sememe.serve.keys import KeyRing
from sememe.serve.metrics import MEDIA_TYPE as METRICS_TYPE
from sememe.serve.page_files import add_page
from sememe.serve.problems import HttpProblem, problem_of
from sememe.serve.scopes import Scope
from sememe.serve.service import Service

_log = logging.getLogger(__name__)

Call = Callable[[Service, Any, str], Awaitable[BaseModel]]
"""(service, body or query, what the path names: a user or a model) -> answer"""


class _Anything(PathConvertor):
    """All the rest of a path, where Starlette's own stops at the end of a line."""

    regex = "(?s:.*)"


register_url_convertor("anything", _Anything())


@dataclass(frozen=True)
class Route:
    """One line of the API."""

    method: str
    path: str
    call: Call
    answer: type[BaseModel]
    summary: str
    scope: Scope | None = "read"
    """None: open to whoever may connect, for what watches the server."""
    body: Any = None
    """Type of the body; None: none is read."""
    query: type[browse_wire.Query] | None = None
    """Type of the query string, which is then given in place of a body."""
    cost: Callable[[Any], int] = lambda _: 1
    """What a call costs of the key's rate."""

    @property
    def name(self) -> str:
        """Of the operation, and of the route in metrics."""
        return f"{self.method.lower()} {self.path}"


async def _recommend(service: Service, body: wire.RecommendRequest, _: str) -> BaseModel:
    return await service.recommend(body)


async def _recommend_batch(service: Service, body: wire.RecommendBatchRequest, _: str) -> BaseModel:
    return await service.recommend_batch(body.requests)


async def _similar(service: Service, body: wire.SimilarRequest, _: str) -> BaseModel:
    return await service.similar(body)


async def _events(service: Service, body: wire.Event | wire.EventBatch, _: str) -> BaseModel:
    return await service.append(_all_events(body))


async def _stock(service: Service, body: wire_catalogue.StockRequest, _: str) -> BaseModel:
    return await service.put_stock(body)


async def _put_items(service: Service, body: wire_catalogue.ItemsRequest, _: str) -> BaseModel:
    return await service.put_items(body)


async def _remove_items(service: Service, body: wire_catalogue.RemoveItemsRequest, _: str) -> BaseModel:
    return await service.remove_items(body)


async def _models(service: Service, _: None, __: str) -> BaseModel:
    return await service.models()


async def _activate(service: Service, _: None, name: str) -> BaseModel:
    return await service.activate(name)


async def _roll_back(service: Service, _: None, __: str) -> BaseModel:
    return await service.roll_back()


async def _export(service: Service, _: None, user_id: str) -> BaseModel:
    return await service.export_user(user_id)


async def _delete(service: Service, _: None, user_id: str) -> BaseModel:
    return await service.delete_user(user_id)


async def _model(service: Service, _: None, __: str) -> BaseModel:
    return service.model()


async def _health(service: Service, _: None, __: str) -> BaseModel:
    return service.health()


async def _ready(service: Service, _: None, __: str) -> BaseModel:
    return await service.ready()


def _all_events(body: wire.Event | wire.EventBatch) -> list[wire.Event]:
    return body.events if isinstance(body, wire.EventBatch) else [body]


ROUTES = (
    Route(
        "POST",
        "/v1/recommend",
        _recommend,
        wire.RecommendAnswer,
        "Recommend items to a user, or for a history.",
        body=wire.RecommendRequest,
    ),
    Route(
        "POST",
        "/v1/recommend:batch",
        _recommend_batch,
        wire.RecommendBatchAnswer,
        "Answer many requests at once.",
        body=wire.RecommendBatchRequest,
        cost=lambda body: len(body.requests),
    ),
    Route("POST", "/v1/similar", _similar, wire.SimilarAnswer, "Find items like others.", body=wire.SimilarRequest),
    Route(
        "POST",
        "/v1/events",
        _events,
        wire.EventsAnswer,
        "Keep one event or many: durable when answered, once per event id.",
        scope="write",
        body=wire.Events,
        cost=lambda body: len(_all_events(body)),
    ),
    Route(
        "PUT",
        "/v1/items",
        _put_items,
        wire_catalogue.ItemsAnswer,
        "Put items into the catalogue, or say something new of them; they are in lists from then on.",
        scope="write",
        body=wire_catalogue.ItemsRequest,
        cost=lambda body: len(body.items),
    ),
    Route(
        "DELETE",
        "/v1/items",
        _remove_items,
        wire_catalogue.RemoveItemsAnswer,
        "Take items out of the catalogue; they are in no list from then on.",
        scope="write",
        body=wire_catalogue.RemoveItemsRequest,
    ),
    Route(
        "PUT",
        "/v1/stock",
        _stock,
        wire_catalogue.StockAnswer,
        "Say which items can be had; the others are in no list from then on.",
        scope="write",
        body=wire_catalogue.StockRequest,
    ),
    Route("GET", "/v1/users/{user_id}", _export, wire.UserAnswer, "Export what is held of a user.", scope="admin"),
    Route("DELETE", "/v1/users/{user_id}", _delete, wire.DeleteAnswer, "Delete what is held of a user.", scope="admin"),
    Route("GET", "/v1/model", _model, wire.ModelAnswer, "Tell what answers."),
    Route("GET", "/v1/models", _models, wire_models.ModelsAnswer, "Tell which models there are."),
    Route(
        "POST",
        "/v1/models/{name}:activate",
        _activate,
        wire_models.ActivateAnswer,
        "Have another model answer, if it is whole and stands the comparison; until then the old one goes on.",
        scope="admin",
    ),
    Route(
        "POST",
        "/v1/models:rollback",
        _roll_back,
        wire_models.ActivateAnswer,
        "Have the model answer again that was active before.",
        scope="admin",
    ),
    Route(
        "GET",
        "/v1/items",
        browse.search_items,
        browse_wire.FoundItems,
        "Find items by words of their titles, or by id.",
        query=browse_wire.ItemQuery,
    ),
    Route(
        "GET",
        "/v1/codes",
        browse.look_at_codes,
        browse_wire.CodesAnswer,
        "Look at a branch of the tree of semantic IDs.",
        query=browse_wire.CodeQuery,
    ),
    Route("GET", "/v1/report", browse.report, browse_wire.ReportAnswer, "Tell what the run measured."),
    Route("GET", "/v1/health", _health, wire.HealthAnswer, "Tell that the process lives.", scope=None),
    Route("GET", "/v1/ready", _ready, wire.ReadyAnswer, "Tell whether requests should be sent here.", scope=None),
)


def create_app(service: Service, keys: KeyRing) -> Gate:
    """The application: `ROUTES`, the metrics, and problem documents for whatever goes wrong.

    FastAPI describes all routes, and answers those with an id in their path; the gate finds the others by itself.
    """

    @asynccontextmanager
    async def live(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="Sememe", version=__version__, lifespan=live, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    endpoints = {route: _endpoint(route, service, keys) for route in ROUTES}
    for route, endpoint in endpoints.items():
        app.add_api_route(
            # A user's id may hold slashes, and ends of lines.
            route.path.replace("{user_id}", "{user_id:anything}"),
            _routed(endpoint),
            methods=[route.method],
            summary=route.summary,
            operation_id=route.name,
            response_model=None,
            responses={200: {"model": route.answer}, **problem_answers(route)},
        )

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        if keys.required:
            keys.holder(request.headers.get("authorization")).require("read")
        return Response(service.metrics.page(), media_type=METRICS_TYPE)

    add_page(app)
    app.add_exception_handler(HTTPException, _unrouted)
    app.add_exception_handler(HttpProblem, _problem)
    describe(app, ROUTES)
    direct = {(route.method, route.path): endpoint for route, endpoint in endpoints.items() if "{" not in route.path}
    return Gate(app, direct, service=service, keys=keys)


def _endpoint(route: Route, service: Service, keys: KeyRing) -> Endpoint:
    """What answers a request to `route`."""
    adapter = None if route.body is None else TypeAdapter(route.body)
    path_id = TypeAdapter(wire.Id)

    async def answer(scope: Connection, receive: Receive) -> bytes:
        headers = dict(scope["headers"])
        holder = None
        if keys.required and route.scope is not None:
            holder = keys.holder(headers.get(b"authorization", b"").decode("latin-1"))
            holder.require(route.scope)
            holder.pay(1)
        body = None
        if adapter is not None:
            body = adapter.validate_json(await read_body(headers, receive, limits=service.settings.limits))
            if holder is not None and route.cost(body) > 1:
                holder.bucket.take(route.cost(body) - 1)
        elif route.query is not None:
            body = browse_wire.read_query(route.query, scope["query_string"])
        named = [path_id.validate_python(value) for value in scope.get("path_params", {}).values()]
        told = await route.call(service, body, *(named or [""]))
        return told.__pydantic_serializer__.to_json(told, exclude_none=True)

    async def measured(scope: Connection, receive: Receive) -> Reply:
        started = time.perf_counter()
        try:
            reply = Reply(HTTPStatus.OK, await answer(scope, receive))
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the client gets a problem document
            problem = problem_of(error)
            if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                _log.exception("%s failed", route.name)
            reply = Reply.of_problem(problem)
        service.metrics.tell_request(route=route.name, status=int(reply.status), seconds=time.perf_counter() - started)
        return reply

    return measured


def _routed(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    """`endpoint` as FastAPI calls it."""

    async def answer(request: Request) -> Response:
        return (await endpoint(request.scope, request.receive)).as_response()

    return answer


async def _problem(_: Request, error: Exception) -> Response:
    return Reply.of_problem(problem_of(error)).as_response()


async def _unrouted(request: Request, error: Exception) -> Response:
    """What no route takes: 404 and 405."""
    assert isinstance(error, HTTPException), "registered for these"
    status = HTTPStatus(error.status_code)
    problem = HttpProblem(
        f"{request.method} {request.url.path} is no route of this API",
        fix="see /openapi.json for those there are",
        status=status,
    )
    response = Reply.of_problem(problem).as_response()
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["allow"] = ", ".join(_methods(request.url.path))
    return response


def _methods(path: str) -> list[str]:
    """What may be asked of a path."""
    found = {route.method for route in ROUTES if _fits(route.path, path)}
    return sorted(found) or ["GET"]


def _fits(pattern: str, path: str) -> bool:
    stem, brace, rest = pattern.partition("{")
    return path.startswith(stem) and path.endswith(rest.partition("}")[2]) if brace else path == stem
