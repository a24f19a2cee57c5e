"""What goes over the wire: requests and answers, each a model that checks what comes in and describes itself.

Types are strict, unknown fields are refused, numbers are finite.  Ids of users and items are text or whole numbers, and
text from here on; 12 and "12" are the same.
"""

from typing import Annotated, Any
from uuid import uuid4

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, StrictBool, Tag

MOST_HISTORY = 2000
MOST_LISTED = 500
MOST_BULK = 1000
MOST_NAMES = 20
ID_LENGTH = 256
NAME_LENGTH = 64


LEAST, MOST = -(2**63), 2**63 - 1


def _as_whole(value: Any) -> Any:
    """3.0 is as whole as 3 in JSON, which knows numbers only."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _as_text(value: Any) -> Any:
    """A whole number as text; JSON's true is none."""
    if isinstance(value, str):
        return value
    value = _as_whole(value)
    is_id = isinstance(value, int) and not isinstance(value, bool) and LEAST <= value <= MOST
    return str(value) if is_id else value


# A NUL is text that not every store can keep.
_TEXT = r"^[^\u0000]+$"
IdText = Annotated[str, Field(min_length=1, max_length=ID_LENGTH, pattern=_TEXT)]
_Number = Annotated[int, Field(ge=LEAST, le=MOST)]
Id = Annotated[IdText, BeforeValidator(_as_text, json_schema_input_type=IdText | _Number)]
Count = Annotated[int, Field(ge=1, le=MOST_LISTED), BeforeValidator(_as_whole)]
Milliseconds = Annotated[int, Field(ge=1, le=60_000), BeforeValidator(_as_whole)]
Moment = Annotated[int, Field(ge=0, le=253_402_300_799_999), BeforeValidator(_as_whole)]
Pieces = Annotated[int, Field(ge=0, le=2**53 - 1), BeforeValidator(_as_whole)]
Name = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH, pattern=_TEXT)]
Scalar = Annotated[str, Field(max_length=1024)] | StrictBool | int | float | None


def named_keys(length: int) -> dict[str, Any]:
    """That keys of an object must be names too: what pydantic checks, and does not describe whole."""
    return {"propertyNames": {"minLength": 1, "maxLength": length}, "additionalProperties": False}


class Wire(BaseModel):
    """How all of them are read."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class AnyOf(Wire):
    """At least one of these rules holds."""

    any_of: list[Name] = Field(min_length=1, max_length=MOST_NAMES)


class NoneOf(Wire):
    """None of these rules holds."""

    none_of: list[Name] = Field(min_length=1, max_length=MOST_NAMES)


Rule = Name | AnyOf | NoneOf
Rules = Annotated[list[Rule], Field(max_length=MOST_NAMES)]
Ids = Annotated[list[Id], Field(max_length=MOST_HISTORY)]


class RecommendRequest(Wire):
    """Who is to be recommended what.  Without anything known of the user, the answer is what is popular."""

    user_id: Id | None = None
    """What the run and the store know of this user is read."""
    history: Ids = Field(default_factory=list)
    """Item ids, oldest first, that come after what is known of the user; unknown ones are passed over and counted."""
    k: Count = 10
    """How many items."""
    rules: Rules = Field(default_factory=list)
    """All of them must hold of a recommended item: names of rules, or `any_of` or `none_of` several."""
    exclude: Ids = Field(default_factory=list)
    """Items to leave out."""
    repeat_seen: StrictBool = False
    """Whether items that the user has had may come back."""
    diversity: float = Field(default=0.0, ge=0.0, le=0.95)
    """Above 0, scores are traded for items that are unlike each other (maximal marginal relevance)."""
    explain: StrictBool = False
    """Whether the answer tells why."""
    titles: StrictBool = False
    """Whether items come with their titles."""
    context: dict[Name, Scalar] = Field(default_factory=dict, max_length=32, json_schema_extra=named_keys(NAME_LENGTH))
    """What else is known of the request: page, device.  It changes nothing in the answer."""
    budget_ms: Milliseconds | None = None
    """After so many milliseconds the fallback answers."""


class Listed(Wire):
    """An item of a list."""

    item_id: str
    score: float
    title: str | None = None


class Sources(Wire):
    """How many events each source gave to the history."""

    run: int
    store: int
    request: int


class NearItem(Wire):
    """An item of the history, and how alike it is."""

    item_id: str
    similarity: float
    """Cosine of the item vectors."""


class Why(Wire):
    """What speaks for one listed item; what cannot be told is absent."""

    item_id: str
    codes: list[int] | None = None
    """Its semantic ID."""
    code_log_probs: list[float] | None = None
    """What the generator gives to each code after those before it."""
    nearest: list[NearItem] | None = None
    """Items of the history that it is most alike to."""


class Removed(Wire):
    """How many items of the catalogue one rule rules out."""

    rule: str
    items: int


class Explanation(Wire):
    """Why the list is what it is."""

    items: list[Why]
    rules: list[Removed]
    seen: int
    """Items left out because the user has had them."""
    excluded: int
    """Known items left out because the request says so."""


class RecommendAnswer(Wire):
    """A list, best first."""

    request_id: str = Field(default_factory=lambda: uuid4().hex)
    """Under which the list stands in the log of what was shown."""
    items: list[Listed]
    source: str
    """Where scores come from; `fallback:...` where the model did not answer."""
    model: str
    """Version of the model."""
    k: int
    """How many were asked for; fewer came where no more are allowed."""
    eligible: int | None = None
    """How many items the rules allow that were not left out; absent without rules."""
    history: Sources
    unknown: int
    """Ids of the request that the model does not know."""
    degraded: list[str] = Field(default_factory=list)
    """What was not as it should be: store_down, over_budget, engine_failed."""
    explanation: Explanation | None = None


class RecommendBatchRequest(Wire):
    """Several requests at once."""

    requests: list[RecommendRequest] = Field(min_length=1, max_length=MOST_BULK)


class RecommendBatchAnswer(Wire):
    """One answer per request, in order."""

    answers: list[RecommendAnswer]


class SimilarRequest(Wire):
    """Items whose like is looked for."""

    item_ids: list[Id] = Field(min_length=1, max_length=100)
    k: Count = 10
    rules: Rules = Field(default_factory=list)
    exclude: Ids = Field(default_factory=list)
    titles: StrictBool = False


class SimilarAnswer(Wire):
    """Items, the most alike first; those of the request are left out."""

    items: list[Listed]
    by: str
    """`vectors`: scores are cosines; `codes`: the share of leading codes in common."""
    model: str
    unknown: int


class Event(Wire):
    """Who did what."""

    event_id: Id
    """An event that came before, by this id, is not taken twice."""
    user_id: Id
    item_id: Id
    """May be unknown to the model."""
    timestamp: Moment | None = None
    """Milliseconds since 1970 UTC; the time of arrival where absent."""
    event_type: Name | None = None
    value: float | None = None
    """A rating, a watch time."""


class EventBatch(Wire):
    """Several events, taken all or none."""

    events: list[Event] = Field(min_length=1, max_length=MOST_BULK)


def _one_or_many(value: Any) -> str:
    is_many = isinstance(value, EventBatch) or (isinstance(value, dict) and "events" in value)
    return "many" if is_many else "one"


Events = Annotated[Annotated[Event, Tag("one")] | Annotated[EventBatch, Tag("many")], Discriminator(_one_or_many)]


class EventsAnswer(Wire):
    """What is kept now, whatever happens to the server."""

    accepted: int
    duplicates: int
    """Events whose ids came before."""
    unknown_items: int
    """Events about items that the model does not know."""


class StoredEventWire(Wire):
    """An event as the store holds it."""

    event_id: str
    item_id: str
    timestamp: int
    event_type: str | None = None
    value: float | None = None


class Shown(Wire):
    """A list that was shown."""

    request_id: str
    timestamp: int
    item_ids: list[str]


class UserAnswer(Wire):
    """All that is held of a user."""

    user_id: str
    events: list[StoredEventWire]
    """Of the store, oldest first."""
    trained_on: list[str]
    """Items of the user's events in the data of the run."""
    shown: list[Shown]
    """Lists in the log of what was shown, where one is kept."""


class DeleteAnswer(Wire):
    """What is gone."""

    user_id: str
    deleted: int
    """Events."""
    shown: int
    """Lists that were shown."""
    trained_on: int
    """Events of the user that the data of the run holds still: they go when a model is trained on data without them."""


class ModelAnswer(Wire):
    """What answers."""

    model: str
    """Version: equal where run, row and seed are."""
    recipe: str
    row: str
    path: str
    """What searches: compiled code or torch, and why."""
    items: int
    """That lists may hold now."""
    items_waiting: int
    """Items that were put, and that this model has not taken in."""
    users: int
    rules: list[str]
    """Names of rules that requests may ask for."""
    has_vectors: bool
    metrics: dict[str, float]
    """Of the test part."""


class HealthAnswer(Wire):
    """The process lives."""

    status: str


class ReadyAnswer(Wire):
    """Requests are taken."""

    status: str
    model: str
    store: str
    """up, or down: answers go on without what it holds, and events get 503."""


class ProblemPlace(Wire):
    """A place of the request that does not fit."""

    place: str
    problem: str


class Problem(Wire):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    fix: str
    """What to do."""
    errors: list[ProblemPlace] | None = None
