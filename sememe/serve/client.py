"""A client of the server, sync and async: retries with backoff, typed answers, problems raised as errors.

    with Client("http://127.0.0.1:8000", key="sememe_...") as client:
        client.send_events([NewEvent(user_id="ann", item_id="b7")])
        for item in client.recommend(Ask(user_id="ann", k=5)).items: ...

Every call may be made twice without harm (events have ids, which the client makes where none is given), so that each is
tried again where the server was not reached, was busy (429) or going away (502, 503, 504).  `AsyncClient` has the same
methods, to be awaited.  Needs httpx and nothing else of Sememe but its errors.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from urllib.parse import quote

from sememe.core.errors import MissingExtraError, SememeError

try:
    import httpx
except ModuleNotFoundError as error:
    raise MissingExtraError("httpx", extra="serve", purpose="the client") from error

Told = TypeVar("Told")
Id = str | int
Json = Mapping[str, Any]

TRANSIENT = frozenset({429, 502, 503, 504})


class ProblemError(SememeError):
    """The server answered with a problem document."""

    def __init__(self, problem: str, *, fix: str, status: int, document: Json) -> None:
        super().__init__(problem, fix=fix)
        self.status = status
        self.document = document
        """All that the server told."""


class UnreachableError(SememeError):
    """The server was not reached, as often as it was tried."""


@dataclass(frozen=True)
class Retry:
    """When to try again."""

    times: int = 4
    """After the first try."""
    backoff: float = 0.1
    """Seconds before the first of them; each further one waits twice as long."""
    most: float = 10.0
    """Seconds that are waited at most, whatever Retry-After says."""

    def wait(self, tried: int, *, told: str | None) -> float:
        """Seconds until the next try; `told` is the Retry-After header."""
        # Clients that failed together must not come back together.
        own = self.backoff * 2.0**tried * random.uniform(0.5, 1.0)
        return min(self.most, max(own, float(told)) if told is not None and told.isdecimal() else own)


@dataclass(frozen=True)
class Ask:
    """A request for recommendations; see the API's description for each field."""

    user_id: Id | None = None
    history: Sequence[Id] = ()
    k: int = 10
    rules: Sequence[str | Json] = ()
    """Names, `{"any_of": [...]}` or `{"none_of": [...]}`."""
    exclude: Sequence[Id] = ()
    repeat_seen: bool = False
    diversity: float = 0.0
    explain: bool = False
    titles: bool = False
    context: Json = field(default_factory=dict)
    budget_ms: int | None = None


@dataclass(frozen=True)
class NewEvent:
    """Something that a user did."""

    user_id: Id
    item_id: Id
    timestamp: int | None = None
    """Milliseconds since 1970 UTC."""
    event_type: str | None = None
    value: float | None = None
    event_id: Id = field(default_factory=lambda: uuid.uuid4().hex)
    """Give your own where the same event may be sent by two processes, or again after a crash."""


@dataclass(frozen=True)
class Item:
    """An item of a list."""

    item_id: str
    score: float
    title: str | None = None


@dataclass(frozen=True)
class Recommended:
    """A list, best first."""

    items: tuple[Item, ...]
    source: str
    model: str
    unknown: int
    """Ids of the request that the model does not know."""
    degraded: tuple[str, ...]
    """What was not as it should be; empty as a rule."""
    document: Json
    """All that the server told."""

    @property
    def is_fallback(self) -> bool:
        """Whether the model did not answer."""
        return self.source.startswith("fallback:")


@dataclass(frozen=True)
class SimilarItems:
    """Items, the most alike first."""

    items: tuple[Item, ...]
    by: str
    model: str
    unknown: int


@dataclass(frozen=True)
class Taken:
    """What became of events."""

    accepted: int
    duplicates: int
    unknown_items: int


@dataclass(frozen=True, eq=False)
class _Call(Generic[Told]):
    """One request, and how its answer is read."""

    method: str
    path: str
    parse: Callable[[Json], Told]
    body: Any = None


def _recommend(ask: Ask) -> _Call[Recommended]:
    return _Call("POST", "/v1/recommend", _recommended, asdict(ask))


def _recommend_batch(asks: Sequence[Ask]) -> _Call[list[Recommended]]:
    body = {"requests": [asdict(ask) for ask in asks]}
    return _Call("POST", "/v1/recommend:batch", lambda told: [_recommended(one) for one in told["answers"]], body)


def _similar(
    item_ids: Sequence[Id], *, k: int, rules: Sequence[str | Json], exclude: Sequence[Id]
) -> _Call[SimilarItems]:
    body = {"item_ids": list(item_ids), "k": k, "rules": list(rules), "exclude": list(exclude)}
    return _Call("POST", "/v1/similar", _similar_items, body)


def _send_events(events: Sequence[NewEvent]) -> _Call[Taken]:
    return _Call("POST", "/v1/events", _taken, {"events": [asdict(event) for event in events]})


def _put_stock(stock: Mapping[str, bool | int]) -> _Call[Json]:
    return _Call("PUT", "/v1/stock", dict, {"stock": dict(stock)})


def _of_user(method: str, user_id: Id) -> _Call[Json]:
    return _Call(method, f"/v1/users/{quote(str(user_id), safe='')}", dict)


def _recommended(told: Json) -> Recommended:
    return Recommended(
        items=_items(told),
        source=told["source"],
        model=told["model"],
        unknown=told["unknown"],
        degraded=tuple(told["degraded"]),
        document=told,
    )


def _taken(told: Json) -> Taken:
    return Taken(accepted=told["accepted"], duplicates=told["duplicates"], unknown_items=told["unknown_items"])


def _similar_items(told: Json) -> SimilarItems:
    return SimilarItems(items=_items(told), by=told["by"], model=told["model"], unknown=told["unknown"])


def _items(told: Json) -> tuple[Item, ...]:
    return tuple(Item(one["item_id"], one["score"], one.get("title")) for one in told["items"])


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


def _problem(response: httpx.Response) -> ProblemError:
    """The error that a response stands for; something between here and the server may not speak of problems."""
    try:
        document = response.json()
    except ValueError:
        document = {}
    document = document if isinstance(document, dict) else {}
    return ProblemError(
        str(document.get("detail", f"the server answered with {response.status_code}")),
        fix=str(document.get("fix", "see the server's log, and whatever stands between")),
        status=response.status_code,
        document=document,
    )


def _read(call: _Call[Told], response: httpx.Response) -> Told:
    if response.is_success:
        return call.parse(response.json())
    raise _problem(response)


def _unreachable(url: str, error: httpx.TransportError) -> UnreachableError:
    return UnreachableError(
        f"no answer from {url}: {type(error).__name__} {error}".rstrip(), fix="start the server, or mend the address"
    )


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
        self._http = httpx.Client(base_url=url, headers=_headers(key), timeout=timeout, transport=transport)

    def recommend(self, ask: Ask) -> Recommended:
        return self._run(_recommend(ask))

    def recommend_batch(self, asks: Sequence[Ask]) -> list[Recommended]:
        return self._run(_recommend_batch(asks))

    def similar(
        self, item_ids: Sequence[Id], *, k: int = 10, rules: Sequence[str | Json] = (), exclude: Sequence[Id] = ()
    ) -> SimilarItems:
        return self._run(_similar(item_ids, k=k, rules=rules, exclude=exclude))

    def send_events(self, events: Sequence[NewEvent]) -> Taken:
        return self._run(_send_events(events))

    def put_stock(self, stock: Mapping[str, bool | int]) -> Json:
        return self._run(_put_stock(stock))

    def export_user(self, user_id: Id) -> Json:
        return self._run(_of_user("GET", user_id))

    def delete_user(self, user_id: Id) -> Json:
        return self._run(_of_user("DELETE", user_id))

    def model(self) -> Json:
        return self._run(_Call("GET", "/v1/model", dict))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def _run(self, call: _Call[Told]) -> Told:
        """Raises ProblemError for what the server refused, UnreachableError where it was not there."""
        tried = 0
        while True:
            told = None
            try:
                response = self._http.request(call.method, call.path, json=call.body)
                if response.status_code not in TRANSIENT or tried >= self._retry.times:
                    return _read(call, response)
                told = response.headers.get("retry-after")
            except httpx.TransportError as error:
                if tried >= self._retry.times:
                    raise _unreachable(self._url, error) from error
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
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(key), timeout=timeout, transport=transport)

    async def recommend(self, ask: Ask) -> Recommended:
        return await self._run(_recommend(ask))

    async def recommend_batch(self, asks: Sequence[Ask]) -> list[Recommended]:
        return await self._run(_recommend_batch(asks))

    async def similar(
        self, item_ids: Sequence[Id], *, k: int = 10, rules: Sequence[str | Json] = (), exclude: Sequence[Id] = ()
    ) -> SimilarItems:
        return await self._run(_similar(item_ids, k=k, rules=rules, exclude=exclude))

    async def send_events(self, events: Sequence[NewEvent]) -> Taken:
        return await self._run(_send_events(events))

    async def put_stock(self, stock: Mapping[str, bool | int]) -> Json:
        return await self._run(_put_stock(stock))

    async def export_user(self, user_id: Id) -> Json:
        return await self._run(_of_user("GET", user_id))

    async def delete_user(self, user_id: Id) -> Json:
        return await self._run(_of_user("DELETE", user_id))

    async def model(self) -> Json:
        return await self._run(_Call("GET", "/v1/model", dict))

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, call: _Call[Told]) -> Told:
        """As of `Client`."""
        tried = 0
        while True:
            told = None
            try:
                response = await self._http.request(call.method, call.path, json=call.body)
                if response.status_code not in TRANSIENT or tried >= self._retry.times:
                    return _read(call, response)
                told = response.headers.get("retry-after")
            except httpx.TransportError as error:
                if tried >= self._retry.times:
                    raise _unreachable(self._url, error) from error
            await asyncio.sleep(self._retry.wait(tried, told=told))
            tried += 1
