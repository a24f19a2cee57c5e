"""Off-policy estimates on real clicks: what a uniformly random policy is worth, read off the log of another one.

    python -m benchmarks.quality.open_bandit

The Open Bandit Dataset (Saito et al., 2021) holds impressions of an online shop in three campaigns, each logged twice
at the same time: by a Bernoulli Thompson sampler, with the propensity of what it showed, and by a uniformly random
policy.  The value of the random policy is estimated from the sampler's log, and stands beside the mean that its own log
has.  Each impression is one action: item at a position that the user scrolled to.  The sample has 10,000 impressions
per log and 38 to 69 clicks, so that truths themselves are known to a third.

The set is looked up under SEMEME_DATA.  Writes open_bandit.json beside this file.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from rich.console import Console
from rich.table import Table

from benchmarks.header import header, write_output
from sememe.core.seeding import generator
from sememe.data.datasets import resolve_dataset
from sememe.metrics.off_policy import (
    Estimate,
    RewardModel,
    action_weights,
    check_support,
    doubly_robust,
    ips,
    snips,
)
from sememe.metrics.significance import Interval

HERE = Path(__file__).resolve().parent
Array = npt.NDArray[np.float64]

DATA = "obd_small"
COLUMNS = ("item_id", "position", "click", "propensity_score")
CLIPS = (None, 100.0, 10.0)
FOLDS = 5
PRIOR = 500.0
"""Impressions at the mean click rate that an item's own clicks are added to."""
RESAMPLES = 2000
LEVEL = 0.95


def click_model(log: pl.DataFrame, *, items: int, seed: int) -> RewardModel:
    """Click rate of an item times the lift of its position, fitted on the folds that a row is not in."""
    item, place, click = (log[name].to_numpy() for name in ("item_id", "position", "click"))
    place = place - place.min()
    fold = generator(seed, "folds").integers(0, FOLDS, len(log))
    predicted, value = np.empty(len(log)), np.empty(len(log))
    for number in range(FOLDS):
        fit, use = fold != number, fold == number
        mean = click[fit].mean()
        shown, clicked = (np.bincount(item[fit], weights, minlength=items) for weights in (None, click[fit]))
        rates = (clicked + PRIOR * mean) / (shown + PRIOR)
        # The same for positions, whose impressions outweigh the prior.
        seen, hits = (np.bincount(place[fit], weights) for weights in (None, click[fit]))
        lifts = (hits + PRIOR * mean) / (seen + PRIOR) / mean
        predicted[use] = rates[item[use]] * lifts[place[use]]
        value[use] = rates.mean() * lifts[place[use]]
    return RewardModel(predicted, value)


def estimates(log: pl.DataFrame, *, items: int, seed: int) -> dict[str, tuple[float | None, Estimate]]:
    """Name -> clip and estimate of the uniform policy's clicks per impression, from the log of another policy."""
    clicks = log["click"].to_numpy().astype(float)
    uniform, propensity = np.full(len(log), 1 / items), log["propensity_score"].to_numpy()
    model = click_model(log, items=items, seed=seed)
    often: dict[str, Any] = {"seed": seed, "resamples": RESAMPLES, "level": LEVEL}
    found: dict[str, tuple[float | None, Estimate]] = {}
    for clip in CLIPS:
        weights = action_weights(uniform, propensity, clip=clip)
        told = "" if clip is None else f", weights <= {clip:g}"
        found[f"IPS{told}"] = clip, ips(clicks, weights, **often)
        found[f"SNIPS{told}"] = clip, snips(clicks, weights, **often)
        found[f"DR{told}"] = clip, doubly_robust(clicks, weights, model, **often)
        found[f"SNDR{told}"] = clip, doubly_robust(clicks, weights, model, self_normalised=True, **often)
    return found


def on_policy(log: pl.DataFrame, *, seed: int) -> Estimate:
    """The mean of a log, as the estimate of its own policy's value."""
    ones = np.ones(len(log))
    return ips(log["click"].to_numpy(), action_weights(ones, ones), seed=seed, resamples=RESAMPLES, level=LEVEL)


def measure_campaign(log: pl.DataFrame, *, campaign: str, seed: int) -> list[dict[str, Any]]:
    """One line per estimator, and one for taking the sampler's own mean."""
    random, sampler = (log.filter(policy=name) for name in ("random", "bts"))
    items = 1 + int(random["item_id"].to_numpy().max())
    assert np.allclose(random["propensity_score"].to_numpy(), 1 / items), "the random policy is uniform"
    # What the sampler can show is known from what it did show: every item, though some of them seldom.
    shown = np.bincount(sampler["item_id"].to_numpy(), minlength=items) / len(sampler)
    check_support(np.full(items, 1 / items), shown)
    truth = on_policy(random, seed=seed)
    plain: tuple[float | None, Estimate] = None, on_policy(sampler, seed=seed)
    every = {"mean of the sampler's log": plain} | estimates(sampler, items=items, seed=seed)
    rows = []
    for name, (clip, found) in every.items():
        apart = difference(found.normal, truth.normal)
        rows.append(
            {
                "campaign": campaign,
                "items": items,
                "estimator": name,
                "clip": clip,
                **told(found),
                "truth": told(truth, short=True),
                "minus_truth": {"mean": apart.mean, "low": apart.low, "high": apart.high},
                "agrees": apart.low <= 0 <= apart.high,
            }
        )
    return rows


def difference(first: Interval, second: Interval) -> Interval:
    """First - second of two independent logs, with the normal interval."""
    half = float(np.hypot(first.high - first.mean, second.high - second.mean))
    mean = first.mean - second.mean
    return Interval(mean, mean - half, mean + half)


def told(found: Estimate, *, short: bool = False) -> dict[str, Any]:
    """What a line says of an estimate."""
    assert found.bootstrap is not None, "estimates of this benchmark are bootstrapped"
    line = {
        "value": found.value,
        "standard_error": (found.normal.high - found.value) / NormalDist().inv_cdf((1 + LEVEL) / 2),
        "normal": [found.normal.low, found.normal.high],
        "bootstrap": [found.bootstrap.low, found.bootstrap.high],
        "rows": found.rows,
    }
    if short:
        return line
    weight = found.mean_weight
    return line | {
        "effective_rows": found.effective_rows,
        "mean_weight": {"mean": weight.mean, "low": weight.low, "high": weight.high},
        "largest_weight": found.largest_weight,
        "clipped": found.clipped,
    }


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table; clicks per 1,000 impressions."""
    table = Table("campaign", "estimator", "value", "bootstrap", "normal", "effective rows", "mean weight", "truth")
    for row in rows:
        spans = ["[{:.2f}, {:.2f}]".format(*(1e3 * end for end in row[kind])) for kind in ("bootstrap", "normal")]
        truth = "{:.2f} [{:.2f}, {:.2f}]".format(
            1e3 * row["truth"]["value"], *(1e3 * e for e in row["truth"]["normal"])
        )
        cells = [f"{1e3 * row['value']:.2f}", *spans, f"{row['effective_rows']:,.0f}"]
        agrees = "" if row["agrees"] else " (apart)"
        table.add_row(
            row["campaign"], row["estimator"], *cells, f"{row['mean_weight']['mean']:.3f}", f"{truth}{agrees}"
        )
    Console(width=150).print(table)


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=DATA, help="name of the data set, or its folder")
    parser.add_argument("--name", default="open_bandit")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    source = resolve_dataset(arguments.data).path / "impressions.parquet"
    log = pl.read_parquet(source, columns=[*COLUMNS, "policy", "campaign"]).with_columns(
        pl.col("policy", "campaign").cast(pl.String)
    )
    rows: list[dict[str, Any]] = []
    for campaign in ("all", "men", "women"):
        rows += measure_campaign(log.filter(campaign=campaign), campaign=campaign, seed=arguments.seed)
    show(rows)
    content = {
        **header("numpy", "polars"),
        "command": f"python -m benchmarks.quality.open_bandit --name {arguments.name} --seed {arguments.seed}",
        "note": "clicks per impression of the uniformly random policy, from the log of a Bernoulli Thompson sampler; "
        "truth: the mean of the random policy's own log of the same days",
        "level": LEVEL,
        "resamples": RESAMPLES,
        "model": {"kind": "click rate of the item times lift of the position", "folds": FOLDS, "prior": PRIOR},
        "rows": rows,
    }
    write_output(HERE / f"{arguments.name}.json", content)


if __name__ == "__main__":
    main()
