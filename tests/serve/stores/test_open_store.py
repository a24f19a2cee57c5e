"""Addresses of stores: which there are, what is wrong with others, and what is never told."""

import re
import sys
from pathlib import Path

import pytest

from sememe.core.errors import ConfigError, MissingExtraError
from sememe.serve.stores.open import open_store, shown
from sememe.serve.stores.protocol import StoredEvent, StoreDownError

# What a password in an address would leave in a message.
WORD = re.compile(r"\bword\b")


def test_a_path_is_relative_after_three_slashes_and_from_the_root_after_four(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url, file in {
        "sqlite:///here.db": "here.db",
        "sqlite:///deep/er.db": "deep/er.db",
        f"sqlite:///{tmp_path}/root.db": "root.db",
        "sqlite:///with%20space%3F.db": "with space?.db",
    }.items():
        store = open_store(url)
        store.append([StoredEvent("e1", "ann", "b1", timestamp=1)])
        store.close()
        assert (tmp_path / file).is_file()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqllite:///events.db", "did you mean 'sqlite'"),
        ("events.db", "there is no store of kind ''"),
        ("mysql://localhost/x", "no store of kind 'mysql'"),
        ("sqlite://events.db", "sqlite:/// and a path"),
        ("sqlite://", "sqlite:/// and a path"),
        ("sqlite:///", "sqlite:/// and a path"),
        ("sqlite:///events.db?mode=ro", "sqlite:/// and a path"),
        ("sqlite:///a%00b", "sqlite:/// and a path"),
        ("valkey://:pa:ss/word@localhost/0", "cannot be read"),
        ("valkey://localhost/word", "number of a database"),
        ("valkey://user:12/word@localhost/0", "number of a database"),
        ("valkey:///0", "number of a database"),
        ("redis://localhost/0?password=word", "option 'password'"),
        ("redis://localhost/0?ssl_ca_certs=x", "option 'ssl_ca_certs'"),
        ("rediss://localhost/0?db=1", "option 'db'"),
        ("postgresql://[::1/x", "cannot be read"),
        ("postgresql://localhost/x?word=1", "does not know"),
    ],
)
def test_what_is_no_address_is_refused(url: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        open_store(url)
    assert not WORD.search(str(caught.value))


def test_a_timeout_is_a_number_of_seconds(tmp_path: Path) -> None:
    for timeout in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match="timeout"):
            open_store(f"sqlite:///{tmp_path}/events.db", timeout=timeout)


def test_messages_hold_no_password() -> None:
    assert shown("valkey://user:secret@host:6379/0") == "valkey://host:6379/0"
    assert shown("postgresql://me:p%40ss@a:1,b:2/db?password=secret") == "postgresql://a:1,b:2/db"
    assert shown("postgresql:///db?host=/run&password=secret") == "postgresql:///db"
    for hidden in ("user:12/se#c?ret@host/0", "user:12/secret@host/0", "host/0?password=se@cret"):
        assert shown(f"valkey://{hidden}") == "valkey://..."


@pytest.mark.parametrize(
    ("url", "module", "package"),
    [
        ("postgresql://me:secret@127.0.0.1:1/db", "postgres", "psycopg"),
        ("valkey://me:secret@127.0.0.1:1/0", "valkey", "redis"),
        ("redis://me:secret@127.0.0.1:1/0", "valkey", "redis"),
    ],
)
def test_a_server_that_is_not_there_is_told(url: str, module: str, package: str) -> None:
    pytest.importorskip(package)
    with pytest.raises(StoreDownError, match=r"127\.0\.0\.1:1") as caught:
        open_store(url, timeout=1.0)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "module", "package", "extra"),
    [
        ("postgresql://host/db", "postgres_connection", "psycopg", "postgres"),
        ("valkey://host/0", "valkey", "redis", "redis"),
    ],
)
def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, url: str, module: str, package: str, extra: str
) -> None:
    for name in {module, "postgres", "valkey"}:
        monkeypatch.delitem(sys.modules, f"sememe.serve.stores.{name}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=package) as caught:
        open_store(url)
    assert f"sememe[{extra}]" in caught.value.fix
