"""A server in a test: its client, and a store that can be made to fail."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.testclient import TestClient
from starlette.types import ASGIApp

from sememe.serve.service import Service
from sememe.serve.settings import Batching, ServeSettings
from sememe.serve.stores.protocol import StoreDownError

PATIENT = ServeSettings(batching=Batching(budget_ms=30_000))
"""A machine that is busy must not make a test meet the fallback."""
COMMAND = (sys.executable, "-c", "from sememe.cli.main import main; main()")


def start_process(*words: str, environment: Mapping[str, str]) -> tuple["subprocess.Popen[str]", str]:
    """`sememe serve WORDS` at a free port, once it takes requests, and its address; who calls ends it."""
    child = subprocess.Popen(
        [*COMMAND, "serve", *words, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        lines.append(line)
        if line.startswith("listening on "):
            return child, line.split()[-1]
    raise AssertionError("".join(lines))


class Flaky:
    """A store that is down as long as a test wants."""

    def __init__(self, store: Any) -> None:
        self._store, self.down, self.calls = store, False, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name == "close":
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.down:
                raise StoreDownError("the store does not answer", fix="start it")
            return method(*args, **kwargs)

        return call


@dataclass(frozen=True, eq=False)
class Server:
    """A started application, and what it is made of."""

    app: ASGIApp
    http: TestClient
    service: Service
    store: Flaky

    def ids(self) -> list[str]:
        """All items."""
        return [str(item) for item in self.service.served.engine.serving.items.ids.to_list()]

    def users(self) -> list[str]:
        """All users of the run."""
        return [str(user) for user in self.service.served.engine.serving.users.ids.to_list()]

    def post(self, path: str, body: Mapping[str, Any], *, status: int = 200) -> Any:
        """What the server answers, which must have this status."""
        response = self.http.post(f"/v1/{path}", json=body)
        assert response.status_code == status, response.text
        return response.json()

    def recommend(self, **body: Any) -> Any:
        return self.post("recommend", body)

    def listed(self, **body: Any) -> list[str]:
        """The items of a list."""
        return [item["item_id"] for item in self.recommend(**body)["items"]]

    def send(self, user: str, *items: str, start: int = 0, name: str = "e") -> Any:
        """Events of one user, one second apart, with ids of their own."""
        events = [
            {"event_id": f"{name}{user}{number}", "user_id": user, "item_id": item, "timestamp": start + 1000 * number}
            for number, item in enumerate(items)
        ]
        return self.post("events", {"events": events})

    def metric(self, name: str, **labels: str) -> float:
        """A number of the metrics; 0 where it is not there."""
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0
