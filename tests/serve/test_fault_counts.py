"""What goes wrong beside a server, many times over, and how much of it came to harm; the counts are printed."""

import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from serving import Flaky, Server

from sememe.serve.stores.sqlite import SqliteStore

HOUR_MS = 3_600_000


def held(server: Server, user: str) -> list[str]:
    """Ids of a user's events, in the order in which lists read them."""
    return [event["event_id"] for event in server.http.get(f"/v1/users/{user}").json()["events"]]


def test_a_full_disk_refuses_events_and_answers_go_on(serve: Any, tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "full.sqlite")
    server: Server = serve(store=Flaky(store))
    (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
    store._writer.execute(f"PRAGMA max_page_count = {pages + 8}")
    acknowledged, refused, lists = [], [], 0
    for number in range(60):
        events = [
            {"event_id": f"{number}-{place}-{'x' * 200}", "user_id": "ann", "item_id": server.ids()[place]}
            for place in range(5)
        ]
        response = server.http.post("/v1/events", json={"events": events})
        (acknowledged if response.status_code == 200 else refused).append(events)
        if response.status_code != 200:
            assert response.status_code == 503 and "free space" in response.json()["fix"]
        lists += server.recommend(user_id="ann")["history"]["store"] == min(50, 5 * len(acknowledged))
    assert acknowledged and refused and lists == 60
    assert sorted(held(server, "ann")) == sorted(event["event_id"] for events in acknowledged for event in events)
    store._writer.execute("PRAGMA max_page_count = 1000000")
    for events in refused:
        assert server.post("events", {"events": events})["accepted"] == 5
    sys.stdout.write(f"{len(acknowledged)} requests kept, {len(refused)} refused, {lists} lists, 0 events lost\n")
    assert len(set(held(server, "ann"))) == 300


def test_a_clock_that_jumps_loses_no_event_and_stops_no_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, chance, clock, ahead = server.ids(), random.Random(0), time.time_ns, 0
    monkeypatch.setattr(time, "time_ns", lambda: clock() + ahead * 1_000_000)
    for number in range(40):
        ahead = chance.choice((-1, 1)) * chance.randrange(1000) * HOUR_MS
        event = {"event_id": f"e{number}", "user_id": "ann", "item_id": ids[number % 6]}
        assert server.post("events", event)["accepted"] == 1
        told = server.recommend(user_id="ann")
        assert told["history"]["store"] == number + 1 and told["degraded"] == [] and len(told["items"]) == 10
    stored = server.http.get("/v1/users/ann").json()["events"]
    moments = [event["timestamp"] for event in stored]
    jumps = sum(abs(after - before) > HOUR_MS for before, after in zip(moments, moments[1:], strict=False))
    sys.stdout.write(f"40 jumps of the clock, {len(stored)} of 40 events kept, {jumps} hours or more apart\n")
    assert len({event["event_id"] for event in stored}) == 40 and moments == sorted(moments) and jumps > 20


def test_events_sent_twice_and_out_of_order_give_the_list_of_those_in_order(server: Server) -> None:
    ids, chance = server.ids(), random.Random(1)
    events = [
        {"event_id": f"e{number}", "user_id": "ann", "item_id": ids[number % 6], "timestamp": 1000 * number}
        for number in range(60)
    ]
    sent = chance.sample([*events, *events, *events], 180)
    accepted = duplicates = 0
    for start in range(0, len(sent), 9):
        told = server.post("events", {"events": sent[start : start + 9]})
        accepted, duplicates = accepted + told["accepted"], duplicates + told["duplicates"]
    sys.stdout.write(f"180 events sent, {accepted} kept, {duplicates} told to be duplicates\n")
    assert (accepted, duplicates) == (60, 120)
    assert held(server, "ann") == [event["event_id"] for event in events]
    newest = [str(event["item_id"]) for event in events[-50:]]
    assert server.listed(user_id="ann") == server.listed(history=newest)
