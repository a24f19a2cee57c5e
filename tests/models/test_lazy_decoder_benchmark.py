"""The benchmark of the lazy decoder in small: it writes what it measured, and what it says of both adds up."""

import json
from pathlib import Path

import pytest

from benchmarks.quality.lazy_decoder import main


def test_a_small_run_writes_losses_sizes_and_a_verdict(tmp_path: Path) -> None:
    sizes = ["--history", "8", "--width", "16", "--batch", "16", "--steps", "4", "--users", "30"]
    main(["--name", "small", "--seeds", "0", "1", *sizes, "--out", str(tmp_path), "--work", str(tmp_path / "work")])
    content = json.loads((tmp_path / "small.json").read_text())
    assert content["settings"]["data"] == "planted" and content["test_users"] == 30
    names = ("encoder-decoder", "lazy decoder")
    assert [(row["model"], row["seed"]) for row in content["rows"]] == [
        (name, seed) for seed in (0, 1) for name in names
    ]
    means = [sum(row["test_loss"] for row in content["rows"] if row["model"] == name) / 2 for name in names]
    verdict = content["verdict"]
    assert verdict["relative_loss"] == pytest.approx(means[1] / means[0] - 1)
    assert verdict["low"] <= verdict["relative_loss"] <= verdict["high"]
    full, lazy = (content["models"][name] for name in names)
    assert lazy["weights_without_tables"] == pytest.approx(full["weights_without_tables"], rel=0.1)
    assert verdict["times_fewer_decoder_flops"] == pytest.approx(full["decoder_mflops"] / lazy["decoder_mflops"])
    # The longer the history, the more an encoder-decoder pays for keys and values of each layer.
    longer = [row["times_fewer_decoder_flops"] for row in content["times_fewer_flops"] if row["encoder_layers"] == 1]
    assert longer == sorted(longer)
    for row in content["times_fewer_flops"]:
        assert 0 < row["equal_context"]["times_fewer_decoder_flops"] < row["times_fewer_decoder_flops"]
