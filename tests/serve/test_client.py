"""The client tries again where that helps, and says what went wrong where it does not."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from serving import Server

from sememe.serve.client import Ask, AsyncClient, Client, NewEvent, ProblemError, Retry, UnreachableError

URL = "http://localhost"
QUICK = Retry(times=3, backoff=0.001)
LIST = {"items": [], "source": "fallback:popularity", "model": "m", "unknown": 0, "degraded": ["over_budget"]}
BUSY = {"title": "Too Many Requests", "detail": "full", "fix": "wait"}


class Scripted:
    """A server that answers as written down, and remembers what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers: Iterator[httpx.Response | Exception] = iter(answers)
        self.asked: list[tuple[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.url.raw_path.decode(), json.loads(request.content or b"null")))
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def sync(script: Scripted, call: Callable[[Client], Any], *, retry: Retry = QUICK) -> Any:
    with Client(URL, key="k", retry=retry, transport=httpx.MockTransport(script)) as client:
        return call(client)


def unsync(script: Scripted, call: Callable[[AsyncClient], Any], *, retry: Retry = QUICK) -> Any:
    async def run() -> Any:
        async with AsyncClient(URL, key="k", retry=retry, transport=httpx.MockTransport(script)) as client:
            return await call(client)

    return asyncio.run(run())


@pytest.mark.parametrize("way", [sync, unsync])
def test_it_tries_again_with_the_same_events(way: Any) -> None:
    script = Scripted(
        httpx.ConnectError("refused"),
        httpx.Response(503, json={}),
        httpx.Response(429, json=BUSY, headers={"retry-after": "0"}),
        httpx.Response(200, json={"accepted": 1, "duplicates": 0, "unknown_items": 0}),
    )
    told = way(script, lambda client: client.send_events([NewEvent(user_id="u", item_id=3)]))
    assert told.accepted == 1 and len(script.asked) == 4
    assert all(asked == script.asked[0] for asked in script.asked) and script.asked[0][1]["events"][0]["event_id"]


@pytest.mark.parametrize("way", [sync, unsync])
def test_what_is_refused_is_raised_with_the_way_out(way: Any) -> None:
    problem = {"status": 422, "detail": "no rule 'x'", "fix": "leave it out"}
    script = Scripted(httpx.Response(422, json=problem))
    with pytest.raises(ProblemError, match="no rule 'x'\n  what to do: leave it out") as raised:
        way(script, lambda client: client.recommend(Ask(rules=["x"])))
    assert raised.value.status == 422 and raised.value.document == problem and len(script.asked) == 1
    script = Scripted(*[httpx.Response(502, text="<html>")] * 4)
    with pytest.raises(ProblemError, match="answered with 502"):
        way(script, lambda client: client.model())
    script = Scripted(*[httpx.ConnectError("refused")] * 4)
    with pytest.raises(UnreachableError, match="no answer from http://localhost"):
        way(script, lambda client: client.recommend(Ask()))
    assert len(script.asked) == 4


@pytest.mark.parametrize("way", [sync, unsync])
def test_what_would_be_undone_by_a_second_call_is_tried_once(way: Any) -> None:
    script = Scripted(httpx.ReadTimeout("the model is being opened"), httpx.Response(200, json={}))
    with pytest.raises(UnreachableError):
        way(script, lambda client: client.roll_back())
    script = Scripted(httpx.Response(504, json={}), httpx.Response(200, json={}))
    with pytest.raises(ProblemError, match="answered with 504"):
        way(script, lambda client: client.roll_back())
    assert len(script.asked) == 1


def test_it_waits_as_long_as_it_is_told_within_its_bounds() -> None:
    for retry, least in ((Retry(times=1, backoff=0.001, most=0.05), 0.05), (Retry(times=1, backoff=0.001), 1.0)):
        script = Scripted(httpx.Response(429, json=BUSY, headers={"retry-after": "1"}), httpx.Response(200, json=LIST))
        started = time.perf_counter()
        assert sync(script, lambda client: client.recommend(Ask()), retry=retry).is_fallback
        assert least <= time.perf_counter() - started < least + 0.5
    waits = [Retry(backoff=1.0, most=4.0).wait(tried, told=None) for tried in (0, 1, 2, 5)]
    assert 0.5 <= waits[0] <= 1 and 1 <= waits[1] <= 2 and 2 <= waits[2] <= 4 and waits[3] == 4
    assert Retry(backoff=0.0).wait(0, told="Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_every_call_reaches_the_server(server: Server) -> None:
    ids, users = server.ids(), server.users()

    def call(request: httpx.Request) -> httpx.Response:
        told = server.http.request(
            request.method,
            request.url.raw_path.decode(),
            content=request.content,
            headers={"content-type": request.headers.get("content-type", "")},
        )
        return httpx.Response(told.status_code, content=told.content, headers=dict(told.headers))

    with Client(URL, transport=httpx.MockTransport(call)) as client:
        found = client.recommend(Ask(user_id=users[0], k=3, titles=True))
        assert [item.item_id for item in found.items] == server.listed(user_id=users[0], k=3)
        assert found.items[0].title and not found.is_fallback and found.degraded == ()
        both = client.recommend_batch([Ask(user_id=users[0], k=3), Ask(history=ids[:2])])
        assert [item.item_id for item in both[0].items] == [item.item_id for item in found.items]
        assert client.similar(ids[:1], k=2).by == "vectors"
        assert client.send_events([NewEvent(user_id="ann/x", item_id=ids[0])]).accepted == 1
        assert [event["item_id"] for event in client.export_user("ann/x")["events"]] == [ids[0]]
        assert client.delete_user("ann/x")["deleted"] == 1
        assert client.put_stock({ids[0]: False})["changed"] == 1
        assert client.put_items({ids[1]: {"title": "Told"}})["changed"] == 1
        assert client.remove_items([ids[2]])["removed"] == 1
        assert client.models()["active"] == client.activate("original")["active"] == "original"
        with pytest.raises(ProblemError, match="no model was active before"):
            client.roll_back()
        assert client.model()["rules"] == ["in stock"]
        with pytest.raises(ProblemError, match="no predicate 'x'"):
            client.recommend(Ask(rules=["x"]))
