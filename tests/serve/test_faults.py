"""Bad input gets a problem document, and what breaks beside the server does not break its answers."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from serving import PATIENT, Server

from sememe.core.errors import ArtifactError
from sememe.pipeline.engine import Engine
from sememe.serve.served import Served
from sememe.serve.settings import Batching, Histories, Limits, ServeSettings
from sememe.serve.wire import RecommendAnswer, RecommendRequest

EVENT = {"event_id": "a", "user_id": "u", "item_id": "i"}
DEEP = "[" * 20_000 + "]" * 20_000


def is_problem(response: Any, status: int) -> dict[str, Any]:
    """The problem document of a response, which is whole."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status and document["type"].startswith("urn:sememe:problem:")
    assert document["title"] and document["detail"] and document["fix"]
    return document


@pytest.mark.parametrize(
    ("path", "body", "status", "detail"),
    [
        ("recommend", b"", 400, "Invalid JSON"),
        ("recommend", b'{"k": ', 400, "Invalid JSON"),
        ("recommend", b'{"history": ["\\ud800"]}', 400, "hex escape"),
        ("recommend", b'{"history": ["\xff"]}', 400, "Invalid JSON"),
        ("recommend", f'{{"history": {DEEP}}}'.encode(), 400, "recursion limit"),
        ("recommend", b'{"diversity": NaN}', 422, "diversity"),
        ("recommend", b'{"diversity": 1e999}', 422, "diversity"),
        ("recommend", b'{"context": {"a": NaN}}', 422, "context"),
        ("recommend", b"[]", 422, "body"),
        ("recommend", b"null", 422, "body"),
        ("recommend", b'{"k": 0}', 422, "k"),
        ("recommend", b'{"k": 501}', 422, "k"),
        ("recommend", b'{"k": "3"}', 422, "k"),
        ("recommend", b'{"k": true}', 422, "k"),
        ("recommend", b'{"kk": 1}', 422, "kk"),
        ("recommend", b'{"repeat_seen": 1}', 422, "repeat_seen"),
        ("recommend", b'{"user_id": ""}', 422, "user_id"),
        ("recommend", b'{"user_id": "a\\u0000"}', 422, "user_id"),
        ("recommend", b'{"user_id": true}', 422, "user_id"),
        ("recommend", b'{"user_id": 1.5}', 422, "user_id"),
        ("recommend", b'{"user_id": 9223372036854775808}', 422, "user_id"),
        ("recommend", b'{"user_id": 1e999}', 422, "user_id"),
        ("recommend", b'{"k": 2.5}', 422, "k"),
        ("recommend", b'{"rules": ["nowhere"]}', 409, "there is no predicate 'nowhere'"),
        ("recommend", b'{"rules": [{"any_of": []}]}', 422, "rules"),
        ("recommend:batch", b'{"requests": []}', 422, "requests"),
        ("recommend:batch", b'{"requests": [{}, {"rules": ["x"]}]}', 409, "request 1: there is no predicate"),
        ("similar", b'{"item_ids": []}', 422, "item_ids"),
        ("events", b"{}", 422, "event_id"),
        ("events", b'{"events": []}', 422, "events"),
        ("events", json.dumps({**EVENT, "timestamp": -1}).encode(), 422, "timestamp"),
        ("events", json.dumps({**EVENT, "timestamp": 2**63}).encode(), 422, "timestamp"),
        ("events", json.dumps({**EVENT, "value": float("nan")}).encode(), 422, "value"),
        ("events", json.dumps({**EVENT, "user_id": "x" * 257}).encode(), 422, "user_id"),
    ],
)
def test_bad_bodies_are_told_apart(server: Server, path: str, body: bytes, status: int, detail: str) -> None:
    response = server.http.post(f"/v1/{path}", content=body, headers={"content-type": "application/json"})
    assert detail in is_problem(response, status)["detail"]
    assert server.metric("sememe_requests_total", route=f"post /v1/{path}", status=str(status)) == 1


def test_what_is_too_large_is_refused_by_a_stated_limit(server: Server) -> None:
    big = b'{"user_id": "' + b"x" * 10 * 2**20 + b'"}'
    as_json = {"content-type": "application/json"}
    document = is_problem(server.http.post("/v1/recommend", content=big, headers=as_json), 413)
    assert "4,194,304" in document["detail"]

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(big), 2**16):
            yield big[start : start + 2**16]

    assert is_problem(server.http.post("/v1/recommend", content=pieces(), headers=as_json), 413)
    ids = server.ids()
    document = is_problem(server.http.post("/v1/recommend", json={"history": ids * 3000}), 422)
    assert document["errors"] == [
        {"place": "history", "problem": "List should have at most 2000 items after validation, not 108000"}
    ]
    assert len(server.recommend(history=(ids * 60)[:2000], repeat_seen=True)["items"]) == 10
    assert is_problem(server.http.get("/v1/model", headers={"x-long": "y" * 2**15}), 431)


def test_what_no_route_takes_is_told(server: Server) -> None:
    assert is_problem(server.http.get("/v1/nowhere"), 404)
    response = server.http.get("/v1/recommend")
    assert is_problem(response, 405) and response.headers["allow"] == "POST"
    assert server.http.post("/v1/users/a/b").headers["allow"] == "DELETE, GET"
    response = server.http.post("/v1/recommend", content=b"{}", headers={"content-type": "text/plain"})
    assert "application/json" in is_problem(response, 415)["fix"]
    assert is_problem(server.http.get("/v1/users/"), 422)


def test_answers_go_on_while_the_store_is_down(serve: Any) -> None:
    server: Server = serve(settings=replace(PATIENT, histories=Histories(retry_seconds=0.05, poll_seconds=10)))
    ids, user = server.ids(), server.users()[0]
    server.send(user, ids[7], start=2 * 10**12)
    server.send("stranger", ids[1])
    server.store.down = True
    for body, source in (
        ({"user_id": user}, "beam:code_log_prob"),
        ({"user_id": "stranger", "history": ids[:2]}, "beam:code_log_prob"),
        ({"user_id": "stranger"}, "fallback:popularity"),
    ):
        told = server.recommend(**body)
        assert told["source"] == source and told["degraded"] == ["store_down"] and told["history"]["store"] == 0
    assert server.recommend(history=ids[:2])["degraded"] == []
    event = {"event_id": "lost", "user_id": "stranger", "item_id": ids[3]}
    response = server.http.post("/v1/events", json=event)
    assert is_problem(response, 503) and response.headers["retry-after"] == "1"
    for response in (
        server.http.get("/v1/users/stranger"),
        server.http.delete("/v1/users/stranger"),
        server.http.put("/v1/stock", json={"stock": {ids[0]: False}}),
    ):
        assert is_problem(response, 503)
    assert server.http.get("/v1/ready").json()["store"] == "down"
    server.store.down = False
    time.sleep(0.06)
    told = server.recommend(user_id="stranger")
    assert told["degraded"] == [] and told["history"]["store"] == 1
    assert server.http.get("/v1/ready").json()["store"] == "up"
    assert ids[0] in [item["item_id"] for item in server.recommend(history=ids[1:3], k=60)["items"]]
    assert server.metric("sememe_store_failures_total", operation="histories") >= 1


def test_a_store_that_is_down_is_not_asked_by_every_request(serve: Any) -> None:
    server: Server = serve(settings=replace(PATIENT, histories=Histories(retry_seconds=30, poll_seconds=100)))
    server.store.down = True
    before = server.store.calls
    for _ in range(5):
        assert server.recommend(user_id="stranger")["degraded"] == ["store_down"]
    assert server.store.calls == before + 1


class Broken:
    """An engine whose search takes long, or fails."""

    def __init__(self, engine: Engine, *, seconds: float = 0.0, error: Exception | None = None) -> None:
        self._engine, self._seconds, self._error = engine, seconds, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def recommend(self, requests: Any) -> Any:
        time.sleep(self._seconds)
        if self._error is not None:
            raise self._error
        return self._engine.recommend(requests)


def broken(served: Served, **how: Any) -> Served:
    return replace(served, engine=Broken(served.engine, **how))  # type: ignore[arg-type]


def test_over_its_time_a_request_is_answered_by_the_fallback(serve: Any, fresh: Served) -> None:
    server: Server = serve(broken(fresh, seconds=0.3), settings=ServeSettings(batching=Batching(budget_ms=60)))
    ids, users = server.ids(), server.users()
    started = time.perf_counter()
    told = server.recommend(user_id=users[0], exclude=[ids[3]], k=8)
    assert time.perf_counter() - started < 0.25
    assert told["source"] == "fallback:item_knn" and told["degraded"] == ["over_budget"] and len(told["items"]) == 8
    listed = [item["item_id"] for item in told["items"]]
    seen = fresh.engine.serving.run.world.interactions.history(0)
    assert {ids[item] for item in seen}.isdisjoint(listed) and ids[3] not in listed
    batch = {"history": seen[None], "lengths": np.array([len(seen)], np.int32)}
    scores = fresh.fallback.knn.score_items(batch)[0]
    scores[[*seen, 3]] = -1
    assert listed[0] == ids[int(scores.argmax())]
    assert server.recommend(user_id=users[0], budget_ms=5000)["degraded"] == []
    assert server.metric("sememe_fallbacks_total", source="fallback:item_knn", reason="over_budget") == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("out of memory"), ArtifactError("a score is not a number", fix="train again")]
)
def test_a_model_that_fails_is_stood_in_for(serve: Any, fresh: Served, error: Exception) -> None:
    server: Server = serve(broken(fresh, error=error))
    told = server.recommend(user_id=server.users()[0])
    assert told["source"] == "fallback:item_knn" and told["degraded"] == ["engine_failed"]


def test_what_is_our_own_fault_is_told_without_its_words(serve: Any, fresh: Served) -> None:
    server: Server = serve(broken(fresh, error=AssertionError("a secret path")))
    document = is_problem(server.http.post("/v1/recommend", json={"user_id": server.users()[0]}), 500)
    assert "secret" not in json.dumps(document)


def test_a_rule_of_another_request_spoils_nothing(server: Server) -> None:
    """Rules may go between the check and the search; only who asked for them is told."""
    lists = server.service._parts.lists
    good, bad = RecommendRequest(history=server.ids()[:2]), RecommendRequest(history=server.ids()[:2], rules=["gone"])
    first, second, third = lists.answer([good, bad, good])
    assert isinstance(second, Exception)
    assert isinstance(first, RecommendAnswer) and isinstance(third, RecommendAnswer) and first.items == third.items


def test_a_slow_body_is_given_up(serve: Any) -> None:
    server: Server = serve(settings=replace(PATIENT, limits=Limits(read_seconds=0.05)))

    # The test client hands over a body as a whole, so the application is called as a server would.
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(1)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/recommend",
        "raw_path": b"/v1/recommend",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
    }
    asyncio.run(server.app(scope, receive, send))
    assert sent[0]["status"] == 408
