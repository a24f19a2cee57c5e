"""Items that come, change and go: in lists within a second, at every replica, and after a restart."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from serving import PATIENT, Server

from sememe.core.errors import MissingExtraError
from sememe.core.schema import Catalog, FloatArray, Interactions
from sememe.pipeline.engine import Engine
from sememe.pipeline.recipe import Embedder, FittedReranker
from sememe.serve.rule_file import read_rules
from sememe.serve.served import Served
from sememe.serve.settings import Histories
from sememe.serve.stores.protocol import ItemRow


def vector_of(server: Server, item: str) -> list[float]:
    """As the item of the run has it."""
    living = server.service.served.living
    (row,) = server.service.served.engine.serving.items.find([item]).tolist()
    assert living.run.items.vectors is not None
    return [float(value) for value in living.run.items.vectors[row]]


def put(server: Server, *items: dict[str, Any], status: int = 200) -> Any:
    answer = server.http.put("/v1/items", json={"items": list(items)})
    assert answer.status_code == status, answer.text
    return answer.json()


def remove(server: Server, *items: str, status: int = 200) -> Any:
    answer = server.http.request("DELETE", "/v1/items", json={"item_ids": list(items)})
    assert answer.status_code == status, answer.text
    return answer.json()


def like(server: Server, name: str, item: str, **fields: Any) -> dict[str, Any]:
    return {"item_id": name, "fields": {"title": f"like {item}", "vector": vector_of(server, item), **fields}}


def follows(server: Server, **body: Any) -> list[str]:
    return server.listed(repeat_seen=True, k=500, **body)


def test_a_new_item_is_recommended_within_a_second_and_a_removed_one_never_again(server: Server) -> None:
    ids, user = server.ids(), server.users()[0]
    first = server.listed(user_id=user)[0]
    started = time.monotonic()
    told = put(server, like(server, "brand new", first))
    listed = server.recommend(user_id=user, titles=True)["items"]
    assert time.monotonic() - started < 1
    assert told["new_items"] == 1 and told["unread_fields"] == []
    # Its content is that of the best item, so that it is beside it.
    assert "brand new" in [item["item_id"] for item in listed[:4]]
    assert next(item["title"] for item in listed if item["item_id"] == "brand new") == f"like {first}"
    assert server.post("similar", {"item_ids": [first]})["items"][0]["item_id"] == "brand new"
    assert server.recommend(history=["brand new"])["source"] == "beam:code_log_prob"
    assert server.http.get("/v1/model").json()["items"] == len(ids) + 1
    told = remove(server, "brand new", first, "who")
    assert told["removed"] == 2 and told["unknown_items"] == 1
    for ask in ({"user_id": user}, {"history": ["brand new", ids[5]]}, {}, {"history": ids[:3], "diversity": 0.5}):
        assert {"brand new", first}.isdisjoint(follows(server, **ask))
    assert {"brand new", first}.isdisjoint(
        item["item_id"] for item in server.post("similar", {"item_ids": [ids[1]], "k": 500})["items"]
    )
    # What is put again is back under its old code.
    put(server, {"item_id": first}, like(server, "brand new", ids[7]))
    assert server.listed(user_id=user)[0] == first and "brand new" in follows(server, user_id=user)


def test_items_that_came_leave_all_others_where_they_can_be_found(server: Server) -> None:
    ids, users = server.ids(), server.users()
    before = {user: follows(server, user_id=user) for user in users[:20]}
    new = [f"new {number}" for number in range(4)]
    put(server, *(like(server, name, ids[number]) for number, name in enumerate(new)))
    for user, listed in before.items():
        assert sorted(follows(server, user_id=user)) == sorted([*listed, *new])


def test_replicas_follow_and_a_restart_brings_items_back(serve: Any, server: Server, generator: Served) -> None:
    ids, user = server.ids(), server.users()[0]
    settings = replace(PATIENT, histories=Histories(poll_seconds=0.02))
    other = serve(replace(generator, engine=Engine(generator.engine.serving)), settings=settings, store=server.store)
    server.http.put("/v1/stock", json={"stock": {ids[3]: False, "later": False}})
    put(server, like(server, "seen there", ids[2]), like(server, "later", ids[4]))
    remove(server, ids[6])
    deadline = time.monotonic() + 1
    while "seen there" not in follows(other, user_id=user) or ids[6] in follows(other, user_id=user):
        assert time.monotonic() < deadline
    after = follows(other, user_id=user)
    assert after == follows(server, user_id=user) and {ids[3], "later"}.isdisjoint(after)
    restarted = serve(
        replace(generator, engine=Engine(generator.engine.serving)), settings=settings, store=server.store
    )
    assert ids[6] not in follows(restarted, user_id=user)
    while "seen there" not in follows(restarted, user_id=user):
        assert time.monotonic() < deadline + 2
    assert follows(restarted, user_id=user) == after


def test_what_is_said_of_an_item_of_the_run_changes_its_title_and_rules(
    served_run: Path, serve: Any, tmp_path: Path
) -> None:
    file = tmp_path / "rules.json"
    file.write_text('{"odd": {"one_of": ["categories", ["odd kind"]]}, "all": {"positive": "price"}}')
    run = Served.load(served_run).engine.serving.run.world.catalog.frame
    if "price" not in run.columns:
        file.write_text('{"odd": {"one_of": ["categories", ["odd kind"]]}}')
    server: Server = serve(Served.load(served_run, rules=read_rules(file)))
    ids = server.ids()
    assert server.recommend(history=[ids[0]], rules=["odd"])["items"] == []
    kind: Any = ["odd kind"] if run.schema["categories"].is_nested() else "odd kind"
    put(
        server,
        {"item_id": ids[5], "fields": {"title": "Told", "categories": kind}},
        like(server, "z", ids[1], categories=kind),
    )
    told = server.recommend(history=[ids[0]], rules=["odd"], titles=True)["items"]
    assert {(item["item_id"], item["title"]) for item in told} == {(ids[5], "Told"), ("z", f"like {ids[1]}")}
    # Of an item of the run, what is not said any more is again as the run has it.
    told = put(server, {"item_id": ids[5], "fields": {"colour": "red"}})
    assert told["unread_fields"] == ["colour"] and told["new_items"] == 0
    assert [item["item_id"] for item in server.recommend(history=[ids[0]], rules=["odd"])["items"]] == ["z"]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"title": 5}, "title"),
        ({"title": "no vector"}, "no vectors"),
        ({"vector": [1.0]}, "1 numbers"),
        ({"vector": "x"}, "vector"),
        ({"vector": ["a"] * 16}, "vector"),
    ],
)
def test_items_that_cannot_be_taken_in_are_refused_and_not_kept(
    server: Server, fields: dict[str, Any], problem: str
) -> None:
    told = put(server, {"item_id": "bad", "fields": fields}, status=409)
    assert problem in told["detail"], told
    assert server.store.changes_since(0, limit=10) == []


def test_rows_without_codes_lose_items_and_take_none_in(serve: Any, counting: Served) -> None:
    server: Server = serve(replace(counting, engine=Engine(counting.engine.serving)))
    ids = server.ids()
    top = server.listed(history=[ids[0]])[0]
    remove(server, top)
    assert top not in follows(server, history=[ids[0]]) and top not in follows(server)
    told = put(server, {"item_id": "new"}, status=409)
    assert "by their numbers" in told["detail"]
    put(server, {"item_id": top})
    assert server.listed(history=[ids[0]])[0] == top
    everything = remove(server, *ids, status=409)
    assert "no item would be left" in everything["detail"]


def test_offline_and_served_lists_are_the_same_after_items_came(server: Server) -> None:
    """The compiled search over the grown catalogue gives what torch gives for it."""
    ids = server.ids()
    put(server, *(like(server, f"new {number}", ids[number * 3]) for number in range(5)))
    remove(server, ids[2])
    recommender = server.service.served.engine.serving.answerer.recommender
    items = server.service.served.engine.serving.items
    for number in range(30):
        history = [ids[number], f"new {number % 5}", ids[(number * 7) % len(ids)]]
        rows = items.find(history).astype(np.int32)
        ranked = recommender.recommend([rows], k=10, leave_out=[rows])
        names = [str(name) for name in items.names(ranked.items[0][ranked.items[0] >= 0])]
        assert server.listed(history=history) == names


@pytest.mark.parametrize(("kind", "problem"), [("last word", "fitted last word"), ("older codes", "which tokenizer")])
def test_generators_that_cannot_grow_lose_items_and_say_what_waits(
    serve: Any, fresh: Served, kind: str, problem: str
) -> None:
    run = fresh.living.run
    if kind == "last word":
        run = replace(run, recommender=replace(run.recommender, rerank=cast(FittedReranker, object())))
    else:
        stage = run.items.stages["codes"]
        older = replace(stage, meta={**stage.meta, "result": {}})
        run = replace(run, items=replace(run.items, stages={**run.items.stages, "codes": older}))
    server: Server = serve(replace(fresh, living=replace(fresh.living, run=run)))
    ids, user = server.ids(), server.users()[0]
    top = server.listed(user_id=user)[0]
    remove(server, top)
    assert top not in follows(server, user_id=user) and top not in follows(server)
    put(server, {"item_id": top, "fields": {"title": "Back"}})
    assert server.recommend(user_id=user, titles=True)["items"][0]["title"] == "Back"
    assert problem in put(server, like(server, "new", ids[0]), status=409)["detail"]
    # Another replica with a row that takes them in may put items into the store that this one has no use for.
    server.store.put_items([ItemRow("new", like(server, "new", ids[0])["fields"])])
    server.http.put("/v1/stock", json={"stock": {ids[1]: True}})
    assert server.http.get("/v1/model").json()["items_waiting"] == 1
    assert "new" not in follows(server, user_id=user)


@dataclass(frozen=True)
class SlowEmbedder:
    """Reads titles once it is loaded, which takes as long as a test wants."""

    loading: threading.Event
    loaded: threading.Event
    asked: list[int]

    def embed(self, catalog: Catalog, train: Interactions, *, seed: int) -> FloatArray:
        del train, seed
        self.asked.append(catalog.num_items)
        self.loading.set()
        assert self.loaded.wait(20)
        return np.ones((catalog.num_items, 16), np.float32)


def test_the_encoder_is_loaded_while_the_server_answers(serve: Any, fresh: Served) -> None:
    embedder = SlowEmbedder(threading.Event(), threading.Event(), [])
    run = fresh.living.run
    run = replace(run, recipe=replace(run.recipe, embed=cast(Embedder, embedder)))
    server: Server = serve(replace(fresh, living=replace(fresh.living, run=run)))
    assert embedder.loading.wait(20)
    assert server.http.get("/v1/ready").status_code == 200 and len(server.listed()) == 10
    assert server.send("ann", server.ids()[0])["accepted"] == 1
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(put, server, {"item_id": "new", "fields": {"title": "New"}})
        time.sleep(0.1)
        # It waits for what is being loaded, and does not load it once more.
        assert not asked.done() and embedder.asked == [16]
        embedder.loaded.set()
        assert asked.result(timeout=20)["new_items"] == 1
    assert embedder.asked == [16, 1]


def test_a_server_without_the_encoder_answers_and_says_so(
    serve: Any, fresh: Served, caplog: pytest.LogCaptureFixture
) -> None:
    class Missing:
        def embed(self, *_: Any, **__: Any) -> Any:
            raise MissingExtraError("sentence-transformers", extra="text", purpose="TextEmbedder")

    run = fresh.living.run
    run = replace(run, recipe=replace(run.recipe, embed=cast(Embedder, Missing())))
    server: Server = serve(replace(fresh, living=replace(fresh.living, run=run)))
    assert len(server.listed()) == 10
    deadline = time.monotonic() + 20
    while "sentence-transformers" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "sentence-transformers" in put(server, {"item_id": "new", "fields": {"title": "New"}}, status=409)["detail"]
