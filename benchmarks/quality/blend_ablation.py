"""What each signal is worth to the last word of a finished run, by cross-fitting on its validation requests.

    python -m benchmarks.quality.blend_ablation RUN --name itemwise_blend_beauty

fits the run's blend anew with some of its features, on one half of the validation requests, and judges on the other,
and the other way round; the test part is not read.  All variants share the candidates of the run, which item head and
item-kNN chose together; no new items are rehearsed.  Writes NAME.json beside this file.
"""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.header import header, run_command, write_output
from sememe.data.batches import request_batches
from sememe.pipeline.opened import open_run, read_json
from sememe.rerank.blend import MIXTURE, FittedBlend, judge_candidates
from sememe.rerank.cross_fit import cross_fit

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Variant:
    """Some of the features, and how they are weighed."""

    label: str
    features: tuple[str, ...]
    hidden: int = 32


def variants(names: tuple[str, ...]) -> list[Variant]:
    """From the model alone to everything, and everything without one thing."""
    model = ("item_log_prob", "code_log_prob", "read")
    # The mixture that chose the candidates is in part item-kNN.
    met = ("log_mixture", *(name for name in names if "co_occurrence" in name))
    alike = tuple(name for name in names if ".like_" in name)
    text = tuple(name for name in alike if name.endswith("_0"))
    without_codes = tuple(name for name in names if name != "code_log_prob")
    return [
        Variant("both heads of the model", model),
        Variant("heads + co-occurrence", model + met),
        Variant("heads + likeness of text", model + text),
        Variant("heads + likeness of all content", model + alike),
        Variant("all but the code head", without_codes),
        Variant("all, linear", names, hidden=0),
        Variant("all", names),
    ]


def measure(run: Path, *, seed: int) -> dict[str, dict[str, float]]:
    """Label -> cross-fitted validation metrics at 10, seen items left in."""
    opened = open_run(run)
    recommender, plan = opened.recommender, opened.recipe.evaluation
    blend = recommender.rerank
    assert isinstance(blend, FittedBlend), "the run's recipe has a Blend"
    requests = request_batches(
        opened.world.split,
        opened.world.split.valid,
        max_history=recommender.max_history,
        batch_size=plan.batch_size,
        events=recommender.events,
    )
    recommender.model.eval()
    judged = judge_candidates(blend, recommender.model, requests, device=recommender.device)
    found = {}
    for variant in variants(blend.names):
        columns = [blend.names.index(name) for name in variant.features]
        # Each feature is there twice: as it is, and times the log of the history's length.
        columns += [len(blend.names) + column for column in columns]
        chosen = replace(judged, features=judged.features[:, :, columns].contiguous())
        # Without the mixture among what it reads, the network starts from nothing.
        start = columns.index(MIXTURE) if MIXTURE in columns else None
        training = replace(blend.config.training(), hidden=variant.hidden, starts_from=start)
        with tempfile.TemporaryDirectory() as scratch:
            met = chosen.without(~blend.known)
            values = cross_fit(training, chosen, met, ordered=blend.config.candidates, seed=seed, scratch=Path(scratch))
        # What the network starts from differs between the variants, and is not what is compared here.
        found[variant.label] = {name: value for name, value in values.items() if not name.startswith("mixture_")}
        show(found)
    return found


def show(found: Mapping[str, Mapping[str, float]]) -> None:
    """Print the table so far."""
    table = Table("features", "recall@10", "ndcg@10")
    for label, values in found.items():
        table.add_row(label, f"{values['recall@10']:.4f}", f"{values['ndcg@10']:.4f}")
    Console().print(table)


def main() -> None:
    """Measure the run named on the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(arguments.run, seed=arguments.seed)
    content = {
        **header("torch", "numpy"),
        "command": run_command(read_json(arguments.run / "run.json")),
        "then": f"python -m benchmarks.quality.blend_ablation RUN --name {arguments.name}",
        "split": "validation, seen items left in, cross-fitted in two halves",
        "features": found,
    }
    write_output(HERE / f"{arguments.name}.json", content)


if __name__ == "__main__":
    main()
