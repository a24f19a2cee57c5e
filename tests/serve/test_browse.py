"""Looking around: items by words and ids, the tree branch by branch, the report of the run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Server

from sememe.serve.keys import make_key
from sememe.serve.served import Served


def look(server: Server, path: str, *, status: int = 200) -> Any:
    """What GET /v1/`path` answers, which must have this status."""
    response = server.http.get(f"/v1/{path}")
    assert response.status_code == status, response.text
    return response.json()


def titles(server: Server) -> dict[str, str]:
    frame = server.service.served.engine.serving.run.world.catalog.frame
    return dict(zip(frame["item_id"].cast(str).to_list(), frame["title"].to_list(), strict=True))


def test_items_are_found_by_the_beginnings_of_their_words(server: Server) -> None:
    named, log = titles(server), server.service.served.engine.serving.run.world.interactions
    counts = dict(zip(server.ids(), np.bincount(log.items, minlength=log.num_items).tolist(), strict=True))
    word = next(iter(named.values())).split()[0]
    told = look(server, f"items?query={word[:3].upper()}&limit=100")
    wanted = {
        item
        for item, title in named.items()
        if any(part.startswith(word[:3].lower()) for part in title.lower().split())
    }
    assert {item["item_id"] for item in told["items"]} == wanted and told["total"] == len(wanted) > 0
    assert all(item["title"] == named[item["item_id"]] for item in told["items"])
    assert all(item["events"] == counts[item["item_id"]] for item in told["items"])
    every = look(server, "items?limit=5")
    events = [item["events"] for item in every["items"]]
    assert events == sorted(counts.values(), reverse=True)[:5] and every["total"] == len(named)
    assert look(server, "items?query=no+such+title")["items"] == []
    # An id is found too, before titles.
    assert look(server, "items?query=i05")["items"][0]["item_id"] == "i05"


def test_items_are_told_by_id_in_the_order_asked(server: Server) -> None:
    codes = server.service.served.engine.serving.run.items.codes
    assert codes is not None
    told = look(server, "items?id=i07&id=nowhere&id=i02")
    assert [item["item_id"] for item in told["items"]] == ["i07", "i02"]
    rows = [server.ids().index("i07"), server.ids().index("i02")]
    assert [item["codes"] for item in told["items"]] == codes.matrix[rows].tolist()


def test_the_tree_parts_into_branches_until_an_item_is_left(server: Server) -> None:
    codes = server.service.served.engine.serving.run.items.codes
    assert codes is not None
    root = look(server, "codes")
    first, counts = np.unique(codes.matrix[:, 0], return_counts=True)
    assert [branch["code"] for branch in root["branches"]] == first.tolist()
    assert [branch["items"] for branch in root["branches"]] == counts.tolist()
    assert root["items"] == codes.num_items and root["levels"] == 3 and root["semantic_levels"] == 2
    for branch in root["branches"]:
        below = codes.matrix[codes.matrix[:, 0] == branch["code"]]
        parts = np.unique(below[:, 1], return_counts=True)
        assert [part["code"] for part in branch["parts"]] == parts[0].tolist()
        assert [part["items"] for part in branch["parts"]] == parts[1].tolist()
        assert set(branch["titles"]) <= set(titles(server).values()) and len(branch["titles"]) == min(3, len(below))
    row = codes.matrix[4].tolist()
    for depth in (1, 2, 3):
        told = look(server, f"codes?prefix={','.join(map(str, row[:depth]))}&limit=100")
        under = np.flatnonzero((codes.matrix[:, :depth] == row[:depth]).all(axis=1))
        assert {item["item_id"] for item in told["listed"]} == {server.ids()[item] for item in under}
        assert told["items"] == len(under) == sum(branch["items"] for branch in told["branches"]) or depth == 3
    assert told["branches"] == [] and told["prefix"] == row


@pytest.mark.parametrize(
    ("path", "status", "problem"),
    [
        ("codes?prefix=999", 409, "no item has codes that begin with 999"),
        ("codes?prefix=0,0,0,0", 409, "have 3"),
        ("codes?prefix=a", 422, "prefix"),
        ("codes?nowhere=1", 422, "nowhere"),
        ("items?limit=0", 422, "limit"),
        ("items?limit=1&limit=2", 422, "limit"),
        ("items?id=", 422, "id.0"),
    ],
)
def test_what_cannot_be_found_says_why(server: Server, path: str, status: int, problem: str) -> None:
    told = look(server, path, status=status)
    assert problem in told["detail"] and told["fix"]


def test_a_model_without_a_tree_says_so(serve: Any, counting: Served) -> None:
    server: Server = serve(counting)
    assert "tree" in look(server, "codes", status=409)["detail"]
    assert "codes" not in look(server, "items?id=i01")["items"][0]
    assert look(server, "report")["about"]["row"] == "popularity"


def test_the_report_has_the_numbers_of_the_run(server: Server, served_run: Path) -> None:
    told, metrics = look(server, "report"), json.loads((served_run / "metrics.json").read_text())
    for name in ("rows", "means", "slices", "calibration", "comparisons", "protocol"):
        assert told[name] == metrics[name], name
    assert told["about"]["items"] == len(server.ids()) and told["codes"]["items"] == len(server.ids())
    (curve,) = told["curves"]
    assert [step for step, _ in curve["validation"]] == [6, 12] and curve["best_step"] in (6, 12)
    for example in told["examples"]:
        asked = {"history": [item["item_id"] for item in example["history"]]}
        if example["known"] == len(asked["history"]):
            listed = server.listed(**asked, k=10)
            assert [item["item_id"] for item in example["listed"]] == listed


def test_looking_around_needs_the_scope_read(serve: Any, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    keys = {scope: make_key(file, name=scope, scopes=(scope,)) for scope in ("read", "write")}
    server: Server = serve(keys=file)
    for path in ("items", "codes", "report"):
        for scope, status in (("read", 200), ("write", 403)):
            header = {"authorization": f"Bearer {keys[scope]}"}
            assert server.http.get(f"/v1/{path}", headers=header).status_code == status
        assert server.http.get(f"/v1/{path}").status_code == 401


def test_the_description_has_the_fields_of_query_strings(server: Server) -> None:
    paths = server.http.get("/openapi.json").json()["paths"]
    told = {one["name"]: one for one in paths["/v1/items"]["get"]["parameters"]}
    assert set(told) == {"query", "id", "limit"} and told["limit"]["schema"]["maximum"] == 100
    assert all(one["in"] == "query" and one["description"] for one in (told["query"], told["id"]))
    assert [one["name"] for one in paths["/v1/codes"]["get"]["parameters"]] == ["prefix", "limit"]
    assert "parameters" not in paths["/v1/report"]["get"]
