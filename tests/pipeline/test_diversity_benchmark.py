"""The benchmark of variety on a small finished run: it agrees with the evaluation, and writes what it saw."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sememe
from benchmarks.quality.diversity import main
from sememe.core.errors import ConfigError
from sememe.decode.sample import Sampled
from sememe.pipeline.opened import read_metrics


def measured(run: Path, out: Path, *options: str) -> dict[str, Any]:
    main([str(run), "--name", "lists", "--out", str(out), *options])
    content: dict[str, Any] = json.loads((out / "lists.json").read_text())
    return content


def test_temperature_zero_is_the_line_of_the_evaluation(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = measured(finished, tmp_path, "--model", "tiny", "--temperatures", "0", "3")
    beam, warm = content["rows"]
    judged = next(
        row
        for row in read_metrics(finished)["rows"]
        if row["model"] == "tiny" and row["split"] == "test" and row["mask_seen"]
    )
    names = ("recall@10", "ndcg@10", "entropy@10", "coverage@10", "popularity@10")
    assert [beam["users"], *(beam[name] for name in names)] == pytest.approx([judged["users"], *map(judged.get, names)])
    assert warm["temperature"] == 3 and warm["entropy@10"] > beam["entropy@10"]
    assert all(row["recall@10_low"] <= row["recall@10"] <= row["recall@10_high"] for row in content["rows"])
    assert {"machine", "commit", "date", "versions", "recipe_hash", "run", "split", "width"} < set(content)
    assert content["command"].endswith("--model tiny --users 2000 --temperatures 0 3 --top-p 1 --seed 0")
    printed = capsys.readouterr().out
    assert "coverage@10" in printed and f"{judged['users']} test users" in printed


def test_the_same_users_and_draws_come_again(finished: Path, tmp_path: Path) -> None:
    options = ("--temperatures", "1", "1", "--users", "20")
    first, again = measured(finished, tmp_path, *options)["rows"]
    assert first == again and first["users"] == 20
    other = measured(finished, tmp_path, *options, "--seed", "1")["rows"][0]
    narrow = measured(finished, tmp_path, *options, "--top-p", "0.3")["rows"][0]
    assert len(np.unique([row["entropy@10"] for row in (first, other, narrow)])) == 3


def test_a_model_without_codes_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="writes no semantic IDs"):
        measured(finished, tmp_path, "--model", "popularity")


def test_a_finished_run_can_draw(finished: Path) -> None:
    run = sememe.open_run(finished)
    user = run.world.interactions.user_ids[0]
    drawn = replace(run.recommender, decode=Sampled(temperature=2.0, top_p=0.9), rerank=None)
    first = replace(run, recommender=drawn).recommend(user=user, k=5)
    assert first.height == 5 and set(first["source"]) == {"sample:code_log_prob"}
    assert first.equals(replace(run, recommender=drawn).recommend(user=user, k=5))
    assert not set(first["item"]) & set(run.history(user)["item"])
    assert first["item"].to_list() != run.recommend(user=user, k=5)["item"].to_list()
