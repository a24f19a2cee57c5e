"""Simulated data on disk: read back as it was, labelled, and led back to its truth."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from sememe.core.errors import DataError
from sememe.data import feedback_files
from sememe.data.check import check_tables
from sememe.data.data_toml import read_data_toml
from sememe.data.datasets import resolve_dataset
from sememe.data.feedback_files import SIMULATED, read_truth, write_feedback
from sememe.data.feedback_simulator import EVENT_TYPES, TINY_FEEDBACK, FeedbackSimulator
from sememe.data.index import build_interactions
from sememe.data.readers import open_tables


def test_what_was_written_reads_back_as_it_was(tmp_path):
    made = write_feedback(TINY_FEEDBACK, tmp_path, seed=3)
    tables = open_tables(tmp_path)
    assert tables.settings.simulated
    read = build_interactions(tables, keep_cold_items=True)
    log, own = read.interactions, made.interactions
    assert log.user_ids.to_list() == own.user_ids.to_list()
    assert log.item_ids.to_list() == own.item_ids.to_list()
    np.testing.assert_array_equal(log.items, own.items)
    np.testing.assert_array_equal(log.timestamps, own.timestamps)
    assert set(log.columns) == set(own.columns)
    for name in set(own.columns) - {"event_type"}:
        np.testing.assert_array_equal(log.columns[name], own.columns[name])
        assert log.columns[name].dtype == own.columns[name].dtype
    assert read.vocabularies["event_type"].to_list() == list(EVENT_TYPES)
    np.testing.assert_array_equal(log.columns["event_type"], own.columns["event_type"])
    np.testing.assert_array_equal(read.catalog.vectors, made.catalog.vectors)
    np.testing.assert_array_equal(read.catalog.frame["duration"].to_numpy(), made.world.lengths)
    assert not tables.unused_columns()


def test_a_folder_leads_back_to_its_truth(tmp_path):
    made = write_feedback(TINY_FEEDBACK, tmp_path, seed=3)
    truth = read_truth(tmp_path)
    np.testing.assert_array_equal(truth.world.taste, made.world.taste)
    np.testing.assert_array_equal(truth.interactions.items, made.interactions.items)
    log = build_interactions(open_tables(tmp_path), keep_cold_items=True).interactions
    users = np.arange(80)
    best = truth.world.after(log).optimal_lists(users, 4)
    np.testing.assert_array_equal(best, made.world.optimal_lists(users, 4))


@pytest.mark.parametrize("changed", ["taste", "quality", "lengths", "events"])
def test_a_truth_that_is_drawn_otherwise_today_is_refused(tmp_path, monkeypatch, changed):
    """The same plan and seed, and a generator that swaps two values of one part."""
    write_feedback(TINY_FEEDBACK, tmp_path, seed=3)
    generate = FeedbackSimulator.generate

    def otherwise(self, *, seed):
        made = generate(self, seed=seed)
        values = (made.interactions.items if changed == "events" else getattr(made.world, changed)).copy()
        values.ravel()[[0, -1]] = values.ravel()[[-1, 0]]
        if changed == "events":
            return replace(made, interactions=replace(made.interactions, items=values))
        return replace(made, world=replace(made.world, **{changed: values}))

    monkeypatch.setattr(FeedbackSimulator, "generate", otherwise)
    with pytest.raises(DataError, match=f"another world .* its {changed} add up to"):
        read_truth(tmp_path)


def test_folders_without_sums_are_known_by_the_items_lengths(tmp_path):
    write_feedback(TINY_FEEDBACK, tmp_path, seed=3)
    path = tmp_path / "simulated.json"
    told = json.loads(path.read_text())
    del told["sums"]
    path.write_text(json.dumps(told))
    assert read_truth(tmp_path).world.num_users == 80
    path.write_text(json.dumps({**told, "seed": 4}))
    with pytest.raises(DataError, match="its lengths add up to"):
        read_truth(tmp_path)


def test_what_holds_no_truth_is_said(tmp_path):
    with pytest.raises(DataError, match=r"holds no simulated\.json"):
        read_truth(tmp_path)
    (tmp_path / "simulated.json").write_text(json.dumps({"seed": 1, "plan": {"rules": {"joy": 1}}}))
    with pytest.raises(DataError, match="no plan that this version knows"):
        read_truth(tmp_path)


def test_the_set_is_made_on_first_use_and_kept(tmp_path, monkeypatch):
    small = pl.DataFrame({"item_id": range(320)})
    drawn = []

    def quick(plan, folder, *, seed):
        drawn.append((plan, seed))
        small.write_parquet(folder / "items.parquet")

    monkeypatch.setattr(feedback_files, "write_feedback", quick)
    for _ in range(2):
        found = resolve_dataset("simulated", environment={"XDG_CACHE_HOME": str(tmp_path)})
    assert found.path == tmp_path / "sememe" / "datasets" / "simulated"
    assert drawn == [(SIMULATED, 0)]
    assert [path.name for path in found.path.parent.iterdir()] == ["simulated"]


def test_simulated_data_passes_the_check(tmp_path):
    write_feedback(TINY_FEEDBACK, tmp_path, seed=3)
    assert not check_tables(tmp_path).problems


def test_the_label_changes_the_hash_and_no_label_does_not(tmp_path):
    frame = pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "timestamp": [1, 2]})
    frame.write_parquet(tmp_path / "events.parquet")
    plain = open_tables(tmp_path)
    (tmp_path / "data.toml").write_text("simulated = true\n")
    labelled = open_tables(tmp_path)
    assert plain.content_hash() != labelled.content_hash()
    assert "simulated = true" in labelled.data_toml()
    assert "simulated" not in plain.data_toml()
    (tmp_path / "data.toml").write_text('simulated = "yes"\n')
    with pytest.raises(DataError, match="simulated is 'yes'"):
        read_data_toml(tmp_path)
