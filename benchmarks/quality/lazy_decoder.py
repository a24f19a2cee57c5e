"""What a lazy decoder costs and what it learns, beside an encoder-decoder of equal size on the same histories.

    python -m benchmarks.quality.lazy_decoder --data planted --name lazy_decoder_planted

trains both with each seed on the next item's codes, keeps each at its best validation loss, and compares losses on the
test users: nats per code, paired by user.  DATA is "planted" (generated: a Markov chain over clusters) or the name or
path of a log.  Operations are counted for one user with a full history, and without training for others; "decoder" is
keys and values of the context and all that writes, for either model (`sememe.models.flops`).  The encoder-decoder reads
a token for each code of the history and the lazy decoder one for each item, as version 1 and version 2 do: part of what
is saved is that.  "equal_context" counts an encoder-decoder that reads what the lazy decoder reads.  An interrupted run
goes on where it stopped, in the folder that --work names.  Writes NAME.json beside this file, or to --out.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from benchmarks.header import header, write_output
from sememe.core.schema import ModelInputs
from sememe.core.seeding import generator
from sememe.data.batches import PrefixBatches, request_batches, with_codes
from sememe.data.simulated_files import write_world
from sememe.data.simulator import PlantedWorld
from sememe.data.splits import Examples
from sememe.embed.fuse import ProvidedVectors
from sememe.metrics.significance import bootstrap_mean
from sememe.models.contexts import CodeTokens, Pathways
from sememe.models.flops import Flops, count_flops
from sememe.models.generator import ListGenerator
from sememe.models.lazy import LazyDecoder
from sememe.models.onerec import OneRec
from sememe.objectives.next_token import NextToken
from sememe.pipeline.prepare import ItemSpace, World, prepare_items, prepare_world
from sememe.pipeline.recipe import DataPlan, SplitRule
from sememe.pipeline.stages import StageStore
from sememe.recipes import onerec_v2
from sememe.sid.rqkmeans import ResidualKMeans
from sememe.train.device import resolve_device, to_tensors
from sememe.train.loop import fit
from sememe.train.optim import AdamW, WarmupCosine
from sememe.train.plan import TrainPlan

HERE = Path(__file__).resolve().parent
PLANTED = "planted"
LAYERS = 4
CONTEXTS = (64, 128, 256, 512)
"""Items of history that operations are also counted for."""
Losses = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """What is compared; the rest stands in the code."""

    data: str
    history: int
    width: int
    encoder_layers: int
    batch: int
    steps: int
    users: int
    """At most so many validation users, and so many test users."""
    lr: float


def models(plan: Plan, *, history: int) -> dict[str, OneRec | LazyDecoder]:
    """Both, with equal layers, heads and widths; a history is code tokens for one, a vector an item for the other."""
    shape: dict[str, Any] = {
        "d_model": plan.width,
        "heads": 4,
        "head_dim": plan.width // 4,
        "ff": 4 * plan.width,
        "experts": 0,
        "user_buckets": 0,
        "session": 1,
    }
    context = Pathways(short=history, positive=0, lifelong=0)
    return {
        "encoder-decoder": OneRec(
            context=CodeTokens(),
            encoder_layers=plan.encoder_layers,
            decoder_layers=LAYERS - plan.encoder_layers,
            **shape,
        ),
        "lazy decoder": LazyDecoder(context=context, layers=LAYERS, kv_heads=1, groups=1, **shape),
    }


def prepare(plan: Plan, work: Path) -> tuple[World, ItemSpace]:
    """The log, its split, and residual k-means codes."""
    split = SplitRule(rule="leave_one_out")
    recipe = replace(onerec_v2(), data=DataPlan(split=split), tokenizer=ResidualKMeans(items_per_code=4))
    source = plan.data
    if plan.data == PLANTED:
        recipe = replace(recipe, embed=ProvidedVectors())
        source = str(work / "planted")
        events = (plan.history, plan.history + 20)
        planted = PlantedWorld(branching=(8, 8), items_per_leaf=8, num_users=1000, events_per_user=events)
        write_world(planted.generate(seed=0), Path(source))
    stages = StageStore(root=work / "stages", say=print, recipe_hash="")
    world = prepare_world(stages, recipe.data, source=source, columns={})
    return world, prepare_items(stages, recipe, world, seed=0)


def some(examples: Examples, *, count: int) -> Examples:
    """At most `count` of the examples, the same at every call."""
    chosen = np.sort(generator(0, "lazy decoder").permutation(len(examples))[:count])
    return Examples(examples.users[chosen], examples.starts[chosen], examples.ends[chosen])


@torch.no_grad()
def losses(model: torch.nn.Module, world: World, items: ItemSpace, examples: Examples, *, plan: Plan) -> Losses:
    """(N,) mean -log p over the codes of each user's next item."""
    assert items.codes is not None, "the recipe makes codes"
    model.eval()
    device = next(model.parameters()).device
    found = np.empty(len(examples))
    for request in request_batches(world.split, examples, max_history=plan.history, batch_size=plan.batch):
        codes = items.codes.matrix[request.targets[:, 0]]
        batch = to_tensors({**request.batch, "target_codes": codes}, device)
        logits = model(batch)["code_logits"].float()
        each = F.cross_entropy(logits.flatten(0, 1), batch["target_codes"].flatten(), reduction="none")
        found[request.rows] = each.view(len(codes), -1).mean(1).cpu().numpy()
    return found


def train(
    part: OneRec | LazyDecoder, world: World, items: ItemSpace, *, plan: Plan, seed: int, out: Path
) -> tuple[dict[str, Any], Losses]:
    """A line of the table and the test losses of one model."""
    inputs = items.inputs(world)
    assert inputs.codes is not None, "the recipe makes codes"
    model = part.build(inputs, seed=seed)
    batches = PrefixBatches(batch_size=plan.batch, max_history=plan.history)
    source = with_codes(batches.source(world.split.train(), seed=seed), inputs.codes)
    valid, test = (some(part, count=plan.users) for part in (world.split.valid, world.split.test))
    training = TrainPlan(
        epochs=None,
        steps=plan.steps,
        optimizer=AdamW(lr=plan.lr),
        schedule=WarmupCosine(warmup_steps=max(1, plan.steps // 10)),
        validate_every=max(1, plan.steps // 10),
        monitor="loss",
        goal="min",
    )
    began = time.monotonic()
    result = fit(
        model,
        source,
        NextToken(),
        training,
        out=out,
        seed=seed,
        validate=lambda network: {"loss": float(losses(network, world, items, valid, plan=plan).mean())},
        report=lambda line: None,
    )
    by_user = losses(model, world, items, test, plan=plan)
    line = {
        "seed": seed,
        "validation_loss": result.best_value,
        "test_loss": float(by_user.mean()),
        "best_step": result.best_step,
        "seconds": round(time.monotonic() - began, 1),
    }
    return line, by_user


def describe(part: OneRec | LazyDecoder, inputs: ModelInputs, *, history: int) -> dict[str, Any]:
    """Weights of a fresh model, those of its layers alone, and the operations for one user with a full history."""
    model: ListGenerator = part.build(inputs, seed=0)
    assert inputs.codes is not None, "the recipe makes codes"
    tables = sum(len(weights) for weights in (model.tokens.embedding, *model.decoder.heads)) * part.d_model
    every = sum(weights.numel() for weights in model.parameters())
    items = torch.arange(history).remainder(inputs.num_items).unsqueeze(0)
    codes = torch.from_numpy(inputs.codes.matrix[:1]).long()
    batch = {"history": items, "user": torch.zeros(1, dtype=torch.long), "target_codes": codes}
    flops: Flops = count_flops(model, batch)
    return {
        "weights": every,
        "weights_without_tables": every - tables,
        "context_mflops": flops.context / 1e6,
        "decoder_mflops": flops.decoder / 1e6,
        "total_mflops": flops.total / 1e6,
    }


def describe_all(plan: Plan, inputs: ModelInputs, *, history: int) -> dict[str, dict[str, Any]]:
    """`describe` of both models."""
    return {name: describe(part, inputs, history=history) for name, part in models(plan, history=history).items()}


def with_equal_context(plan: Plan, inputs: ModelInputs, *, history: int) -> dict[str, float]:
    """`times_fewer` than an encoder-decoder that reads one vector an item, too."""
    both = models(plan, history=history)
    full, lazy = both["encoder-decoder"], both["lazy decoder"]
    parts = {"encoder-decoder": replace(full, context=lazy.context), "lazy decoder": lazy}
    return times_fewer({name: describe(part, inputs, history=history) for name, part in parts.items()})


def times_fewer(sizes: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """How many times fewer operations the lazy decoder needs, in the decoder and in all."""
    full, lazy = sizes["encoder-decoder"], sizes["lazy decoder"]
    return {
        f"times_fewer_{side}_flops": full[f"{side}_mflops"] / lazy[f"{side}_mflops"] for side in ("decoder", "total")
    }


def compare(by_model: Mapping[str, Sequence[Losses]], sizes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Relative loss of the lazy decoder, paired by user over the seeds' means, and how much less it computes."""
    full, lazy = (np.mean(by_model[name], axis=0) for name in ("encoder-decoder", "lazy decoder"))
    interval = bootstrap_mean((lazy - full) / full.mean(), seed=0)
    by_seed = [
        float(one.mean() / other.mean() - 1)
        for one, other in zip(by_model["lazy decoder"], by_model["encoder-decoder"], strict=True)
    ]
    return {
        "relative_loss": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "relative_loss_by_seed": by_seed,
        "within_1_percent": interval.mean <= 0.01,
        **times_fewer(sizes),
    }


def show(rows: Sequence[Mapping[str, Any]], sizes: Mapping[str, Mapping[str, Any]], verdict: Mapping[str, Any]) -> None:
    """Print the tables."""
    table = Table("model", "seed", "validation loss", "test loss", "seconds")
    for row in rows:
        numbers = (f"{row['validation_loss']:.4f}", f"{row['test_loss']:.4f}", f"{row['seconds']:.0f}")
        table.add_row(row["model"], str(row["seed"]), *numbers)
    costs = Table("model", "weights", "without tables", "context MFLOPs", "decoder MFLOPs", "all")
    for name, size in sizes.items():
        flops = (f"{size[f'{side}_mflops']:.2f}" for side in ("context", "decoder", "total"))
        costs.add_row(name, f"{size['weights']:,}", f"{size['weights_without_tables']:,}", *flops)
    console = Console(width=120)
    console.print(table)
    console.print(costs)
    console.print(
        f"lazy decoder: test loss {verdict['relative_loss']:+.2%} [{verdict['low']:+.2%}, {verdict['high']:+.2%}], "
        f"{verdict['times_fewer_decoder_flops']:.1f} times fewer operations in the decoder, "
        f"{verdict['times_fewer_total_flops']:.1f} in all"
    )


def measure(plan: Plan, *, seeds: Sequence[int], work: Path) -> dict[str, Any]:
    """Train both models with each seed, and count."""
    world, items = prepare(plan, work)
    inputs = items.inputs(world)
    rows, by_model = [], {name: list[Losses]() for name in models(plan, history=plan.history)}
    for seed in seeds:
        for name, part in models(plan, history=plan.history).items():
            out = work / f"{name.replace(' ', '_')}-{seed}"
            line, by_user = train(part, world, items, plan=plan, seed=seed, out=out)
            rows.append({"model": name, **line})
            by_model[name].append(by_user)
            print(f"{name}, seed {seed}: test loss {line['test_loss']:.4f} after {line['seconds']:.0f} s", flush=True)
    sizes = describe_all(plan, inputs, history=plan.history)
    verdict = compare(by_model, sizes)
    show(rows, sizes, verdict)
    return {
        "test_users": len(by_model["lazy decoder"][0]),
        "code_levels": inputs.codes.num_levels if inputs.codes else 0,
        "rows": rows,
        "models": sizes,
        "verdict": verdict,
        "times_fewer_flops": [
            {
                "encoder_layers": layers,
                "history": history,
                **times_fewer(describe_all(shaped, inputs, history=history)),
                "equal_context": with_equal_context(shaped, inputs, history=history),
            }
            for layers in range(1, LAYERS)
            for shaped in [replace(plan, encoder_layers=layers)]
            for history in CONTEXTS
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line says and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=PLANTED)
    parser.add_argument("--name", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    for name, value in {
        "history": 128,
        "width": 64,
        "encoder_layers": 1,
        "batch": 32,
        "steps": 1500,
        "users": 1000,
    }.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args(arguments)
    plan = Plan(**{field.name: getattr(given, field.name) for field in fields(Plan)})
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(plan, seeds=given.seeds, work=given.work or Path(scratch))
    settings = {name: value for name, value in vars(given).items() if name not in ("work", "out")}
    device = str(resolve_device("auto"))
    write_output(
        given.out / f"{given.name}.json", {**header("torch", "numpy"), "device": device, "settings": settings, **found}
    )


if __name__ == "__main__":
    main()
