"""Two servers behind nginx on one PostgreSQL: they know the same at once, and one may die without losing a request."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from store_servers import PostgresServer

from sememe.pipeline.opened import open_run
from sememe.serve.client import Ask, Client, NewEvent
from sememe.serve.keys import make_key
from sememe.serve.models import ModelFolder

CONFIGURATION = Path(__file__).parents[3] / "deploy" / "nginx.conf"
COMMAND = (sys.executable, "-c", "from sememe.cli.main import main; main()", "serve")
LATER = 4 * 10**12
"""Milliseconds; after everything in the data of the run."""


@dataclass(eq=False)
class Replica:
    """A server process, which can be killed and started again at the same address."""

    command: tuple[str, ...]
    environment: dict[str, str]
    port: int
    child: "subprocess.Popen[str] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.child = subprocess.Popen(
            [*self.command, "--port", str(self.port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
        )
        assert self.child.stdout is not None
        lines = []
        for line in self.child.stdout:
            lines.append(line)
            if line.startswith("listening on "):
                return
        raise AssertionError("".join(lines))

    def kill(self) -> None:
        """As a loss of power would end it."""
        if self.child is not None:
            self.child.send_signal(signal.SIGKILL)
            self.child.wait()


@dataclass(eq=False)
class Fleet:
    """The servers, and nginx before them."""

    replicas: list[Replica]
    key: str
    runs: dict[str, Path]
    url: str = ""
    clients: list[Client] = field(default_factory=list)

    def client(self, replica: int | None = None) -> Client:
        """Of one server, or of all through nginx."""
        url = self.url if replica is None else self.replicas[replica].url
        client = Client(url, key=self.key)
        self.clients.append(client)
        return client

    def listed(self, replica: int, history: list[str], *, k: int = 10) -> list[str]:
        """The items of a list, asked of one server."""
        return [item.item_id for item in self.client(replica).recommend(Ask(history=history, k=k)).items]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def configured(folder: Path, *, servers: list[int], port: int) -> Path:
    """deploy/nginx.conf with other addresses and nothing else changed, in `folder`, where it may write."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    changes = {
        "server server-1:8000 ": f"server 127.0.0.1:{servers[0]} ",
        "server server-2:8000 ": f"server 127.0.0.1:{servers[1]} ",
        "listen 8080;": f"listen 127.0.0.1:{port};",
        "pid /tmp/nginx.pid;": f"pid {folder}/nginx.pid;",
        "worker_processes auto;": "worker_processes 1;",
    }
    for before, after in changes.items():
        assert text.count(before) == (2 if before.startswith("server server") else 1), before
        text = text.replace(before, after)
    file = folder / "nginx.conf"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[list[int]], str]]:
    """Starts nginx before servers at these ports, and tells its address."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    if program is None:
        pytest.skip("nginx is not installed")
    started: list[subprocess.Popen[bytes]] = []
    folder = tmp_path_factory.mktemp("nginx")
    # Its workers may have another account than the one that starts it.
    folder.chmod(0o755)

    def start(servers: list[int]) -> str:
        port = free_port()
        file = configured(folder, servers=servers, port=port)
        with (folder / "log").open("wb") as log:
            words = [program, "-c", str(file), "-e", "stderr", "-g", "daemon off;"]
            started.append(subprocess.Popen(words, stdout=log, stderr=log))
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                assert started[-1].poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.02)
            else:
                return f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture(scope="module")
def fleet(
    proxy: Callable[[list[int]], str],
    postgres_server: PostgresServer,
    served_run: Path,
    second_run: Path,
    tmp_path_factory: pytest.TempPathFactory,
    quiet_environment: dict[str, str],
) -> Iterator[Fleet]:
    """Two servers on one folder of models, the first of them active, and one empty store."""
    folder = tmp_path_factory.mktemp("fleet")
    postgres_server.clear()
    runs = {"monday": served_run, "tuesday": second_run}
    for name, run in runs.items():
        shutil.copytree(run, folder / "models" / name, ignore=shutil.ignore_patterns("serve", "models"))
    ModelFolder(folder / "models").point_to("monday")
    key = make_key(folder / "keys.json", name="test", scopes=("admin",), per_second=None)
    options = ("--store", postgres_server.url, "--keys", str(folder / "keys.json"))
    # A machine that is busy must not make a test meet the fallback.
    patient = ("--set", "batching.budget_ms=30000", "--set", "store_seconds=20")
    command = (*COMMAND, str(folder / "models"), *options, *patient)
    fleet = Fleet([Replica(command, quiet_environment, free_port()) for _ in range(2)], key, runs)
    try:
        for replica in fleet.replicas:
            replica.start()
        fleet.url = proxy([replica.port for replica in fleet.replicas])
        yield fleet
    finally:
        for client in fleet.clients:
            client.close()
        for replica in fleet.replicas:
            replica.kill()


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def item_ids(fleet: Fleet) -> list[str]:
    return [str(item) for item in open_run(fleet.runs["monday"]).world.interactions.item_ids]


def test_an_event_sent_to_one_counts_at_the_other_at_once(fleet: Fleet) -> None:
    ids, clients = item_ids(fleet), (fleet.client(0), fleet.client(1))
    for number in range(20):
        here, there = clients[number % 2], clients[1 - number % 2]
        user, item = f"new-{number}", ids[number % len(ids)]
        assert there.recommend(Ask(user_id=user)).document["source"] == "fallback:popularity"
        assert here.send_events([NewEvent(user_id=user, item_id=item, timestamp=LATER)]).accepted == 1
        told = there.recommend(Ask(user_id=user))
        assert told.document["history"]["store"] == 1 and told.document["source"] == "beam:code_log_prob"
        assert item not in [one.item_id for one in told.items]
        assert [one.item_id for one in told.items] == fleet.listed(number % 2, [item])


def test_items_and_stock_reach_both(fleet: Fleet) -> None:
    ids, through = item_ids(fleet), fleet.client()
    vectors = open_run(fleet.runs["monday"]).items.vectors
    assert vectors is not None
    fields = {"title": "New", "vector": [float(value) for value in vectors[3]]}

    def everywhere(item: str) -> bool:
        return all(item in fleet.listed(replica, ids[:1], k=500) for replica in range(2))

    def nowhere(item: str) -> bool:
        return not any(item in fleet.listed(replica, ids[:1], k=500) for replica in range(2))

    assert everywhere(ids[5])
    through.put_items({"new": fields})
    through.put_stock({ids[5]: False})
    wait_for(lambda: everywhere("new") and nowhere(ids[5]))
    through.remove_items(["new"])
    wait_for(lambda: nowhere("new"))


def answering(fleet: Fleet) -> list[str]:
    """What answers at each server."""
    told = [fleet.client(replica).models()["models"] for replica in range(2)]
    return [str(one["name"]) for models in told for one in models if one["answering"]]


def test_a_model_that_one_activates_answers_at_both(fleet: Fleet) -> None:
    assert answering(fleet) == ["monday", "monday"]
    assert fleet.client(0).activate("tuesday")["active"] == "tuesday"
    wait_for(lambda: answering(fleet) == ["tuesday", "tuesday"])
    assert fleet.client(1).roll_back()["active"] == "monday"
    wait_for(lambda: answering(fleet) == ["monday", "monday"])


def test_metrics_are_of_one_server_and_not_shown_by_the_proxy(fleet: Fleet) -> None:
    headers = {"authorization": f"Bearer {fleet.key}"}
    assert httpx.get(f"{fleet.url}/metrics", headers=headers).status_code == 404
    assert "sememe_requests_total" in httpx.get(f"{fleet.replicas[0].url}/metrics", headers=headers).text
    assert httpx.post(f"{fleet.url}/v1/recommend", json={"user_id": "a"}).status_code == 401
    big = httpx.post(f"{fleet.url}/v1/recommend", headers=headers, json={"user_id": "x" * (4 * 2**20 + 1000)})
    assert big.status_code == 413 and big.headers["content-type"] == "application/problem+json"


def has_answered(replica: Replica, key: str) -> bool:
    """Whether the server took part in the load."""
    page = httpx.get(f"{replica.url}/metrics", headers={"authorization": f"Bearer {key}"}).text
    return re.search(r'requests_total{route="post /v1/events",status="200"} [1-9]', page) is not None


def test_no_request_fails_when_one_is_killed_under_load(fleet: Fleet) -> None:
    ids, stop = item_ids(fleet), threading.Event()
    sent: list[list[str]] = [[] for _ in range(4)]
    failed: list[str] = []

    def ask(number: int) -> None:
        client, user = fleet.client(), f"loaded-{number}"
        try:
            while not stop.is_set():
                event = NewEvent(user_id=user, item_id=ids[len(sent[number]) % len(ids)])
                client.send_events([event])
                sent[number].append(str(event.event_id))
                told = client.recommend(Ask(user_id=user, repeat_seen=True)).document
                if told["degraded"] or len(told["items"]) != 10:
                    failed.append(str(told))
        except Exception as error:  # noqa: BLE001 - whatever it is, a request failed
            failed.append(repr(error))

    def after(count: int) -> None:
        """Wait until everybody has sent so many more."""
        goals = [len(mine) + count for mine in sent]
        wait_for(lambda: bool(failed) or all(len(mine) >= goal for mine, goal in zip(sent, goals, strict=True)))

    with ThreadPoolExecutor(4) as pool:
        for number in range(4):
            pool.submit(ask, number)
        try:
            for replica in fleet.replicas:
                after(5)
                assert has_answered(replica, fleet.key)
                replica.kill()
                after(5)
                replica.start()
        finally:
            stop.set()
    assert failed == []
    # What was acknowledged is there, once.
    for number, events in enumerate(sent):
        kept = [event["event_id"] for event in fleet.client(1).export_user(f"loaded-{number}")["events"]]
        assert len(kept) == len(set(kept)) and set(events) <= set(kept)
