"""What goes over the wire for whoever looks around: items, the tree of codes, the report of the run."""

from typing import Annotated, Any
from urllib.parse import parse_qs

from pydantic import BeforeValidator, Field

from sememe.serve.wire import IdText, Wire

MOST_FOUND = 100
MOST_ASKED = 200
LEVELS = r"^[0-9]{1,9}(,[0-9]{1,9}){0,31}$"


def _as_whole(value: Any) -> Any:
    """A number of a query string, which is text there."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value


class ItemQuery(Wire):
    """Which items are looked for: by words, or by id; without either, those that most is known of."""

    query: str = Field(default="", max_length=200)
    """Words of the title in any order, beginnings of words too, or the beginning of an id."""
    id: list[IdText] = Field(default_factory=list, max_length=MOST_ASKED)
    """These items, in this order, whatever `query` says; unknown ones are passed over."""
    limit: Annotated[int, Field(ge=1, le=MOST_FOUND), BeforeValidator(_as_whole)] = 20


class CodeQuery(Wire):
    """Which branch of the tree is looked at."""

    prefix: str = Field(default="", max_length=320, pattern=rf"^$|{LEVELS}")
    """The first codes of its items, separated by commas; empty for the root."""
    limit: Annotated[int, Field(ge=0, le=MOST_FOUND), BeforeValidator(_as_whole)] = 30
    """How many of its items are told."""

    def codes(self) -> list[int]:
        """The prefix as numbers."""
        return [int(code) for code in self.prefix.split(",")] if self.prefix else []


class FoundItem(Wire):
    """An item, and what is known of it."""

    item_id: str
    title: str
    events: int
    """In the data of the run."""
    codes: list[int] | None = None
    """Its semantic ID, where the model has any."""


class FoundItems(Wire):
    """Items that were found, the best match first."""

    items: list[FoundItem]
    total: int
    """How many match, told or not."""


class CodePart(Wire):
    """A branch of a branch."""

    code: int
    items: int


class CodeBranch(Wire):
    """A branch: all items whose next code is this one."""

    code: int
    items: int
    titles: list[str]
    """Of its items with most events."""
    parts: list[CodePart] | None = None
    """What it parts into; absent at the last level, and where there would be too many to draw."""


class CodesAnswer(Wire):
    """A branch of the tree of semantic IDs, seen from its root."""

    prefix: list[int]
    levels: int
    """Of the tree."""
    semantic_levels: int
    """Levels that come from content; those after them only tell items with equal codes apart."""
    items: int
    branches: list[CodeBranch]
    """By code; empty where the prefix is a whole semantic ID."""
    listed: list[FoundItem]
    """Items of the branch, those with most events first."""


class CurveAnswer(Wire):
    """How a training went."""

    model: str
    seed: int
    monitor: str
    best_step: int
    train: list[tuple[int, float]]
    """(step, loss)"""
    validation: list[tuple[int, float]]
    """(step, value of `monitor`)"""


class ExampleItemAnswer(Wire):
    """An item of an example."""

    item_id: str
    title: str
    wanted: bool


class ExampleAnswer(Wire):
    """What one user of the test part did, did next, and was recommended."""

    user_id: str
    known: int
    history: list[ExampleItemAnswer]
    wanted: list[ExampleItemAnswer]
    listed: list[ExampleItemAnswer]


class StageAnswer(Wire):
    """One stage of the run, and how long it took."""

    name: str
    created: str
    seconds: float


class ReportAnswer(Wire):
    """The report of the run: what `sememe report RUN` writes, as data."""

    about: dict[str, Any]
    protocol: dict[str, Any]
    protocol_line: str
    rows: list[dict[str, Any]]
    """One per model, seed, part and treatment of seen items, with intervals, as metrics.json has them."""
    means: list[dict[str, Any]]
    """The same over seeds."""
    slices: list[dict[str, Any]]
    calibration: list[dict[str, Any]]
    """Of each model and seed whose lists tell probabilities: those, and what came true, in bins."""
    comparisons: list[dict[str, Any]]
    comparison_lines: list[str]
    codes: dict[str, Any] | None = None
    """Health of the semantic IDs."""
    curves: list[CurveAnswer]
    stages: list[StageAnswer]
    settings: list[str]
    examples: list[ExampleAnswer]


Query = ItemQuery | CodeQuery


def read_query(kind: type[Query], text: bytes) -> Query:
    """The query string of an address.  Raises pydantic's ValidationError where it does not fit `kind`."""
    given = parse_qs(text.decode("latin-1"), keep_blank_values=True)
    # A name that came once is one value, except where there may be several.
    several = {"id"}
    return kind.model_validate(
        {name: values if name in several or len(values) > 1 else values[0] for name, values in given.items()}
    )
