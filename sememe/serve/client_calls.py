"""What the client sends and how it reads the answers: requests as data, for the sync and the async client alike."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx

from sememe.core.errors import SememeError

Told = TypeVar("Told")
Id = str | int
Json = Mapping[str, Any]

SLOW_SECONDS = 300.0
"""Opening a model takes its time."""


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
class Call(Generic[Told]):
    """One request, and how its answer is read."""

    method: str
    path: str
    parse: Callable[[Json], Told]
    body: Any = None
    timeout: float | None = None
    """Seconds; those of the client if not given."""
    repeatable: bool = True
    """Whether the same call may be made twice without harm."""


def recommend(ask: Ask) -> Call[Recommended]:
    """A list for one request."""
    return Call("POST", "/v1/recommend", read_list, asdict(ask))


def recommend_batch(asks: Sequence[Ask]) -> Call[list[Recommended]]:
    """A list for each request."""
    body = {"requests": [asdict(ask) for ask in asks]}
    return Call("POST", "/v1/recommend:batch", lambda told: [read_list(one) for one in told["answers"]], body)


def similar(
    item_ids: Sequence[Id], *, k: int, rules: Sequence[str | Json], exclude: Sequence[Id]
) -> Call[SimilarItems]:
    """Items like others."""
    body = {"item_ids": list(item_ids), "k": k, "rules": list(rules), "exclude": list(exclude)}
    return Call("POST", "/v1/similar", read_similar, body)


def send_events(events: Sequence[NewEvent]) -> Call[Taken]:
    """Events to be kept."""
    return Call("POST", "/v1/events", read_taken, {"events": [asdict(event) for event in events]})


def put_stock(stock: Mapping[str, bool | int]) -> Call[Json]:
    """Which items can be had."""
    return Call("PUT", "/v1/stock", dict, {"stock": dict(stock)})


def put_items(items: Mapping[Id, Json]) -> Call[Json]:
    """items: id -> fields."""
    body = {"items": [{"item_id": item_id, "fields": dict(fields)} for item_id, fields in items.items()]}
    return Call("PUT", "/v1/items", dict, body)


def remove_items(item_ids: Sequence[Id]) -> Call[Json]:
    """Items to be in no list any more."""
    return Call("DELETE", "/v1/items", dict, {"item_ids": list(item_ids)})


def activate(name: str) -> Call[Json]:
    """The model that is to answer."""
    return Call("POST", f"/v1/models/{quote(name, safe='')}:activate", dict, timeout=SLOW_SECONDS)


def roll_back() -> Call[Json]:
    """Back to the model that answered before; twice is there and back again."""
    return Call("POST", "/v1/models:rollback", dict, timeout=SLOW_SECONDS, repeatable=False)


def of_user(method: str, user_id: Id) -> Call[Json]:
    """Export a user (GET), or delete one (DELETE)."""
    return Call(method, f"/v1/users/{quote(str(user_id), safe='')}", dict)


def read_list(told: Json) -> Recommended:
    """One answer of the recommend routes."""
    return Recommended(
        items=read_items(told),
        source=told["source"],
        model=told["model"],
        unknown=told["unknown"],
        degraded=tuple(told["degraded"]),
        document=told,
    )


def read_taken(told: Json) -> Taken:
    """The answer to events."""
    return Taken(accepted=told["accepted"], duplicates=told["duplicates"], unknown_items=told["unknown_items"])


def read_similar(told: Json) -> SimilarItems:
    """The answer to similar."""
    return SimilarItems(items=read_items(told), by=told["by"], model=told["model"], unknown=told["unknown"])


def read_items(told: Json) -> tuple[Item, ...]:
    """Items of a list."""
    return tuple(Item(one["item_id"], one["score"], one.get("title")) for one in told["items"])


def key_headers(key: str | None) -> dict[str, str]:
    """What shows an API key."""
    return {} if key is None else {"authorization": f"Bearer {key}"}


def problem_of(response: httpx.Response) -> ProblemError:
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


def read_answer(call: Call[Told], response: httpx.Response) -> Told:
    """What an answer says.  Raises ProblemError for what the server refused."""
    if response.is_success:
        return call.parse(response.json())
    raise problem_of(response)


def unreachable(url: str, error: httpx.TransportError) -> UnreachableError:
    """The error for a server that did not answer."""
    return UnreachableError(
        f"no answer from {url}: {type(error).__name__} {error}".rstrip(), fix="start the server, or mend the address"
    )


def sent(call: Call[Told]) -> dict[str, Any]:
    """What httpx takes of a call, beside method and path."""
    return {"json": call.body} | ({} if call.timeout is None else {"timeout": call.timeout})
