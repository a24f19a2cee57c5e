"""A store in Valkey or Redis (6.2 or newer), which several machines share.

    valkey-server --appendonly yes --appendfsync always --maxmemory-policy noeviction

With these settings a reply is sent when the change is on the disk, and nothing is thrown out when memory runs short.  A
server with others is refused, unless the store is opened with durable=False.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from sememe.core.errors import MissingExtraError
from sememe.serve.stores import valkey_scripts as scripts
from sememe.serve.stores.checked import Action, CheckedStore
from sememe.serve.stores.protocol import (
    SCHEMA,
    DurabilityError,
    StoredEvent,
    StoreDownError,
    StoreFormatError,
    newer_store,
)

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as missing:
    raise MissingExtraError("redis", extra="redis", purpose="a store in Valkey or Redis") from missing

PREFIX = "sememe:"
MOST_CONNECTIONS = 32
# Users whose histories one script reads, and numbers that one script looks at: other requests wait for it.
USERS_AT_ONCE = 200
NUMBERS_AT_ONCE = 50_000
DURABLE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}

T = TypeVar("T")


class ValkeyStore(CheckedStore):
    """Events and catalogue in one database of a Valkey or Redis server; made by `open`."""

    def __init__(self, client: "redis.Redis", *, name: str) -> None:
        # The types of redis-py are those of its blocking and its asynchronous client at once, which tell nothing.
        self._client: Any = client
        self._name = name
        self._closed = False
        register = self._client.register_script
        self._appending, self._finding = register(scripts.APPEND), register(scripts.HISTORIES)
        self._reading, self._deleting = register(scripts.SINCE), register(scripts.DELETE_USER)
        self._changing, self._following = register(scripts.CHANGE), register(scripts.CHANGES)

    @classmethod
    def open(cls, url: str, *, name: str, timeout: float = 5.0, durable: bool = True) -> "ValkeyStore":
        """Open the store in the database at `url`.

        Args:
            url: `redis://USER:PASSWORD@HOST:PORT/DB`, or `rediss://` with TLS.
            name: what messages call the store.
            timeout: seconds to wait for an answer, and for a connection.
            durable: whether to refuse a server that may forget what it acknowledged.

        Raises:
            StoreDownError: there is no answer.
            StoreFormatError: a store of a newer version, or a server that is too old.
            DurabilityError: the server may forget acknowledged events, and `durable`.
        """
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=MOST_CONNECTIONS,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            decode_responses=True,
            # Connections that a restart of the server cut are dead, and a second try finds a new one.  What timed out
            # is not tried again: the wait would be twice the timeout.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        store = cls(redis.Redis(connection_pool=pool), name=name)
        try:
            if durable:
                store._check_durable()
            store._check_format()
        except BaseException:
            store.close()
            raise
        return store

    def ping(self) -> None:
        """As in `EventStore`."""
        self._asked(self._client.ping)

    def close(self) -> None:
        """As in `EventStore`."""
        self._closed = True
        self._client.connection_pool.disconnect()

    def _append(self, events: Sequence[StoredEvent]) -> int:
        keys = _keys("cursor", "ids", "events")
        places: dict[str, int] = {}
        values: list[str | int] = []
        for event in events:
            if event.user_id not in places:
                keys.append(_user_key(event.user_id))
                places[event.user_id] = len(keys)
            values += [event.event_id, places[event.user_id], event.timestamp, _encode(event)]
        return int(self._asked(partial(self._appending, keys=keys, args=values)))

    def _newest(self, user_ids: Sequence[str], *, limit: int) -> list[list[list[Any]]]:
        """As `_encode` wrote them; a moment of its own for every 200 users."""
        users = [_user_key(user_id) for user_id in user_ids]
        found: list[list[list[Any]]] = []
        for start in range(0, len(users), USERS_AT_ONCE):
            keys = [*_keys("events"), *users[start : start + USERS_AT_ONCE]]
            for history in self._asked(partial(self._finding, keys=keys, args=[limit])):
                found.append([json.loads(event) for event in history])
        return found

    def _newest_items(self, user_ids: Sequence[str], *, limit: int) -> list[list[tuple[str, int]]]:
        found = self._newest(user_ids, limit=limit)
        return [[(item_id, time) for _, _, item_id, time, *_ in events] for events in found]

    def _since(self, cursor: int, *, limit: int) -> list[list[Any]]:
        """The server runs one script at a time, so no number can appear late."""
        last = cursor + 1
        arrivals: list[list[Any]] = []
        while cursor < last and len(arrivals) < limit:
            values = [cursor, limit - len(arrivals), NUMBERS_AT_ONCE]
            told = self._asked(partial(self._reading, keys=_keys("events", "cursor"), args=values))
            cursor, last, found = int(told[0]), int(told[1]), told[2]
            pairs = zip(found[::2], found[1::2], strict=True)
            arrivals += [[int(number), *json.loads(event)] for number, event in pairs]
        return arrivals

    def _delete_user(self, user_id: str) -> int:
        keys = [_user_key(user_id), *_keys("ids", "events")]
        return int(self._asked(partial(self._deleting, keys=keys)))

    def _change(self, action: Action, items: Mapping[str, str]) -> int:
        values = [part for item in items.items() for part in item]
        keys = _keys("version", "changes", "fields", "stock", "removed")
        return int(self._asked(partial(self._changing, keys=keys, args=[action, *values])))

    def _changes_since(self, version: int, *, limit: int) -> list[list[Any]]:
        keys = _keys("changes", "fields", "stock", "removed")
        found: list[list[Any]] = self._asked(partial(self._following, keys=keys, args=[version, limit]))
        return found

    def _asked(self, question: Callable[[], T]) -> T:
        if self._closed:
            raise StoreDownError(f"the store {self._name} was closed", fix="open the store again")
        try:
            return question()
        except redis.RedisError as error:
            raise StoreDownError(f"the store {self._name} did not do its work: {error}", fix=_fix(error)) from error

    def _check_durable(self) -> None:
        """Raises DurabilityError where the server may forget what it acknowledged, or does not tell."""
        by_hand = "set {} on the server yourself and open the store with durable=False"
        settings = " ".join(f"{name} {value}" for name, value in DURABLE.items())
        try:
            # One by one: only Redis 7 and newer tell several settings at once.
            told = {name: self._client.config_get(name).get(name) for name in DURABLE}
        except (redis.ResponseError, redis.exceptions.NoPermissionError) as error:
            raise DurabilityError(
                f"the store {self._name} does not tell its settings: {error}",
                fix=f"allow CONFIG GET to its user, or {by_hand.format(settings)}",
            ) from error
        except redis.RedisError as error:
            raise StoreDownError(f"the store {self._name} does not answer: {error}", fix=_fix(error)) from error
        wrong = {name: value for name, value in DURABLE.items() if told[name] != value}
        if wrong:
            has = ", ".join(f"{name} {told[name]}" for name in wrong)
            commands = "; ".join(f"CONFIG SET {name} {value}" for name, value in wrong.items())
            raise DurabilityError(
                f"the store {self._name} has {has}, and would forget acknowledged events in a crash",
                fix=f"{commands}; and in its configuration file; or open the store with durable=False",
            )

    def _check_format(self) -> None:
        schema = f"{PREFIX}schema"
        self._asked(partial(self._client.set, schema, SCHEMA, nx=True))
        version = self._asked(partial(self._client.get, schema))
        if not str(version).isdecimal():
            raise StoreFormatError(f"{schema} of {self._name} is of another program", fix="give another database")
        if int(version) != SCHEMA:
            raise newer_store(self._name, version=int(version))


def _keys(*names: str) -> list[str]:
    return [PREFIX + name for name in names]


def _user_key(user_id: str) -> str:
    return f"{PREFIX}user:{user_id}"


def _encode(event: StoredEvent) -> str:
    fields = [event.event_id, event.user_id, event.item_id, event.timestamp, event.event_type, event.value]
    return json.dumps(fields, ensure_ascii=False)


def _fix(error: Exception) -> str:
    if isinstance(error, redis.AuthenticationError):
        return "give user and password in its address: valkey://USER:PASSWORD@HOST:PORT/DB"
    return "see that the server runs, can be reached and has memory and disk left, then send the request again"
