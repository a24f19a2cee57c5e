"""A store from its address."""

from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from sememe.core.errors import ConfigError, did_you_mean
from sememe.serve.stores.protocol import Store

DEFAULT_TIMEOUT = 5.0
VALKEY = {"valkey": "redis", "redis": "redis", "valkeys": "rediss", "rediss": "rediss"}
TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_cert_reqs")
POSTGRES = ("postgresql", "postgres")
EXAMPLES = "sqlite:///events.db, valkey://localhost:6379/0 or postgresql://user@localhost/sememe"


def open_store(url: str, *, timeout: float = DEFAULT_TIMEOUT, durable: bool = True) -> Store:
    """Open the store at `url`, and make its tables where there are none.

    Args:
        url: `sqlite:///runs/events.db` (relative), `sqlite:////var/lib/events.db` (absolute),
            `valkey://USER:PASSWORD@HOST:PORT/DB` or `redis://` (with TLS `valkeys://` or `rediss://`),
            `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`.
        timeout: seconds until a call to a store that does not answer raises StoreDownError.
        durable: False takes a server that may forget acknowledged events in a crash; SQLite never does.

    Raises:
        ConfigError: no address of a store.
        MissingExtraError: the package of that database is not installed.
        StoreDownError: there is no answer.
        StoreFormatError: a database that is no store, or one of a newer version.
        DurabilityError: a server that may forget acknowledged events, and `durable`.
    """
    if not timeout > 0:
        raise ConfigError(f"a store's timeout is {timeout}, and it is a number of seconds", fix="give more than 0")
    parts = _split(url)
    if parts.scheme == "sqlite":
        from sememe.serve.stores.sqlite import SqliteStore

        return SqliteStore.open(_file(parts), timeout=timeout)
    if parts.scheme in VALKEY:
        from sememe.serve.stores.valkey import ValkeyStore

        _check_valkey(parts)
        address = VALKEY[parts.scheme] + url[url.index(":") :]
        return ValkeyStore.open(address, name=shown(url), timeout=timeout, durable=durable)
    from sememe.serve.stores.postgres import PostgresStore

    return PostgresStore.open(url, name=shown(url), timeout=timeout, durable=durable)


def shown(url: str) -> str:
    """`url` as it may stand in messages and logs: without user, password and options, any of which may be a secret."""
    parts = urlsplit(url)
    if "@" in parts.path + parts.query + parts.fragment:
        # A password that was not encoded: what else of the address belongs to it cannot be known.
        return f"{parts.scheme}://..."
    return f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[-1]}{parts.path}"


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme in VALKEY:
            _ = parts.port  # parsed when it is asked for; PostgreSQL takes lists of hosts, which are not
    except ValueError:
        # What was found wrong may be a piece of a password, and is told nowhere.
        raise ConfigError("the address of the store cannot be read", fix=f"give one like {EXAMPLES}") from None
    schemes = ("sqlite", *VALKEY, *POSTGRES)
    if parts.scheme not in schemes:
        raise ConfigError(
            f"there is no store of kind {parts.scheme!r}",
            fix=f"{did_you_mean(parts.scheme, schemes)}; give an address like {EXAMPLES}",
        )
    return parts


def _check_valkey(parts: SplitResult) -> None:
    """Raises ConfigError for what the driver would pass over in silence, or stumble over later."""
    number = parts.path.removeprefix("/")
    if not parts.hostname or (number and not (number.isascii() and number.isdecimal())):
        raise ConfigError(
            "the address of the store names no host, or no number of a database",
            fix="give one like valkey://HOST:6379/0",
        )
    options = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    known = TLS_OPTIONS if VALKEY[parts.scheme] == "rediss" else ()
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ConfigError(
            f"the address of a store in Valkey has the option {unknown[0]!r}, which there is not",
            fix=f"valkeys:// and rediss:// take {', '.join(TLS_OPTIONS)}; valkey:// and redis:// take none",
        )


def _file(parts: SplitResult) -> Path:
    # As in SQLAlchemy: what follows the third slash, so that a path from the root begins with a fourth.
    path = unquote(parts.path[1:])
    if parts.netloc or parts.query or parts.fragment or not path or "\0" in path:
        raise ConfigError(
            "the address of a SQLite store is sqlite:/// and a path",
            fix="give sqlite:///events.db for a file here, or sqlite:////var/lib/events.db for one from the root",
        )
    return Path(path)
