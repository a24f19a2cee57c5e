"""What a server may be told beside where to listen; each is a leaf for `sememe serve --set path=value`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Batching:
    """How requests meet in one search, and what happens when there are more than can be answered."""

    workers: int = 2
    """Threads that search."""
    most: int = 32
    """So many requests at most share a search."""
    linger_ms: float = 0.0
    """How long a request waits for others while a worker is free; 0: only for those that came with it."""
    queue: int = 256
    """Requests that may wait; the next one gets 429."""
    bulk_queue: int = 4096
    """Rows of batch requests that may wait, apart from the others, which go first."""
    budget_ms: int = 250
    """After so long a request is answered by the fallback, unless it says otherwise itself."""
    bulk_budget_ms: int = 30_000
    """The same for batch requests."""


@dataclass(frozen=True)
class Limits:
    """What one client may ask of the server; the API's own limits (items of a history, say) are in its description."""

    body_bytes: int = 4 * 2**20
    """The largest body; more gets 413."""
    header_bytes: int = 16 * 2**10
    """All headers together; more gets 431."""
    read_seconds: float = 10.0
    """A client that takes longer to send its headers, or its body, is let go (408)."""
    connections: int = 1024
    """The next one gets 503."""
    calls: int = 64
    """Calls to the store, other than histories, that may be under way or wait; the next one gets 429."""


@dataclass(frozen=True)
class Histories:
    """How the store is read."""

    newest: int = 50
    """So many of a user's events in the store are read, and left out of lists; the run's own are read whole."""
    retry_seconds: float = 1.0
    """A store that is down is asked again after so long; until then answers do without."""
    poll_seconds: float = 0.5
    """How often is looked for what another replica changed: items, stock, the active model."""


@dataclass(frozen=True)
class Canary:
    """What a model must stand before it takes over."""

    requests: int = 50
    """Histories of users of the run, put to the old model and the new one."""
    k: int = 10
    least_overlap: float = 0.0
    """Least share of the old lists' items that the new ones must have, on average."""
    most_unreadable: float = 0.5
    """Most histories, as a share, of which the new model may know no item."""
    most_slower: float = 5.0
    """The new model may take so many times as long for a list as the old one."""
    slow_ms: float = 20.0
    """A list that takes less is never too slow."""


@dataclass(frozen=True)
class ServeSettings:
    """All of it."""

    batching: Batching = Batching()
    limits: Limits = Limits()
    histories: Histories = Histories()
    canary: Canary = Canary()
    exposures: str = ""
    """Folder of Parquet files that log which lists were shown; none is kept where empty."""
    cache_mb: int = 48
    """Room for histories that the compiled search has read."""
    store_seconds: float = 2.0
    """A store that does not answer within so long is down."""
    drain_seconds: float = 2.0
    """After SIGTERM, `ready` says 503 for so long before the server stops listening."""
    stop_seconds: int = 30
    """Requests still under way after that are cut off."""
