"""Events, users, stock and rules, keys, and what the API says of itself."""

import json
import os
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import PATIENT, Server

from sememe.core.errors import ConfigError
from sememe.decode.predicates import AtLeast, AtMost, OneOf, Positive
from sememe.serve import keys as key_files
from sememe.serve.app import ROUTES
from sememe.serve.keys import Bucket, Key, KeyRing, make_key
from sememe.serve.rule_file import read_rules
from sememe.serve.served import Served
from sememe.serve.settings import Histories
from sememe.serve.stores.exposures import read_exposures


def test_events_are_taken_once(server: Server) -> None:
    ids = server.ids()
    told = server.send("ann", ids[0], "new one")
    assert told == {"accepted": 2, "duplicates": 0, "unknown_items": 1}
    assert server.send("ann", ids[0], "new one")["duplicates"] == 2
    before = time.time_ns() // 10**6
    single = {"event_id": 5, "user_id": 7, "item_id": ids[2], "event_type": "buy", "value": 2.5}
    assert server.post("events", single)["accepted"] == 1
    (event,) = server.http.get("/v1/users/7").json()["events"]
    assert before <= event.pop("timestamp") <= time.time_ns() // 10**6
    assert event == {"event_id": "5", "item_id": ids[2], "event_type": "buy", "value": 2.5}
    told = server.http.get("/v1/users/ann").json()
    assert [event["item_id"] for event in told["events"]] == [ids[0], "new one"] and told["trained_on"] == []


def test_a_user_is_exported_and_deleted(server: Server) -> None:
    ids, known = server.ids(), server.users()[2]
    history = server.service.served.engine.serving.run.world.interactions.history(2)
    for user, trained in (("a/b c?#", []), ("..ü\r\n/\n", []), (known, [ids[item] for item in history])):
        server.send(user, ids[1], ids[4])
        path = server.http.build_request("GET", "/v1/users/").url.copy_with(
            raw_path=b"/v1/users/" + "".join(f"%{octet:02X}" for octet in user.encode()).encode()
        )
        told = server.http.get(path).json()
        assert told["user_id"] == user and len(told["events"]) == 2 and told["trained_on"] == trained
        told = server.http.delete(path).json()
        assert told == {"user_id": user, "deleted": 2, "shown": 0, "trained_on": len(trained)}
        assert server.http.get(path).json()["events"] == []
    assert server.recommend(user_id=known)["history"]["store"] == 0


def test_what_was_shown_is_logged_exported_and_deleted(serve: Any, tmp_path: Path) -> None:
    server: Server = serve(settings=replace(PATIENT, exposures=str(tmp_path / "shown")))
    ids = server.ids()
    lists = [server.recommend(user_id=user, history=ids[:2], k=3) for user in ("ann", "bob", "ann")]
    lists += server.post("recommend:batch", {"requests": [{"user_id": "ann"}, {"history": ids[:1]}]})["answers"]
    told = server.http.get("/v1/users/ann").json()["shown"]
    of_ann = [lists[place] for place in (0, 2, 3)]
    assert [(one["request_id"], one["item_ids"]) for one in told] == [
        (one["request_id"], [item["item_id"] for item in one["items"]]) for one in of_ann
    ]
    assert server.http.delete("/v1/users/ann").json()["shown"] == 3
    assert server.http.get("/v1/users/ann").json()["shown"] == []
    rows = read_exposures(tmp_path / "shown")
    assert rows["user_id"].to_list() == ["bob", None] and rows["source"][1] == "beam:code_log_prob"


def test_what_is_out_of_stock_is_in_no_list(serve: Any, server: Server, generator: Served) -> None:
    ids, user = server.ids(), server.users()[0]
    before = server.listed(user_id=user, k=5)
    alike = [item["item_id"] for item in server.post("similar", {"item_ids": [ids[0]], "k": 5})["items"]]
    near = next(item for item in alike if item not in before)
    stock = {before[0]: False, before[1]: 0, near: False, "unknown": False, ids[0]: True}
    told = server.http.put("/v1/stock", json={"stock": stock}).json()
    assert told["changed"] == 5 and told["unknown_items"] == 1
    gone = {before[0], before[1], near}
    after = server.recommend(user_id=user, k=60)
    listed = {item["item_id"] for item in after["items"]}
    assert gone.isdisjoint(listed) and after["eligible"] == len(listed)
    assert gone.isdisjoint(item["item_id"] for item in server.post("similar", {"item_ids": [ids[0]]})["items"])
    popular = server.recommend(k=500)
    assert popular["source"] == "fallback:popularity" and len(popular["items"]) == len(ids) - len(gone)
    why = server.recommend(user_id=user, explain=True)["explanation"]
    assert why["rules"] == [{"rule": "in stock", "items": len(gone)}]
    # Another replica knows it from the start, and follows what changes.
    served = replace(generator, engine=type(generator.engine)(generator.engine.serving))
    settings = replace(PATIENT, histories=Histories(poll_seconds=0.02))
    other = serve(served, settings=settings, store=server.store)
    assert gone.isdisjoint(other.listed(user_id=user, k=60))
    server.http.put("/v1/stock", json={"stock": {before[0]: 12}})
    assert server.listed(user_id=user, k=5)[0] == before[0]
    for _ in range(100):
        if before[0] in other.listed(user_id=user, k=60):
            break
        time.sleep(0.02)
    assert other.listed(user_id=user, k=5) == server.listed(user_id=user, k=5)


def test_rules_that_requests_name_hold(served_run: Path, serve: Any, tmp_path: Path) -> None:
    frame = Served.load(served_run).engine.serving.run.world.catalog.frame
    kinds = frame["categories"].to_list()
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"one": {"one_of": ["categories", [kinds[0]]]}, "id": {"one_of": ["item_id", ["i05"]]}}))
    server: Server = serve(Served.load(served_run, rules=read_rules(file)))
    ids = server.ids()
    wanted = {item for item, kind in zip(ids, kinds, strict=True) if kind == kinds[0]}
    told = server.recommend(history=[ids[-1]], k=60, rules=["one"], explain=True)
    assert {item["item_id"] for item in told["items"]} == wanted - {ids[-1]}
    assert told["explanation"]["rules"] == [{"rule": "one", "items": len(ids) - len(wanted)}]
    either = server.listed(history=[ids[-1]], k=60, rules=[{"any_of": ["one", "id"]}])
    assert set(either) == (wanted | {"i05"}) - {ids[-1]}
    neither = server.listed(history=[ids[-1]], k=60, rules=[{"none_of": ["one", "id"]}])
    assert set(neither) == set(ids) - wanted - {"i05", ids[-1]}
    assert server.http.get("/v1/model").json()["rules"] == ["one", "id"]


def test_a_file_of_rules_is_read_or_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(
        '{"a": {"positive": "x"}, "b": {"at_most": ["x", 3]}, "c": {"at_least": ["d", "2024-05-01"]},'
        ' "d": {"one_of": ["r", ["DE"]]}}'
    )
    rules = read_rules(file)
    assert rules["a"] == Positive("x") and rules["b"] == AtMost("x", 3.0) and rules["d"] == OneOf("r", ("DE",))
    assert isinstance(rules["c"], AtLeast) and str(rules["c"].limit) == "2024-05-01"
    for text, problem in (
        ("[]", "holds no rules"),
        ("{", "holds no rules"),
        ('{"in stock": {"positive": "x"}}', "PUT /v1/stock"),
        ('{"a": {"at_mots": ["x", 3]}}', "of no known kind"),
        ('{"a": {"at_most": ["x"]}}', "cannot be read"),
        ('{"a": {"one_of": ["x", []]}}', "cannot be read"),
        ('{"a": 3}', "rule 'a' is 3"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=problem):
            read_rules(file)


def test_keys_open_what_their_scopes_say(serve: Any, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    keys = {scope: make_key(file, name=scope, scopes=(scope,)) for scope in ("read", "write", "admin")}
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert all(key.split("_", 2)[2] not in file.read_text() for key in keys.values())
    # With keys, others may connect.
    server: Server = serve(keys=file, peer="192.0.2.7")
    calls = {
        "read": [("POST", "/v1/recommend", {}), ("GET", "/v1/model", None), ("GET", "/metrics", None)],
        "write": [("POST", "/v1/events", {"event_id": 1, "user_id": 2, "item_id": 3})],
        "admin": [("GET", "/v1/users/u", None), ("DELETE", "/v1/users/u", None)],
    }
    for scope, some in calls.items():
        for method, path, body in some:
            told = {
                name: server.http.request(method, path, json=body, headers={"authorization": f"Bearer {key}"})
                for name, key in keys.items()
            }
            assert {name for name, response in told.items() if response.status_code == 200} == {scope, "admin"}
            refused = [response for name, response in told.items() if name not in (scope, "admin")]
            assert all(response.status_code == 403 and response.json()["fix"] for response in refused)
            assert server.http.request(method, path, json=body).status_code == 401
    good = keys["admin"]
    for header in ("", "Bearer", "Bearer x", f"Basic {good}", f"Bearer {good}x", f"Bearer {good[:-1]}", "Bearer a_b_c"):
        response = server.http.get("/v1/model", headers={"authorization": header})
        assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
    assert server.http.get("/v1/health").status_code == server.http.get("/v1/ready").status_code == 200


def test_a_key_calls_as_often_as_it_may(serve: Any, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    header = {"authorization": f"Bearer {make_key(file, name='shop', scopes=('read',), per_second=5.0)}"}
    server: Server = serve(keys=file)
    body = {"requests": [{}] * 9}
    assert server.http.post("/v1/recommend:batch", json=body, headers=header).status_code == 200
    assert server.http.get("/v1/model", headers=header).status_code == 200
    response = server.http.get("/v1/model", headers=header)
    assert response.status_code == 429 and int(response.headers["retry-after"]) >= 1


def test_a_bucket_fills_and_goes_into_debt() -> None:
    now = [0.0]
    key = Key(name="", salt=b"", digest=b"", scopes=frozenset(), per_second=2.0, burst=4.0)
    bucket = Bucket(key, clock=lambda: now[0])
    assert [bucket.take(1) for _ in range(5)] == [0, 0, 0, 0, 0.5]
    now[0] = 0.5
    assert bucket.take(7) == 0 and bucket.take(1) == 3.5
    now[0] = 100.0
    assert [bucket.take(1) for _ in range(5)] == [0, 0, 0, 0, 0.5]


def test_a_key_made_while_the_file_is_read_is_taken_in_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, now = tmp_path / "keys.json", [0.0]
    make_key(file, name="first", scopes=("read",))
    os.utime(file, ns=(1, 1))
    read = key_files._entries
    made: list[str] = []

    def read_and_write(path: Path) -> Any:
        found = read(path)
        if not made:
            made.append("")
            made.append(make_key(file, name="second", scopes=("read",)))
        return found

    monkeypatch.setattr(key_files, "_entries", read_and_write)
    ring = KeyRing(file, clock=lambda: now[0])
    now[0] += 5
    assert ring.holder(f"Bearer {made[1]}").key.name == "second"


def test_a_change_of_the_key_file_is_taken_in(tmp_path: Path) -> None:
    file, now = tmp_path / "keys.json", [0.0]
    first = make_key(file, name="first", scopes=("read",), per_second=1.0)
    ring = KeyRing(file, clock=lambda: now[0])
    holder = ring.holder(f"Bearer {first}")
    second = make_key(file, name="second", scopes=("admin",))
    now[0] += 5
    assert ring.holder(f"bearer {second}").key.name == "second"
    assert ring.holder(f"Bearer {first}") is holder
    file.write_text("{")
    now[0] += 5
    assert ring.holder(f"Bearer {second}").key.name == "second"
    file.write_text('{"keys": {}}')
    now[0] += 5
    with pytest.raises(ValueError, match="not known"):
        ring.holder(f"Bearer {second}")
    for scopes, rate, problem in (
        (("all",), None, "no scope all"),
        ((), None, "no scope"),
        (("read",), 0.0, "of no use"),
    ):
        with pytest.raises(ConfigError, match=problem):
            make_key(file, name="x", scopes=scopes, per_second=rate)
    with pytest.raises(ConfigError, match="no key file"):
        KeyRing(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("peer", "host", "status"),
    [
        ("127.0.0.1", "localhost:8000", 200),
        ("::1", "[::1]:8000", 200),
        ("::ffff:127.0.0.1", "127.0.0.1", 200),
        ("192.0.2.7", "localhost", 403),
        ("not an address", "localhost", 403),
        ("127.0.0.1", "shop.example", 403),
        ("127.0.0.1", "localhost.shop.example:80", 403),
    ],
)
def test_without_keys_only_this_machine_is_answered(serve: Any, peer: str, host: str, status: int) -> None:
    server: Server = serve(peer=peer)
    for path in ("/v1/model", "/v1/health", "/metrics", "/openapi.json", "/nowhere"):
        response = server.http.get(path, headers={"host": host})
        assert response.status_code == (404 if status == 200 and path == "/nowhere" else status)
    assert "access-control-allow-origin" not in response.headers


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(value) for value in node.values()))
    return set().union(*(references(value) for value in node)) if isinstance(node, list) else set()


def test_the_document_describes_every_route(server: Server) -> None:
    document = server.http.get("/openapi.json").json()
    assert {(method.upper(), path) for path, some in document["paths"].items() for method in some} == {
        (route.method, route.path) for route in ROUTES
    }
    for route in ROUTES:
        operation = document["paths"][route.path][route.method.lower()]
        assert ("requestBody" in operation) == (route.body is not None) and operation["summary"]
        assert {"200", "422", "429", "503"} <= set(operation["responses"])
    schemas = document["components"]["schemas"]
    assert {reference.rpartition("/")[2] for reference in references(document)} <= set(schemas)
    assert schemas["RecommendRequest"]["properties"]["history"]["maxItems"] == 2000
    assert schemas["RecommendRequest"]["additionalProperties"] is False
    user = document["paths"]["/v1/users/{user_id}"]["get"]["parameters"][0]
    assert user["in"] == "path" and user["schema"]["maxLength"] == 256


def test_numbers_for_prometheus(server: Server) -> None:
    server.recommend(user_id=server.users()[0])
    page = server.http.get("/metrics").text
    version = server.http.get("/v1/model").json()["model"]
    for line in (
        'sememe_requests_total{route="post /v1/recommend",status="200"} 1.0',
        'sememe_request_seconds_count{route="post /v1/recommend"} 1.0',
        "sememe_queue_length 0.0",
        "sememe_batch_size_count 1.0",
        "sememe_engine_seconds_count 1.0",
        'sememe_store_seconds_count{operation="histories"} 1.0',
        f'sememe_model_info{{row="tiny",version="{version}"}} 1.0',
    ):
        assert line in page
    assert "process_resident_memory_bytes" in page


def test_the_model_is_described(server: Server, counting: Served) -> None:
    told = server.http.get("/v1/model").json()
    assert told["items"] == len(server.ids()) and told["row"] == "tiny" and told["has_vectors"] is True
    assert set(told["metrics"]) == {"recall@10", "ndcg@10"} and np.isfinite(list(told["metrics"].values())).all()
    assert told["model"] != counting.version and counting.row == "popularity"
