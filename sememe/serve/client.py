"""A client of the server, sync and async: retries with backoff, typed answers, problems raised as errors.

    with Client("http://127.0.0.1:8000", key="sememe_...") as client:
        client.send_events([NewEvent(user_id="ann", item_id="b7")])
        for item in client.recommend(Ask(user_id="ann", k=5)).items: ...

Every call but `roll_back` may be made twice without harm (events have ids, which the client makes where none is given),
so that each is tried again where the server was not reached, was busy (429) or going away (502, 503, 504).
`AsyncClient` has the same methods, to be awaited.  Needs httpx and nothing else of Sememe but its errors.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from sememe.core.errors import MissingExtraError

try:
    import httpx
except ModuleNotFoundError as error:
    raise MissingExtraError("httpx", extra="serve", purpose="the client") from error

from sememe.serve import client_calls as calls
from sememe.serve.client_calls import (
    Ask,
    Id,
    Item,
    Json,
    NewEvent,
    ProblemError,
    Recommended,
    SimilarItems,
    Taken,
    Told,
    UnreachableError,
)

__all__ = [
    "Ask",
    "AsyncClient",
    "Client",
    "Item",
    "NewEvent",
    "ProblemError",
    "Recommended",
    "Retry",
    "SimilarItems",
    "Taken",
    "UnreachableError",
]

TRANSIENT = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Retry:
    """When to try again."""

    times: int = 4
    """After the first try."""
    backoff: float = 0.1
    """Seconds before the first of them; each further one waits twice as long."""
    most: float = 10.0
    """Seconds that are waited at most, whatever Retry-After says."""

    def is_last(self, call: calls.Call[Told], tried: int) -> bool:
        """Whether `call`, which was tried so often before, is not tried again."""
        return not call.repeatable or tried >= self.times

    def wait(self, tried: int, *, told: str | None) -> float:
        """Seconds until the next try; `told` is the Retry-After header."""
        # Clients that failed together must not come back together.
        own = self.backoff * 2.0**tried * random.uniform(0.5, 1.0)
        return min(self.most, max(own, float(told)) if told is not None and told.isdecimal() else own)


class Client:
    """Calls the server; may be shared between threads."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 10.0,
        retry: Retry | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """timeout: seconds for one try; transport: another way to the server than by a socket."""
        self._url, self._retry = url, retry or Retry()
        self._http = httpx.Client(base_url=url, headers=calls.key_headers(key), timeout=timeout, transport=transport)

    def recommend(self, ask: Ask) -> Recommended:
        return self._run(calls.recommend(ask))

    def recommend_batch(self, asks: Sequence[Ask]) -> list[Recommended]:
        return self._run(calls.recommend_batch(asks))

    def similar(
        self, item_ids: Sequence[Id], *, k: int = 10, rules: Sequence[str | Json] = (), exclude: Sequence[Id] = ()
    ) -> SimilarItems:
        return self._run(calls.similar(item_ids, k=k, rules=rules, exclude=exclude))

    def send_events(self, events: Sequence[NewEvent]) -> Taken:
        return self._run(calls.send_events(events))

    def put_items(self, items: Mapping[Id, Json]) -> Json:
        """items: id -> fields."""
        return self._run(calls.put_items(items))

    def remove_items(self, item_ids: Sequence[Id]) -> Json:
        return self._run(calls.remove_items(item_ids))

    def put_stock(self, stock: Mapping[str, bool | int]) -> Json:
        return self._run(calls.put_stock(stock))

    def export_user(self, user_id: Id) -> Json:
        return self._run(calls.of_user("GET", user_id))

    def delete_user(self, user_id: Id) -> Json:
        return self._run(calls.of_user("DELETE", user_id))

    def model(self) -> Json:
        return self._run(calls.Call("GET", "/v1/model", dict))

    def models(self) -> Json:
        return self._run(calls.Call("GET", "/v1/models", dict))

    def activate(self, name: str) -> Json:
        return self._run(calls.activate(name))

    def roll_back(self) -> Json:
        return self._run(calls.roll_back())

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def _run(self, call: calls.Call[Told]) -> Told:
        """Raises ProblemError for what the server refused, UnreachableError where it was not there."""
        tried = 0
        while True:
            told = None
            try:
                response = self._http.request(call.method, call.path, **calls.sent(call))
                if response.status_code not in TRANSIENT or self._retry.is_last(call, tried):
                    return calls.read_answer(call, response)
                told = response.headers.get("retry-after")
            except httpx.TransportError as error:
                if self._retry.is_last(call, tried):
                    raise calls.unreachable(self._url, error) from error
            time.sleep(self._retry.wait(tried, told=told))
            tried += 1


class AsyncClient:
    """The same for asyncio."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 10.0,
        retry: Retry | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """As of `Client`."""
        self._url, self._retry = url, retry or Retry()
        self._http = httpx.AsyncClient(
            base_url=url, headers=calls.key_headers(key), timeout=timeout, transport=transport
        )

    async def recommend(self, ask: Ask) -> Recommended:
        return await self._run(calls.recommend(ask))

    async def recommend_batch(self, asks: Sequence[Ask]) -> list[Recommended]:
        return await self._run(calls.recommend_batch(asks))

    async def similar(
        self, item_ids: Sequence[Id], *, k: int = 10, rules: Sequence[str | Json] = (), exclude: Sequence[Id] = ()
    ) -> SimilarItems:
        return await self._run(calls.similar(item_ids, k=k, rules=rules, exclude=exclude))

    async def send_events(self, events: Sequence[NewEvent]) -> Taken:
        return await self._run(calls.send_events(events))

    async def put_items(self, items: Mapping[Id, Json]) -> Json:
        """As of `Client`."""
        return await self._run(calls.put_items(items))

    async def remove_items(self, item_ids: Sequence[Id]) -> Json:
        return await self._run(calls.remove_items(item_ids))

    async def put_stock(self, stock: Mapping[str, bool | int]) -> Json:
        return await self._run(calls.put_stock(stock))

    async def export_user(self, user_id: Id) -> Json:
        return await self._run(calls.of_user("GET", user_id))

    async def delete_user(self, user_id: Id) -> Json:
        return await self._run(calls.of_user("DELETE", user_id))

    async def model(self) -> Json:
        return await self._run(calls.Call("GET", "/v1/model", dict))

    async def models(self) -> Json:
        return await self._run(calls.Call("GET", "/v1/models", dict))

    async def activate(self, name: str) -> Json:
        return await self._run(calls.activate(name))

    async def roll_back(self) -> Json:
        return await self._run(calls.roll_back())

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, call: calls.Call[Told]) -> Told:
        """As of `Client`."""
        tried = 0
        while True:
            told = None
            try:
                response = await self._http.request(call.method, call.path, **calls.sent(call))
                if response.status_code not in TRANSIENT or self._retry.is_last(call, tried):
                    return calls.read_answer(call, response)
                told = response.headers.get("retry-after")
            except httpx.TransportError as error:
                if self._retry.is_last(call, tried):
                    raise calls.unreachable(self._url, error) from error
            await asyncio.sleep(self._retry.wait(tried, told=told))
            tried += 1
