"""API keys: who may call what, how often; a file that holds salted hashes and no key.

A key is `sememe_ID_SECRET`.  The file says of each ID which scopes it has and how often it may call; of the secret it
holds SHA-256 over a salt and the secret, which is enough for 256 bits that nobody chose.  Another key is made, or one
taken out, while servers run: they look at the file every few seconds.
"""

import hashlib
import hmac
import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, get_args

from sememe.core.errors import ConfigError, SememeError
from sememe.serve.problems import HttpProblem, too_many
from sememe.serve.scopes import SCOPES, Scope

PREFIX = "sememe"
LOOK_SECONDS = 2.0
NOBODY = hashlib.sha256(b"nobody").digest()
"""Compared with where the ID is not known, so that it takes as long."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """What the file says of a key."""

    name: str
    salt: bytes
    digest: bytes
    scopes: frozenset[Scope]
    per_second: float | None
    """Calls per second in the long run; a batch counts as many as it holds.  None: as many as come."""
    burst: float
    """Calls at once after a pause."""


class Bucket:
    """A token bucket that may go into debt: what is dear is paid for afterwards."""

    def __init__(self, key: Key, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = key.per_second, key.burst, clock
        self._tokens, self._seen = key.burst, clock()

    def take(self, cost: float) -> float:
        """Pay for a call; 0, or so many seconds until it could be paid, which then it is not."""
        if self._rate is None:
            return 0.0
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._seen) * self._rate)
        self._seen = now
        if self._tokens < 1.0:
            return (1.0 - self._tokens) / self._rate
        self._tokens -= cost
        return 0.0


@dataclass(frozen=True, eq=False)
class Holder:
    """A key that was shown."""

    key: Key
    bucket: Bucket

    def require(self, scope: Scope) -> None:
        """Raise HttpProblem (403) where the key has not this scope; `admin` has all."""
        if scope not in self.key.scopes and "admin" not in self.key.scopes:
            raise HttpProblem(
                f"the key {self.key.name!r} has not the scope {scope!r}",
                fix=f"use a key that has: sememe new-key FILE --scope {scope}",
                status=HTTPStatus.FORBIDDEN,
            )

    def pay(self, cost: float) -> None:
        """Raise HttpProblem (429) where the key called more often than it may."""
        wait = self.bucket.take(cost)
        if wait:
            raise too_many(f"the key {self.key.name!r} calls more often than it may", retry_after=wait)


class KeyRing:
    """The keys of a file, from any thread; without a file there are none, and nobody is asked for one."""

    def __init__(self, path: Path | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ConfigError where the file is not there, or not one of keys."""
        self._path, self._clock = path, clock
        self._holders: dict[str, Holder] = {}
        self._written = -1
        self._looked = clock()
        if path is not None:
            self._read(path)

    @property
    def required(self) -> bool:
        return self._path is not None

    def holder(self, header: str | None) -> Holder:
        """Whose key the Authorization header shows.  Raises HttpProblem (401) where it shows none."""
        self._look()
        scheme, _, shown = (header or "").partition(" ")
        prefix, _, rest = shown.strip().partition("_")
        identifier, _, secret = rest.partition("_")
        found = self._holders.get(identifier) if prefix == PREFIX and scheme.lower() == "bearer" else None
        expected = NOBODY if found is None else found.key.digest
        given = _digest(b"" if found is None else found.key.salt, secret)
        if not hmac.compare_digest(expected, given) or found is None:
            raise HttpProblem(
                "no key, or one that is not known",
                fix="send the header `Authorization: Bearer KEY`; keys are made by sememe new-key",
                status=HTTPStatus.UNAUTHORIZED,
            )
        return found

    def _look(self) -> None:
        """Read the file again where it changed; one that cannot be read leaves the keys as they are."""
        now = self._clock()
        if self._path is None or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        try:
            if self._path.stat().st_mtime_ns != self._written:
                self._read(self._path)
        except (OSError, SememeError) as error:
            _log.warning("the keys stay as they are: %s", error)

    def _read(self, path: Path) -> None:
        # Looked up before it is read: what is written meanwhile is read the next time.
        written = path.stat().st_mtime_ns if path.exists() else -1
        keys = {identifier: _key(path, entry) for identifier, entry in _entries(path).items()}
        before = self._holders
        # A key that stays as it is keeps its bucket, or a change of the file would fill them all.
        self._holders = {
            identifier: before[identifier]
            if identifier in before and before[identifier].key == key
            else Holder(key, Bucket(key, clock=self._clock))
            for identifier, key in keys.items()
        }
        self._written = written


def make_key(path: Path, *, name: str, scopes: tuple[str, ...], per_second: float | None = None) -> str:
    """Add a key to the file `path`, made where there is none; what is returned is written nowhere.

    Raises:
        ConfigError: there is no such scope, the rate is not above 0, or the file is not one of keys.
    """
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise ConfigError(f"there is no scope {', '.join(unknown) or 'given'}", fix=f"choose of {', '.join(SCOPES)}")
    if per_second is not None and per_second <= 0:
        raise ConfigError(f"a key that may call {per_second} times a second is of no use", fix="give a rate above 0")
    identifier, secret, salt = secrets.token_hex(6), secrets.token_urlsafe(32), secrets.token_bytes(16)
    entries = _entries(path) if path.exists() else {}
    entries[identifier] = {
        "name": name,
        "salt": salt.hex(),
        "sha256": _digest(salt, secret).hex(),
        "scopes": sorted(set(scopes)),
        "per_second": per_second,
    }
    _write(path, {"keys": entries})
    return f"{PREFIX}_{identifier}_{secret}"


def _digest(salt: bytes, secret: str) -> bytes:
    return hashlib.sha256(salt + secret.encode("utf-8", "surrogatepass")).digest()


def _entries(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["keys"]
    except FileNotFoundError as error:
        raise ConfigError(f"there is no key file {path}", fix=f"make one: sememe new-key {path}") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} is no key file: {error}", fix=f"move it away: sememe new-key {path}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is no key file", fix=f"move it away, then make one: sememe new-key {path}")
    return found


def _key(path: Path, entry: Any) -> Key:
    try:
        rate = entry["per_second"]
        return Key(
            name=str(entry["name"]),
            salt=bytes.fromhex(entry["salt"]),
            digest=bytes.fromhex(entry["sha256"]),
            scopes=frozenset(scope for scope in get_args(Scope) if scope in entry["scopes"]),
            per_second=None if rate is None else float(rate),
            burst=1.0 if rate is None else max(1.0, 2.0 * float(rate)),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} holds a key that is incomplete: {error!r}", fix="take it out of the file") from error


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all, and for the owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
    os.replace(draft, path)
