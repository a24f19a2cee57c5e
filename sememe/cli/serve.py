"""The verbs `serve` and `new-key`."""

import importlib.util
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from rich.console import Console

from sememe.cli.set_option import read_settings
from sememe.core.config import apply_settings
from sememe.core.errors import MissingExtraError

if TYPE_CHECKING:
    from sememe.serve.settings import ServeSettings

PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools", "prometheus_client")


def run_server(
    console: Console,
    models: Path,
    *,
    address: tuple[str, int],
    store: str | None,
    keys: Path | None,
    rules: Path | None,
    model: str | None,
    settings: "ServeSettings",
) -> None:
    """Serve a run, or the active one of a folder of runs, at (host, port) until a signal comes.

    Raises:
        MissingExtraError: the packages of the extra `serve` are not installed.
        ConfigError: an address that others can reach, without keys.
    """
    require_packages()
    from sememe.serve.app import create_app
    from sememe.serve.keys import KeyRing
    from sememe.serve.memory import settle_memory, share_memory
    from sememe.serve.metrics import Metrics
    from sememe.serve.models import ModelFolder
    from sememe.serve.rule_file import read_rules
    from sememe.serve.served import Served
    from sememe.serve.server import serve
    from sememe.serve.service import ModelSource, Service
    from sememe.serve.stores.open import open_store
    from sememe.train.device import limit_threads

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    share_memory()
    ring = KeyRing(keys)
    named = {} if rules is None else read_rules(rules)
    logging.getLogger("sememe").setLevel(logging.WARNING)
    load = partial(Served.load, model=model, rules=named, cache_bytes=settings.cache_mb * 2**20)
    folder = ModelFolder(models)
    name = folder.pointer().active
    served = load(folder.path_of(name))
    url = store or default_store(models)
    # Requests share the processor by threads of the server; more threads for one of them would stand in their way.
    limit_threads(1)
    opened = open_store(url, timeout=settings.store_seconds)
    source = ModelSource(folder, load)
    service = Service(served, opened, settings=settings, metrics=Metrics(), source=source)
    say(f"model {name}: {served.row} {served.version}, {served.engine.path}; store {url.partition('@')[2] or url}")
    # The service has it, as long as it answers; held from here, the first model would outlive all others.
    del served
    if not ring.required:
        say("no --keys: only this machine may connect")
    app = create_app(service, ring)
    settle_memory()
    serve(app, service, host=address[0], port=address[1], told=lambda where: say(f"listening on {where}"))
    say("stopped")


def require_packages() -> None:
    """Raise MissingExtraError for the first package that is not installed."""
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra="serve", purpose="a server")


def default_store(models: Path) -> str:
    """SQLite in the folder of a run, or of runs."""
    (models / "serve").mkdir(exist_ok=True)
    return f"sqlite:///{quote(str((models / 'serve' / 'store.sqlite').resolve()))}"


def parse_settings(texts: Sequence[str]) -> "ServeSettings":
    """The default settings with `path=value` applied.  Raises ConfigError for a path that there is not."""
    from sememe.serve.settings import ServeSettings

    return apply_settings(ServeSettings(), read_settings(texts, example="batching.budget_ms=100"))


def add_key(console: Console, file: Path, *, name: str, scopes: tuple[str, ...], per_second: float | None) -> None:
    """Make a key, and print it: the one time that it can be read."""
    require_packages()
    from sememe.serve.keys import make_key

    key = make_key(file, name=name, scopes=scopes, per_second=per_second)
    console.print(f"{file} holds a hash of it; the key itself is shown only here:", markup=False, soft_wrap=True)
    print(key)
