"""Lists over HTTP are those of the engine and of the run, whatever history they come from."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Server

from sememe.pipeline.engine import Request
from sememe.pipeline.opened import open_run
from sememe.rerank.diversity import Diversity, VectorLikeness
from sememe.serve.served import Served
from sememe.serve.wire import RecommendAnswer, RecommendRequest


def pairs(answer: Any) -> list[tuple[str, float]]:
    return [(item["item_id"], item["score"]) for item in answer["items"]]


def of_engine(server: Server, request: Request) -> list[tuple[str, float]]:
    (answer,) = server.service.served.engine.recommend([request])
    return list(zip([str(item) for item in answer.items], answer.scores, strict=True))


def test_lists_are_those_of_the_engine_and_of_the_run(server: Server, served_run: Path) -> None:
    run, users = open_run(served_run), server.users()
    for number, user in enumerate(users[:40]):
        k = 1 + number % 12
        told = server.recommend(user_id=user, k=k)
        assert pairs(told) == of_engine(server, Request(user=user, k=k))
        frame = run.recommend(user=user, k=k)
        assert [item for item, _ in pairs(told)] == [str(item) for item in frame["item"]]
        np.testing.assert_allclose([score for _, score in pairs(told)], frame["score"].to_numpy(), atol=1e-4)
        assert told["history"]["run"] > 0 and told["degraded"] == [] and told["source"] == "beam:code_log_prob"
    ids = server.ids()
    told = server.recommend(history=ids[:4], k=7, exclude=[ids[9]], repeat_seen=True)
    assert pairs(told) == of_engine(server, Request(history=ids[:4], k=7, exclude=[ids[9]], repeat_seen=True))
    assert ids[9] not in [item for item, _ in pairs(told)]


def test_a_batch_gives_the_lists_of_its_requests(server: Server) -> None:
    ids, users = server.ids(), server.users()
    asked: list[dict[str, Any]] = [{"user_id": user, "k": 1 + number % 9} for number, user in enumerate(users)]
    asked += [{"history": ids[number : number + 3]} for number in range(9)] + [{}]
    answers = server.post("recommend:batch", {"requests": asked})["answers"]
    assert len(answers) == len(asked)
    for one, answer in zip(asked, answers, strict=True):
        alone = server.recommend(**one)
        assert [item for item, _ in pairs(alone)] == [item for item, _ in pairs(answer)]
        np.testing.assert_allclose([s for _, s in pairs(alone)], [s for _, s in pairs(answer)], atol=1e-5)
    assert server.metric("sememe_batch_size_sum") > server.metric("sememe_batch_size_count")


def test_requests_that_meet_in_one_search_get_the_lists_that_they_get_alone(server: Server) -> None:
    ids, users = server.ids(), server.users()
    server.http.put("/v1/stock", json={"stock": {ids[6]: False}})
    asked = [RecommendRequest(user_id=user, k=1 + number % 20) for number, user in enumerate(users)]
    asked += [RecommendRequest(history=ids[number : number + 4], exclude=ids[:number]) for number in range(20)]
    asked += [RecommendRequest(), RecommendRequest(history=["x"]), RecommendRequest(user_id=users[0], diversity=0.3)]

    async def ask_all() -> list[RecommendAnswer]:
        return await asyncio.gather(*(server.service.recommend(one) for one in asked))

    assert server.http.portal is not None
    together = server.http.portal.call(ask_all)
    batches = server.metric("sememe_batch_size_count")
    assert batches <= 1 + len(asked) / 32
    for one, answer in zip(asked, together, strict=True):
        alone = server.http.portal.call(server.service.recommend, one)
        assert [item.item_id for item in answer.items] == [item.item_id for item in alone.items]
        np.testing.assert_allclose([i.score for i in answer.items], [i.score for i in alone.items], atol=1e-5)
        assert answer.eligible == alone.eligible and answer.source == alone.source
    assert server.metric("sememe_batch_size_count") == batches + len(asked)


def test_the_history_is_that_of_the_run_then_of_the_store_then_of_the_request(server: Server) -> None:
    ids, user = server.ids(), server.users()[0]
    server.send(user, ids[3], ids[8], start=2 * 10**12)
    told = server.recommend(user_id=user, history=[ids[5]])
    assert told["history"]["store"] == 2 and told["history"]["request"] == 1
    assert pairs(told) == of_engine(server, Request(user=user, history=[ids[3], ids[8], ids[5]]))
    server.send("stranger", ids[1], ids[2])
    assert pairs(server.recommend(user_id="stranger")) == of_engine(server, Request(history=ids[1:3]))


def test_an_event_that_the_run_holds_too_counts_once(server: Server) -> None:
    ids, user = server.ids(), server.users()[1]
    log = server.service.served.engine.serving.run.world.interactions
    assert log.timestamps is not None
    last = int(log.offsets[2]) - 1
    held, when = ids[log.items[last]], int(log.timestamps[last])
    server.send(user, held, start=when, name="held")
    before = server.recommend(user_id=user)
    assert before["history"]["store"] == 0 and pairs(before) == of_engine(server, Request(user=user))
    # Of the same item at another time, and one that comes late and out of order, nothing is known yet.
    server.send(user, held, start=when + 5, name="again")
    server.send(user, ids[0], start=when - 10**9, name="late")
    told = server.recommend(user_id=user)
    assert told["history"]["store"] == 2
    assert pairs(told) == of_engine(server, Request(user=user, history=[ids[0], held]))


def test_nothing_known_is_answered_by_what_is_popular(server: Server) -> None:
    counts = server.service.served.fallback.knn.counts
    told = server.recommend(user_id="stranger", history=["no", "such"], k=4)
    assert told["source"] == "fallback:popularity" and told["unknown"] == 2
    assert [score for _, score in pairs(told)] == sorted(counts.tolist(), reverse=True)[:4]
    assert server.metric("sememe_fallbacks_total", source="fallback:popularity", reason="nothing_known") == 1


def test_ids_that_are_not_known_are_passed_over_and_counted(server: Server) -> None:
    ids = server.ids()
    told = server.recommend(history=["x", ids[4], 7, ids[6]], exclude=["y"])
    assert told["unknown"] == 3 and pairs(told) == of_engine(server, Request(history=[ids[4], ids[6]]))
    assert server.recommend(history=["x"], exclude=["y", ids[0]])["unknown"] == 2


def test_whole_numbers_are_ids_and_counts_however_they_are_written(server: Server) -> None:
    server.send("7", server.ids()[0])
    for user in ("7", 7, 7.0):
        told = server.recommend(user_id=user, k=3.0)
        assert told["history"]["store"] == 1 and len(told["items"]) == 3


def test_titles_come_where_they_are_asked_for(server: Server) -> None:
    catalog = server.service.served.engine.serving.run.world.catalog
    titles = dict(zip(catalog.frame["item_id"].to_list(), catalog.frame["title"].to_list(), strict=True))
    told = server.recommend(user_id=server.users()[0], titles=True)
    assert [item["title"] for item in told["items"]] == [titles[item["item_id"]] for item in told["items"]]
    assert "title" not in server.recommend(user_id=server.users()[0])["items"][0]


def test_a_diverse_list_is_chosen_among_more(server: Server) -> None:
    ids, serving = server.ids(), server.service.served.engine.serving
    told = server.recommend(history=ids[:3], k=4, diversity=0.6)
    plain = of_engine(server, Request(history=ids[:3], k=20))
    assert told["source"].endswith("+mmr") and len(told["items"]) == 4
    assert pairs(told)[0] == plain[0] and {item for item, _ in pairs(told)} <= {item for item, _ in plain}
    vectors = serving.run.items.vectors
    assert vectors is not None
    ranked = serving.answerer.recommender.recommend(
        [np.arange(3, dtype=np.int32)], k=20, leave_out=[np.arange(3, dtype=np.int32)]
    )
    chosen = Diversity(VectorLikeness(vectors), relevance=0.4).rerank(ranked, k=4)
    assert [item for item, _ in pairs(told)] == [ids[item] for item in chosen.items[0]]


def test_an_explanation_adds_up(server: Server) -> None:
    ids, user = server.ids(), server.users()[3]
    serving = server.service.served.engine.serving
    told = server.recommend(user_id=user, explain=True, exclude=[ids[2], "x"])
    why = told["explanation"]
    codes, vectors = serving.run.items.codes, serving.run.items.vectors
    assert codes is not None and vectors is not None
    for item, one in zip(told["items"], why["items"], strict=True):
        assert one["item_id"] == item["item_id"]
        assert sum(one["code_log_probs"]) == pytest.approx(item["score"], abs=1e-4)
        assert one["codes"] == codes.matrix[ids.index(item["item_id"])].tolist()
        read = set(serving.run.world.interactions.history(3)[-6:].tolist())
        near = {ids.index(other["item_id"]): other["similarity"] for other in one["nearest"]}
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = {place: float(unit[place] @ unit[ids.index(item["item_id"])]) for place in read}
        assert near == pytest.approx({p: cosines[p] for p in sorted(read, key=lambda p: -cosines[p])[:3]}, abs=1e-5)
    assert why["seen"] == len(set(serving.run.world.interactions.history(3).tolist())) and why["excluded"] == 1
    assert why["rules"] == [] and "explanation" not in server.recommend(user_id=user)


def test_a_row_that_counts_has_lists_and_says_what_it_cannot_do(serve: Any, counting: Served) -> None:
    server = serve(counting)
    ids = server.ids()
    told = server.recommend(user_id=server.users()[0], explain=True)
    assert pairs(told) == of_engine(server, Request(user=server.users()[0]))
    assert "code_log_probs" not in told["explanation"]["items"][0] and "nearest" not in told["explanation"]["items"][0]
    for path, body, problem in (
        ("recommend", {"history": ids[:1], "diversity": 0.5}, "this model has none"),
        ("recommend", {"history": ids[:1], "rules": ["x"]}, "this model has none"),
        ("similar", {"item_ids": ids[:1]}, "neither item vectors nor semantic IDs"),
    ):
        told = server.post(path, body, status=409)
        assert problem in told["detail"] and told["fix"]
    assert server.http.put("/v1/stock", json={"stock": {ids[0]: False}}).status_code == 409
    assert server.store.changes_since(0, limit=10) == []


def test_similar_items_are_the_nearest(server: Server, serve: Any, fresh: Served) -> None:
    ids, space = server.ids(), server.service.served.nearest.space
    assert space.vectors is not None and space.codes is not None
    unit = space.vectors / np.linalg.norm(space.vectors, axis=1, keepdims=True)
    told = server.post("similar", {"item_ids": [ids[4]], "k": 6, "exclude": [ids[5]], "titles": True})
    cosines = unit @ unit[4]
    order = [item for item in np.argsort(-cosines) if item not in (4, 5)][:6]
    assert [item for item, _ in pairs(told)] == [ids[item] for item in order] and told["by"] == "vectors"
    np.testing.assert_allclose([score for _, score in pairs(told)], cosines[order], atol=1e-5)
    assert server.post("similar", {"item_ids": ["x"]}, status=409)["detail"].startswith("the model knows none")
    coded = serve(replace(fresh, nearest=replace(fresh.nearest, space=replace(space, vectors=None))))
    told = coded.post("similar", {"item_ids": [ids[4]], "k": 3})
    shared = (np.cumprod(space.codes.matrix == space.codes.matrix[4], axis=1).sum(1) / 3).tolist()
    shared[4] = -1.0
    assert told["by"] == "codes"
    assert [score for _, score in pairs(told)] == pytest.approx(sorted(shared, reverse=True)[: len(told["items"])])
