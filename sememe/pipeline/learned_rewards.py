"""Rewards that have to be learned, as stages; what trains a policy and what judges it never read the same feedback."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from safetensors.numpy import load_file, save_file

from sememe.align.labels import columns_of
from sememe.align.protocol import Feedback, Reward, RewardPart
from sememe.align.rewards import learned_parts, with_learned
from sememe.core.errors import DataError
from sememe.core.schema import BoolArray, Interactions
from sememe.core.seeding import derive_seed, generator
from sememe.pipeline.prepare import World
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.stages import Say, StageStore, Workbench
from sememe.pipeline.trained import TrainedModel, stage_hashes

STATE = "reward.safetensors"

Role = Literal["reward", "judge"]
Reads = Literal["other_users", "random_exposure"]


@dataclass(frozen=True, eq=False)
class ReadyReward:
    """A reward that can score, and what it was made of."""

    reward: Reward
    hashes: Mapping[str, str]
    """Content hashes of the stages of its learned parts."""
    correlations: tuple[float, ...] = ()
    """Of each learned part that tells it, with feedback of users that it did not learn from: the lower end of its 95 %
    interval, or the estimate where a part tells no interval."""


def ready_reward(
    stages: StageStore, trained: TrainedModel, world: World, whole: Any, *, role: Role, reads: Reads
) -> ReadyReward:
    """`whole` with its learned parts fitted, or read where they were before.

    role: what it is for; reads: which feedback the judge has for itself, see `GatePlan`.
    """
    train = world.split.train()
    feedback = Feedback(
        train=train,
        readable=readable_events(train, role=role, reads=reads, seed=trained.seed),
        codes=trained.items.codes,
        vectors=trained.items.vectors,
        device=trained.recommender.device,
    )
    parts = learned_parts(whole)
    if parts and not feedback.readable.any():
        raise DataError(
            f"the {role} is to be learned from {reads.replace('_', ' ')}, and no event of the training part is of that "
            "kind",
            fix='set align.gate.reads to "other_users", or give data with a column random_exposure',
        )
    manifests = {}
    for place, part in enumerate(parts):
        manifest = stages.get(
            f"{role}-{trained.recipe.name}",
            settings={"reward": part, "reads": reads, "seed": trained.seed},
            inputs=stage_hashes(world, trained.items),
            make=lambda bench, part=part: _make(bench, part, feedback, seed=derive_seed(trained.seed, role)),  # type: ignore[misc]
        )
        manifests[id(part)] = manifest
        estimate = sorted(manifest.meta["result"]["estimate"].items())
        told = "  ".join(f"{name} {value:.3f}" for name, value in estimate)
        stages.say(f"  {role} {place + 1}, learned from {int(feedback.readable.sum()):,} events: {told}")
    reward = with_learned(
        whole, made=lambda part: part.load(load_file(manifests[id(part)].path / STATE), feedback=feedback)
    )
    hashes = {f"{role} {place}": manifest.content_hash for place, manifest in enumerate(manifests.values())}
    estimates = [manifest.meta["result"]["estimate"] for manifest in manifests.values()]
    told_of = tuple(
        estimate.get("correlation_low", estimate["correlation"]) for estimate in estimates if "correlation" in estimate
    )
    return ReadyReward(reward, hashes, told_of)


def lacking_feedback(train: Interactions, *rewards: Any, reads: Reads) -> str | None:
    """What the log lacks of what `rewards` read, as a sentence; None where nothing is lacking."""
    told = {name.partition("_")[2] for reward in rewards for name in reward.names if "_" in name}
    read = {column for label in told for column in columns_of(label)}
    missing = sorted(read - set(train.columns))
    if missing:
        return f"its rewards read {', '.join(missing)}, and the log has {', '.join(sorted(train.columns)) or 'neither'}"
    random = np.asarray(train.columns.get("random_exposure", np.zeros(train.num_events, np.int8))) == 1
    if reads == "random_exposure" and any(learned_parts(reward) for reward in rewards) and not random.any():
        return "its judge reads what was shown uniformly at random, and nothing in the log was"
    return None


def lacks_feedback(recipe: Recipe, world: World, *, say: Say) -> bool:
    """Whether the data lacks what the alignment of `recipe` needs, which is then said, and left out.

    Raises:
        DataError: the plan does not want it left out.
    """
    plan = recipe.align
    if plan is None:
        return False
    found = lacking_feedback(world.split.train(), plan.reward, plan.gate.judge, reads=plan.gate.reads)
    if found is None:
        return False
    if plan.without_feedback == "refuse":
        raise DataError(
            f"recipe {recipe.name!r} cannot be aligned: {found}",
            fix="give data with these columns, another reward, or set align.without_feedback=skip",
        )
    say(f"  {recipe.name}: NOT ALIGNED, since {found}")
    return True


def readable_events(train: Interactions, *, role: Role, reads: Reads, seed: int) -> BoolArray:
    """(E,) what a learned reward of that role may learn from; no event is for both."""
    if reads == "random_exposure":
        flags = np.asarray(train.columns.get("random_exposure", np.zeros(train.num_events, np.int8)))
        random: BoolArray = flags == 1
        return random if role == "judge" else ~random
    half = generator(seed, "feedback users").random(train.num_users) < 0.5
    of_reward: BoolArray = half[train.users()]
    return ~of_reward if role == "judge" else of_reward


def _make(bench: Workbench, part: RewardPart, feedback: Feedback, *, seed: int) -> dict[str, Any]:
    fitted = part.fit(feedback, seed=seed % 2**31, scratch=bench.scratch)
    state: Mapping[str, Any] = fitted.state()
    save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, bench.target / STATE)
    return {"estimate": dict(fitted.estimate)}
