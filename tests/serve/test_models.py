"""One model after the other: taken over under load, rolled back, refused where anything is wrong with it."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from serving import PATIENT, Server

from sememe.cli.main import app
from sememe.core.errors import ArtifactError, ConfigError
from sememe.pipeline.opened import open_run
from sememe.serve.canary import CanaryError, compare
from sememe.serve.models import ModelFolder, UnknownModelError
from sememe.serve.served import Served
from sememe.serve.service import ModelSource
from sememe.serve.settings import Canary, Histories


@pytest.fixture
def folder(served_run: Path, second_run: Path, tmp_path: Path) -> ModelFolder:
    """Two models, the first of them active."""
    for name, run in (("monday", served_run), ("tuesday", second_run)):
        shutil.copytree(run, tmp_path / "models" / name, ignore=shutil.ignore_patterns("serve", "models"))
    models = ModelFolder(tmp_path / "models")
    models.point_to("monday")
    return models


@dataclass(frozen=True)
class Started:
    server: Server
    folder: ModelFolder

    def activate(self, name: str, *, status: int = 200) -> Any:
        answer = self.server.http.post(f"/v1/models/{name}:activate")
        assert answer.status_code == status, answer.text
        return answer.json()

    def models(self) -> Any:
        return self.server.http.get("/v1/models").json()

    def answering(self) -> list[str]:
        return [one["name"] for one in self.models()["models"] if one["answering"]]


def start(serve: Any, folder: ModelFolder, **options: Any) -> Started:
    load = options.pop("load", Served.load)
    served = load(folder.path_of(folder.pointer().active))
    settings = replace(PATIENT, histories=Histories(poll_seconds=0.02))
    return Started(serve(served, source=ModelSource(folder, load), settings=settings, **options), folder)


@pytest.fixture
def started(serve: Any, folder: ModelFolder) -> Iterator[Started]:
    yield start(serve, folder)


def lists_of(run: Path, users: list[str]) -> list[list[str]]:
    opened = open_run(run)
    return [[str(item) for item in opened.recommend(user=user, k=10)["item"]] for user in users]


def test_no_request_fails_while_models_change(started: Started) -> None:
    server, users = started.server, started.server.users()
    stop, failed, answered = threading.Event(), [], [0] * 6
    wanted = {
        name: dict(zip(users, lists_of(started.folder.path_of(name), users), strict=True))
        for name in ("monday", "tuesday")
    }
    assert wanted["monday"] != wanted["tuesday"]

    def ask(number: int) -> None:
        while not stop.is_set():
            user = users[(7 * number + answered[number]) % len(users)]
            told = server.http.post("/v1/recommend", json={"user_id": user})
            listed = [item["item_id"] for item in told.json().get("items", [])]
            if told.status_code != 200 or listed not in (wanted["monday"][user], wanted["tuesday"][user]):
                failed.append(told.text)
            answered[number] += 1

    with ThreadPoolExecutor(6) as pool:
        for number in range(6):
            pool.submit(ask, number)
        told = started.activate("tuesday")
        assert told["active"] == "tuesday" and told["previous"] == "monday"
        assert told["canary"]["failures"] == 0 and 0 < told["canary"]["overlap"] <= 1
        assert started.answering() == ["tuesday"]
        assert server.http.post("/v1/models:rollback").json()["active"] == "monday"
        stop.set()
    assert failed == [] and min(answered) > 3
    assert [server.listed(user_id=user) for user in users] == list(wanted["monday"].values())


def test_offline_and_served_lists_are_the_same(started: Started) -> None:
    started.activate("tuesday")
    users = started.server.users()
    asked = [{"user_id": users[number % len(users)], "k": 1 + number % 13} for number in range(200)]
    answers = started.server.post("recommend:batch", {"requests": asked})["answers"]
    opened = open_run(started.folder.path_of("tuesday"))
    for one, answer in zip(asked, answers, strict=True):
        frame = opened.recommend(user=one["user_id"], k=int(one["k"]))
        assert [item["item_id"] for item in answer["items"]] == [str(item) for item in frame["item"]]


def test_a_damaged_model_is_refused_and_the_old_one_goes_on(started: Started) -> None:
    user = started.server.users()[0]
    before = started.server.recommend(user_id=user)
    stages = started.folder.path_of("tuesday") / "stages"
    damaged = next(stages.glob("model-tiny-*/model.safetensors"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    told = started.activate("tuesday", status=409)
    assert "differs from what was written" in told["detail"]
    assert started.answering() == ["monday"] and started.models()["active"] == "monday"
    after = started.server.recommend(user_id=user)
    assert after["items"] == before["items"] and after["model"] == before["model"]
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert started.activate("tuesday")["active"] == "tuesday"


def test_what_a_command_made_active_is_taken_over_or_told_to_be_refused(started: Started) -> None:
    started.folder.point_to("tuesday")
    wait_for(lambda: started.answering() == ["tuesday"])
    (started.folder.path_of("monday") / "metrics.json").write_text("{}")
    shutil.rmtree(started.folder.path_of("monday") / "stages")
    started.folder.point_to("monday")
    wait_for(lambda: started.models().get("refused") is not None)
    told = started.models()
    assert told["active"] == "monday" and started.answering() == ["tuesday"] and "manifest.json" in told["refused"]
    assert started.server.recommend(user_id=started.server.users()[0])["degraded"] == []


def test_a_model_that_cannot_be_opened_is_tried_once(serve: Any, folder: ModelFolder) -> None:
    opened: list[str] = []

    def load(path: Path) -> Served:
        opened.append(path.name)
        if path.name == "tuesday":
            raise RuntimeError("not enough memory")
        return Served.load(path)

    started = start(serve, folder, load=load)
    folder.point_to("tuesday")
    wait_for(lambda: started.models().get("refused") is not None)
    time.sleep(0.2)
    assert opened == ["monday", "tuesday"] and started.answering() == ["monday"]
    assert "memory" not in started.models()["refused"]
    # Who made another one active since is heard.
    folder.point_to("monday")
    wait_for(lambda: started.models().get("refused") is None)


def test_a_model_of_another_version_is_refused(serve: Any, folder: ModelFolder) -> None:
    def load(path: Path) -> Served:
        if path.name == "tuesday":
            raise KeyError("what it did not have yet")
        return Served.load(path)

    started = start(serve, folder, load=load)
    told = started.activate("tuesday", status=409)
    assert told["detail"].startswith("model tuesday cannot be opened (KeyError)") and "version" in told["fix"]
    assert started.answering() == ["monday"] and started.models()["active"] == "monday"


def wait_for(holds: Any) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_items_and_stock_are_in_force_at_the_next_model_from_its_first_list(started: Started) -> None:
    server, ids = started.server, started.server.ids()
    run = server.service.served.living.run
    assert run.items.vectors is not None
    vector = [float(value) for value in run.items.vectors[3]]
    item = {"item_id": "new", "fields": {"title": "New", "vector": vector}}
    assert server.http.put("/v1/items", json={"items": [item]}).status_code == 200
    server.http.request("DELETE", "/v1/items", json={"item_ids": [ids[4]]})
    server.http.put("/v1/stock", json={"stock": {ids[5]: False}})
    started.activate("tuesday")
    listed = server.listed(history=[ids[0]], k=500)
    assert "new" in listed and {ids[4], ids[5]}.isdisjoint(listed)


def test_names_that_there_are_not_are_refused(started: Started) -> None:
    for name in ("wednesday", "..", "%2e%2e", "serve", "x" * 300, "original"):
        assert started.server.http.post(f"/v1/models/{name}:activate").status_code in (404, 422)
    assert started.server.http.post("/v1/models:rollback").status_code == 409
    assert started.activate("monday")["active"] == "monday"


def test_a_model_that_fails_the_comparison_is_refused(started: Started, fresh: Served, counting: Served) -> None:
    found = compare(fresh, fresh, Canary(requests=20))
    assert found.overlap == 1 and found.failures == found.unreadable == 0
    with pytest.raises(CanaryError, match="share"):
        compare(fresh, counting, Canary(requests=20, least_overlap=0.99))

    class Slow:
        def recommend(self, requests: Any) -> Any:
            time.sleep(0.03)
            return fresh.engine.recommend(requests)

    class Failing:
        serving = fresh.engine.serving

        def recommend(self, _: Any) -> Any:
            raise RuntimeError("out of order")

    for engine, problem in ((Slow(), "ms for a list"), (Failing(), "out of order")):
        with pytest.raises(CanaryError, match=problem):
            compare(fresh, replace(fresh, engine=engine), Canary(requests=5))  # type: ignore[arg-type]
    # A model that is out of order does not keep one from taking its place that is not.
    broken = replace(fresh, engine=Failing())  # type: ignore[arg-type]
    found = compare(broken, fresh, Canary(requests=5, least_overlap=0.5, slow_ms=0.0))
    assert found.failures == 0 and found.overlap == found.old_ms == 0 < found.new_ms


def test_a_folder_says_what_is_active(served_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no finished run"):
        ModelFolder(tmp_path).pointer()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text('{"models": [{"name": "x"}]}')
        if name == "one":
            assert ModelFolder(tmp_path).pointer().active == "one"
    models = ModelFolder(tmp_path)
    with pytest.raises(ConfigError, match="none of them was made active"):
        models.pointer()
    assert models.point_to("two").previous is None and models.point_to("one").previous == "two"
    assert models.pointer().active == "one" and models.point_to("one").number == 2
    with pytest.raises(UnknownModelError, match="three"):
        models.point_to("three")
    (tmp_path / "active.json").write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read"):
        models.pointer()
    assert json.loads((served_run / "run.json").read_text())["models"]
    assert ModelFolder(served_run).names() == ["original"] and ModelFolder(served_run).pointer().active == "original"


def test_the_command_lists_activates_and_rolls_back(folder: ModelFolder, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: str) -> list[str]:
        app(["models", str(folder.path), *words], result_action="return_value")
        return capsys.readouterr().out.split("\n")

    assert [line.split() for line in told()[:2]] == [["active", "monday", "tiny"], ["tuesday", "tiny"]]
    assert told("--activate", "tuesday")[0].split() == ["previous", "monday", "tiny"]
    assert folder.pointer().active == "tuesday"
    assert told("--roll-back")[0].split() == ["active", "monday", "tiny"]
    weights = next((folder.path_of("tuesday") / "stages").glob("model-tiny-*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="truncated"):
        told("--activate", "tuesday")
    assert folder.pointer().active == "monday"
