"""kill -9 of a server at random moments under load, again and again: is anything lost that was acknowledged?

    python -m benchmarks.serve.kills RUN OTHER_RUN --kills 50

Both runs must be of the same data; copies of them are served.  Several clients send events, each with an id of its own,
and after each one ask for a list, which must count all events acknowledged so far.  In every other round a model is
activated at the same time.  After a random while the server is killed, and started again on the same files.  Then

- every event that was acknowledged is there once, in this round and, at the end, in all of them;
- events of an unanswered request are there all or none, and sent again none of them is twice;
- the model that answers is the one that the pointer names, and gives the list that this model gave before any kill.

What a process that is killed has handed to the system is safe; what happens when the power fails is up to SQLite's
synchronous=FULL and the disk, and is not tried here.
"""

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.header import header, write_output
from benchmarks.serve.process import ServerProcess, start
from benchmarks.serve.schema import NAMES, models_of
from sememe.serve.models import ModelFolder

CLIENTS = 4
SOONEST, LATEST = 0.05, 2.0
COUNTED = 50
"""So many of a user's events in the store are read for a list."""


@dataclass
class Sent:
    """What one client did in one round, all of it for one user."""

    user: str
    acknowledged: list[str] = field(default_factory=list)
    """Event ids."""
    unanswered: list[dict[str, Any]] = field(default_factory=list)
    """Events of the request that the kill cut off."""
    lists: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass
class Tally:
    """Numbers of all rounds."""

    counts: Counter[str] = field(default_factory=Counter)
    active: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)


def main() -> None:
    """Kill, count, print and write the output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2)
    parser.add_argument("--model", help="row of the runs that answers")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    result: dict[str, Any] = {"what": __doc__.split("\n", 1)[0] if __doc__ else ""} | header("uvicorn")
    result |= {"model": options.model or "", "clients": CLIENTS, "seed": options.seed}
    result |= kill_often(options.runs, kills=options.kills, seed=options.seed, model=options.model)
    write_output(options.out, result)
    print({name: value for name, value in result.items() if name not in ("what", "machine")})
    raise SystemExit(1 if result["faults"] else 0)


def kill_often(runs: Sequence[Path], *, kills: int, seed: int, model: str | None = None) -> dict[str, Any]:
    """What was counted, and every fault in words."""
    chance, tally = random.Random(seed), Tally()
    # A list that comes late is none of the faults that are looked for.
    words = ("--set", "batching.budget_ms=60000", *(() if model is None else ("--model", model)))
    with tempfile.TemporaryDirectory() as scratch:
        folder = ModelFolder(models_of(runs, Path(scratch) / "models"))
        server = start(folder.path, words, core=None)
        try:
            expected = lists_of_each(server.url)
            for number in range(kills):
                load_and_kill(server, folder, number, tally=tally, chance=chance)
                server = start(folder.path, words, core=None)
                look_after(server.url, folder, expected, tally)
            look_at_all(server.url, tally)
        finally:
            server.kill()
    tally.counts["events_acknowledged"] = sum(len(sent.acknowledged) for sent in tally.sent)
    tally.counts["lists_answered"] = sum(sent.lists for sent in tally.sent)
    return {**tally.counts, "active_after_a_kill": dict(tally.active), "faults": tally.faults}


def lists_of_each(url: str) -> dict[str, Any]:
    """By name of a model: its version, and what it recommends for a fixed history."""
    found: dict[str, Any] = {}
    with httpx.Client(base_url=url, timeout=60) as http:
        for name in NAMES:
            http.post(f"/v1/models/{name}:activate").raise_for_status()
            found[name] = fixed_list(http)
    assert found[NAMES[0]] != found[NAMES[1]], "give two models that differ"
    return found


def fixed_list(http: httpx.Client) -> tuple[str, list[Any]]:
    """(version of the model, what it recommends for a history of two items of the catalogue)"""
    items = http.get("/v1/items", params={"limit": 2}).raise_for_status().json()["items"]
    told = http.post("/v1/recommend", json={"history": [item["item_id"] for item in items]}).raise_for_status().json()
    return told["model"], told["items"]


def load_and_kill(
    server: ServerProcess, folder: ModelFolder, number: int, *, tally: Tally, chance: random.Random
) -> None:
    """A round."""
    sent = [Sent(f"user-{number}-{client}") for client in range(CLIENTS)]
    (other,) = set(NAMES) - {folder.pointer().active}
    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        clients = [pool.submit(send, server.url, one, seed=chance.random()) for one in sent]
        activating = pool.submit(activate, server.url, other) if number % 2 else None
        time.sleep(chance.uniform(SOONEST, LATEST))
        if activating is not None:
            tally.counts["kills_while_activating"] += not activating.done()
        server.kill()
        for client in clients:
            client.result()
    tally.counts["kills"] += 1
    tally.sent += sent
    tally.faults += [fault for one in sent for fault in one.faults]


def send(url: str, sent: Sent, *, seed: float) -> None:
    """Events and lists, until the server is gone."""
    chance = random.Random(seed)
    with httpx.Client(base_url=url, timeout=60) as http:
        number = 0
        while True:
            events = [made_up(sent.user, number + place) for place in range(chance.choice((1, 1, 1, 3, 20)))]
            number += len(events)
            try:
                answer = http.post("/v1/events", json={"events": events})
            except httpx.TransportError:
                sent.unanswered = events
                return
            if answer.status_code != 200 or answer.json()["accepted"] != len(events):
                sent.faults.append(f"{sent.user}: events got {answer.status_code} {answer.text}")
            sent.acknowledged += [event["event_id"] for event in events]
            try:
                answer = http.post("/v1/recommend", json={"user_id": sent.user})
            except httpx.TransportError:
                return
            counted = min(COUNTED, len(sent.acknowledged))
            if answer.status_code != 200 or answer.json()["history"]["store"] != counted:
                sent.faults.append(f"{sent.user}: a list got {answer.status_code} {answer.text}")
            sent.lists += 1


def made_up(user: str, number: int) -> dict[str, Any]:
    """An event whose item the model need not know."""
    return {"event_id": f"{user}-{number}", "user_id": user, "item_id": str(number % 40), "timestamp": number}


def activate(url: str, name: str) -> None:
    """Have another model answer; the kill may come between."""
    try:
        httpx.post(f"{url}/v1/models/{name}:activate", timeout=60)
    except httpx.TransportError:
        return


def half_active(http: httpx.Client, folder: ModelFolder, expected: Mapping[str, Any]) -> list[str]:
    """What is wrong with the model that answers after a kill."""
    told, active = http.get("/v1/models").raise_for_status().json(), folder.pointer().active
    answering = [one["name"] for one in told["models"] if one["answering"]]
    found = [] if answering == [active] == [told["active"]] else [f"{active} is active, and {answering} answers"]
    return found if fixed_list(http) == expected[active] else [*found, f"{active} gives another list than before"]


def look_after(url: str, folder: ModelFolder, expected: Mapping[str, Any], tally: Tally) -> None:
    """What is there after a kill."""
    with httpx.Client(base_url=url, timeout=60) as http:
        tally.faults += half_active(http, folder, expected)
        tally.active[folder.pointer().active] += 1
        for sent in tally.sent[-CLIENTS:]:
            look_for(http, sent, tally)


def look_for(http: httpx.Client, sent: Sent, tally: Tally) -> None:
    """Whether all that was acknowledged is there, and what was not is there whole or not at all."""
    there = held(http, sent.user)
    if len(there) != len(set(there)):
        tally.faults.append(f"{sent.user}: an event is there twice")
    if set(sent.acknowledged) - set(there):
        tally.faults.append(f"{sent.user}: acknowledged events are lost right after the kill")
    unanswered = [event["event_id"] for event in sent.unanswered]
    kept = set(unanswered) & set(there)
    tally.counts["requests_cut_off"] += bool(unanswered)
    tally.counts["of_those_kept"] += bool(kept)
    if kept and kept != set(unanswered):
        tally.faults.append(f"{sent.user}: a part of a request is there")
    if not unanswered:
        return
    again = http.post("/v1/events", json={"events": sent.unanswered}).raise_for_status().json()
    if again["duplicates"] != len(kept) or again["accepted"] != len(unanswered) - len(kept):
        tally.faults.append(f"{sent.user}: events that were sent again got {again}")
    sent.acknowledged += unanswered


def look_at_all(url: str, tally: Tally) -> None:
    """Whether the events of all rounds are there still."""
    with httpx.Client(base_url=url, timeout=60) as http:
        for sent in tally.sent:
            lost = set(sent.acknowledged) - set(held(http, sent.user))
            tally.counts["events_lost"] += len(lost)
            tally.faults += [f"{sent.user}: {len(lost)} acknowledged events are lost"] if lost else []


def held(http: httpx.Client, user: str) -> list[str]:
    """Ids of the events that the server holds of a user."""
    return [event["event_id"] for event in http.get(f"/v1/users/{user}").raise_for_status().json()["events"]]


if __name__ == "__main__":
    main()
