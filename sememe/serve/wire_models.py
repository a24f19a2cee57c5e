"""What goes over the wire about models: which there are, which answers, how one took over."""

from sememe.serve.wire import Wire


class ModelEntry(Wire):
    """A model of the folder."""

    name: str
    active: bool
    """Whether it is the one that is to answer."""
    answering: bool
    """Whether it answers here; a replica needs some seconds to follow."""
    recipe: str
    metrics: dict[str, float]
    """Of the test part."""


class ModelsAnswer(Wire):
    """The models there are."""

    active: str
    previous: str | None = None
    """Where a roll-back goes."""
    models: list[ModelEntry]
    refused: str | None = None
    """Why the active model does not answer here, where it was tried in vain."""


class CanaryAnswer(Wire):
    """The same histories to the old model and the new one."""

    requests: int
    unreadable: int
    """Histories of which the new model knows no item."""
    failures: int
    overlap: float
    """Mean share of the old lists' items that the new ones have too."""
    old_ms: float
    """Median of one list."""
    new_ms: float


class ActivateAnswer(Wire):
    """What answers from now on, here, and at other replicas as soon as they look."""

    active: str
    previous: str | None = None
    model: str
    """Version of what answers."""
    canary: CanaryAnswer | None = None
    """Absent where it answered already."""
    seconds: float
