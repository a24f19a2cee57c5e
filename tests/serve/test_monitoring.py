"""The dashboard and the alerts name what a server counts, by labels that it has, in queries that Prometheus reads."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from serving import Server

from sememe.serve.app import ROUTES
from sememe.serve.lists import ENGINE_FAILED, OVER_BUDGET, STORE_DOWN

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = re.compile(r"\b((?:sememe|process)_\w+)\b(?:\{(.*?)\})?", re.DOTALL)
LABEL = re.compile(r'(\w+)\s*(=~?|!=|!~)\s*"([^"]*)"')
GROUPED = re.compile(r"\bby\s*\(([^)]*)\)")
OF_PROMETHEUS = {"instance", "job", "le"}


def expressions() -> list[str]:
    """All queries of the alerts and the dashboard."""
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))
    found = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return found + [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def dashboard() -> Any:
    return json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))


def counted(server: Server) -> dict[str, set[str]]:
    """Name of each number of a server that has done something of everything -> its labels."""
    server.send("ann", server.ids()[0])
    server.recommend(user_id="ann")
    server.recommend(user_id="nobody")
    server.store.down = True
    server.recommend(user_id="ann")
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(server.http.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def faults(expression: str, known: dict[str, set[str]]) -> Iterator[str]:
    """What a query names and no server counts."""
    labels: set[str] = set()
    for name, condition in NAME.findall(expression):
        if name not in known:
            yield f"{name} is not counted"
        labels |= known.get(name, set())
        for label, _, _ in LABEL.findall(condition):
            if label not in known.get(name, set()) | OF_PROMETHEUS:
                yield f"{name} has no label {label}"
    for grouped in GROUPED.findall(expression):
        for label in re.split(r",\s*", grouped):
            if label not in labels | OF_PROMETHEUS:
                yield f"nothing in {expression} has the label {label}"


def test_every_query_is_of_what_is_counted(server: Server) -> None:
    known, queries = counted(server), expressions()
    assert [fault for query in queries for fault in faults(query, known)] == [] and len(queries) > 20
    assert {"sememe_store_failures_total", "sememe_fallbacks_total"} <= set(known)
    assert list(faults("rate(sememe_nothing_total[5m])", known)) == ["sememe_nothing_total is not counted"]
    assert list(faults('sememe_requests_total{path="x"}', known)) == ["sememe_requests_total has no label path"]
    assert list(faults("sum by (path) (sememe_requests_total)", known))


def test_values_of_labels_are_those_that_there_are() -> None:
    routes = {f"{route.method.lower()} {route.path}" for route in ROUTES}
    reasons = {STORE_DOWN, OVER_BUDGET, ENGINE_FAILED}
    for query in expressions():
        for label, sign, value in LABEL.findall(query):
            pattern = value if "~" in sign else re.escape(value)
            if label == "route":
                assert any(re.fullmatch(pattern, route) for route in routes), value
            elif label == "reason":
                assert any(re.fullmatch(pattern, reason) for reason in reasons), value
            elif label == "status":
                assert any(re.fullmatch(pattern, str(status)) for status in (429, 500, 503)), value


def test_the_dashboard_can_be_imported() -> None:
    board = dashboard()
    (source,) = board["__inputs"]
    assert source["pluginId"] == "prometheus" and board["id"] is None
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)) and len(ids) >= 15
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        assert panel["datasource"]["uid"] == f"${{{source['name']}}}"
        place = panel["gridPos"]
        across, down = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = {(column, line) for column in across for line in down}
        assert across[-1] < 24 and not cells & taken, panel["title"]
        taken |= cells


def test_prometheus_reads_its_files(tmp_path: Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    # Grafana fills in its own variables.
    filled = [query.replace("$__rate_interval", "5m").replace("$instance", ".*") for query in expressions()]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(filled)]
    (tmp_path / "all.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    for words in (
        ("rules", str(tmp_path / "all.yml")),
        ("rules", str(DEPLOY / "alerts.yml")),
        ("config", "--syntax-only", str(DEPLOY / "prometheus.yml")),
    ):
        done = subprocess.run([program, "check", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
