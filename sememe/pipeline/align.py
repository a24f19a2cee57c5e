"""The stages of alignment: from a trained model to one that is pulled towards a reward, and the gate between the two.

    reward-NAME, judge-NAME   rewards that have to be learned, the second for the gate alone
    aligned-NAME              the weights after all rounds
    gate-NAME                 the table and the verdict

Each is cached by all that goes into it, and resumed after a kill to the same bytes: rounds that are finished are read,
the one under way goes on from its last checkpoint.
"""

import json
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from sememe.align.policy import Learner, Steering
from sememe.align.prompts import Prompts, PromptSource, held_out_places
from sememe.align.rollouts import RolloutSource, is_input, judged
from sememe.core.artifact import Manifest
from sememe.core.config import to_tree
from sememe.core.seeding import derive_seed, generator
from sememe.data.splits import Examples
from sememe.pipeline.align_plan import BEFORE, REFUSED, STEP, AlignPlan
from sememe.pipeline.drift import FILE_NAME, describe_judge, judged_by_another, keep_logs, told
from sememe.pipeline.gate import Measures, Verdict, judge, unless_blind
from sememe.pipeline.learned_rewards import ReadyReward, ready_reward
from sememe.pipeline.measuring import Panel, without_last_word
from sememe.pipeline.prepare import ItemSpace, World
from sememe.pipeline.recipe import BatchSource, Recipe
from sememe.pipeline.recommend import Recommender
from sememe.pipeline.reranking import fit_rerank, prepare_rerank
from sememe.pipeline.stages import StageStore, Workbench
from sememe.pipeline.trained import (
    MACHINE_SETTINGS,
    WEIGHTS,
    TrainedModel,
    make_recommender,
    open_model,
    stage_hashes,
    training_batches,
    with_rerank,
)
from sememe.train.checkpoint import save_module
from sememe.train.device import to_tensors
from sememe.train.loop import fit

GATE = "gate.json"


@dataclass(frozen=True)
class Aligned:
    """What an alignment came to."""

    deployed: TrainedModel
    other: TrainedModel
    """The model before where the aligned one is deployed, the refused one where it is not."""
    verdict: Verdict
    gate: Manifest


def align_model(
    stages: StageStore, trained: TrainedModel, world: World, *, aligned_as: AlignPlan | None = None
) -> Aligned:
    """Align a trained model as its recipe says, and let the gate decide which one is deployed.

    aligned_as: another plan than the recipe's.
    """
    plan = aligned_as or trained.recipe.align
    assert plan is not None, "asked for only where there is one"
    judged_by: dict[str, Any] = {"reads": plan.gate.reads}
    work = _Alignment(
        stages,
        trained,
        world,
        plan,
        reward=ready_reward(stages, trained, world, plan.reward, role="reward", **judged_by),
        judge=ready_reward(stages, trained, world, plan.gate.judge, role="judge", **judged_by),
    )
    manifest = work.align()
    if judged_by_another(manifest, describe_judge(plan, work.judge)):
        stages.say(f"  the weights are kept, and so is the reward in their {FILE_NAME}, which is another judge's")
    aligned = open_model(trained.recipe, manifest, world, trained.items, seed=trained.seed)
    gate = work.gate(aligned, manifest)
    verdict = Verdict.from_json(json.loads((gate.path / GATE).read_text(encoding="utf-8")))
    stages.say("\n".join([f"  {trained.recipe.name}: {verdict.users:,} held-out users", *verdict.lines()]))
    if trained.recipe.rerank is not None:
        rerank = prepare_rerank(
            stages,
            trained.recipe,
            aligned.recommender,
            manifest,
            world=world,
            items=trained.items,
            seed=trained.seed,
        )
        aligned = with_rerank(aligned, rerank, world)
    if verdict.promoted:
        return Aligned(aligned, _called(trained, BEFORE), verdict, gate)
    return Aligned(trained, _called(aligned, REFUSED), verdict, gate)


def _called(trained: TrainedModel, row: str) -> TrainedModel:
    """The same model under the name of its own row, without views."""
    name = f"{trained.recipe.name}:{row}"
    return replace(trained, recipe=replace(trained.recipe, name=name, views=(), align=None))


@dataclass(frozen=True, eq=False)
class _Alignment:
    stages: StageStore
    trained: TrainedModel
    world: World
    plan: AlignPlan
    reward: ReadyReward
    judge: ReadyReward

    @property
    def recipe(self) -> Recipe:
        return self.trained.recipe

    @property
    def items(self) -> ItemSpace:
        return self.trained.items

    @property
    def seed(self) -> int:
        return self.trained.seed

    def align(self) -> Manifest:
        """The stage of the aligned weights."""
        tree = to_tree(self.plan)
        train = {name: value for name, value in tree["train"].items() if name not in MACHINE_SETTINGS}
        settings = {
            "align": {**{name: value for name, value in tree.items() if name != "gate"}, "train": train},
            "seed": self.seed,
            **({"batches": self.recipe.batches, "objective": self.recipe.objective} if self.plan.imitate else {}),
            # Who steers is drawn among these.
            **({"gate_users": self.plan.gate.users} if self.plan.asked_of == "steering" else {}),
            # Looks choose the best step where the plan watches one of their numbers.
            **({} if self.plan.train.monitor == STEP else {"gate": self.plan.gate}),
        }
        return self.stages.get(
            f"aligned-{self.recipe.name}",
            settings=settings,
            inputs={**self._inputs(), **self.reward.hashes},
            make=self._make_aligned,
        )

    def gate(self, aligned: TrainedModel, manifest: Manifest) -> Manifest:
        """The stage of the verdict."""
        return self.stages.get(
            f"gate-{self.recipe.name}",
            settings={
                "gate": self.plan.gate,
                "prompts": self.plan.prompts,
                "decode": self.recipe.decode,
                "rerank": None if self.plan.gate.lists == "generator" else to_tree(self.recipe.rerank),
                "resamples": self.recipe.evaluation.resamples,
                "seed": self.seed,
            },
            inputs={**self._inputs(), "aligned": manifest.content_hash, **self.judge.hashes},
            make=lambda bench: self._make_gate(bench, aligned),
        )

    def _inputs(self) -> dict[str, str]:
        return {"model": self.trained.manifest.content_hash, **stage_hashes(self.world, self.items)}

    # Training.

    def _make_aligned(self, bench: Workbench) -> dict[str, Any]:
        plan, model = self.plan, self._fresh()
        start = deepcopy(model)
        panel = self.panel(*self.steering(), most=plan.look_users)
        looks = _Looks(self, panel, start=start)
        drift = [{"round": 0, STEP: 0, **looks.look(model)}]
        for number in range(plan.rounds):
            frozen = deepcopy(model).eval() if "round" in (plan.policy, plan.reference) else None
            source = _Counted(self.rollouts(model, number=number, start=start, frozen=frozen))
            learner = Learner(model)
            result = fit(
                learner,
                source,
                self.objective(),
                replace(plan.train, device=str(self.trained.recommender.device)),
                out=bench.scratch / f"round-{number:02d}",
                seed=derive_seed(self.seed, "round", number) % 2**31,
                validate=lambda _, source=source: {**looks.look(model), STEP: source.done},  # type: ignore[misc]
            )
            drift += [{"round": number, **record} for record in result.history]
            self.stages.say(f"  round {number + 1} of {plan.rounds}: {told(drift[-1])}")
        save_module(bench.target / WEIGHTS, model)
        keep_logs(bench, drift, judge=describe_judge(plan, self.judge), rounds=plan.rounds)
        return {"rounds": plan.rounds, "drift": drift[-1]}

    def _fresh(self) -> nn.Module:
        """The trained network, to be changed; what is not trained takes no gradient."""
        model: nn.Module = deepcopy(self.trained.recommender.model)
        for name, parameter in model.named_parameters():
            wanted = not self.plan.trained or name.startswith(self.plan.trained)
            parameter.requires_grad_(wanted and parameter.requires_grad)
        return model

    def objective(self) -> Steering:
        """What a step of the loop minimises."""
        imitation = self.recipe.objective if self.plan.imitate else None
        return Steering(self.plan.objective, imitation=imitation, weight=self.plan.weight)

    def rollouts(self, model: nn.Module, *, number: int, start: nn.Module, frozen: nn.Module | None) -> RolloutSource:
        """Samples of one round."""
        plan, seed = self.plan, derive_seed(self.seed, "rollouts", number)
        policy = model if plan.policy == "current" or frozen is None else frozen
        imitated = None
        if plan.imitate:
            imitated = training_batches(self.recipe, self.world, self.items, seed=seed % 2**31)
        prompts = self.prompts(seed=seed % 2**31)
        return RolloutSource(
            prompts=prompts,
            policy=policy,
            sampler=plan.sampler,
            reward=self.reward.reward,
            trie=self.trained.recommender.trie,
            scores=plan.scores,
            seed=seed,
            on_policy=policy is model,
            leave_out_seen=plan.leave_out_seen,
            reference={"start": start, "round": frozen, "none": None}[plan.reference],
            imitated=imitated,
            every=self._every(prompts, imitated),
        )

    def prompts(self, *, seed: int) -> BatchSource:
        """What the policy is asked."""
        source = self._asker(_telling(self.plan.prompts, self.plan.reward), seed=seed)
        if self.plan.asked_of == "training":
            return source
        asked, log = self.steering()[0], self.world.interactions
        later = slice(self.plan.look_users, None)
        asked = Examples(users=asked.users[later], starts=asked.starts[later], ends=asked.ends[later])
        return source.at(log, held_out_places(log, asked))

    def _asker(self, prompts: Prompts, *, seed: int) -> PromptSource:
        known = self.trained.recommender
        # An event type stands for a code here, and only the recipe's own names get so far.
        events: Any = known.events
        return prompts.source(self.world.split.train(), seed=seed, max_history=known.max_history, events=events)

    def _every(self, prompts: BatchSource, imitated: BatchSource | None) -> int:
        if imitated is None:
            return 1
        asked, beside = (len(next(iter(source(0).values()))) for source in (prompts, imitated))
        return self.plan.sample_every(asked, beside)

    # Measuring.

    def steering(self) -> tuple[Examples, int]:
        """Validation users by whom the training is watched."""
        return self._half(0), 0

    def judging(self) -> tuple[Examples, int]:
        """Validation users by whom the gate judges, and nobody else."""
        return self._half(1), 1

    def _half(self, side: int) -> Examples:
        examples = self.world.split.valid
        order = generator(self.seed, "gate halves").permutation(len(examples))[: self.plan.gate.users]
        rows = np.sort(order[side::2])
        return Examples(users=examples.users[rows], starts=examples.starts[rows], ends=examples.ends[rows])

    def panel(self, examples: Examples, stream: int, *, most: int | None = None) -> Panel:
        """Some users with the judge."""
        rows = slice(0, most)
        return Panel(
            split=self.world.split,
            examples=Examples(users=examples.users[rows], starts=examples.starts[rows], ends=examples.ends[rows]),
            asker=self._asker(_telling(self.plan.prompts, self.plan.gate.judge), seed=self.seed),
            judge=self.judge.reward,
            list_items=self.plan.gate.list_items,
            samples=self.plan.gate.samples,
            batch_size=self.recipe.evaluation.batch_size,
            seed=derive_seed(self.seed, "panel", stream),
        )

    def _make_gate(self, bench: Workbench, aligned: TrainedModel) -> dict[str, Any]:
        panel = self.panel(*self.judging())
        start = self.trained.recommender.model
        measured: dict[str, Measures] = {}
        for name, model, drift_from in ((BEFORE, self.trained, None), ("after", aligned, start)):
            plain = without_last_word(model.recommender)
            lists = self._lists(bench, name, plain)
            measured[name] = panel.measure(plain, before=drift_from, lists=lists)
        limits, resamples = self.plan.gate.limits, self.recipe.evaluation.resamples
        verdict = judge(measured[BEFORE], measured["after"], limits, resamples=resamples)
        verdict = unless_blind(verdict, self.judge.correlations)
        (bench.target / GATE).write_text(json.dumps(verdict.to_json(), indent=2), encoding="utf-8")
        return {"promoted": verdict.promoted, "reason": verdict.reason}

    def _lists(self, bench: Workbench, name: str, plain: Recommender) -> Recommender:
        """Who makes the lists that are judged: with a last word, one that is fitted on the steering users."""
        if self.recipe.rerank is None or self.plan.gate.lists == "generator":
            return plain
        scratch = bench.scratch / name
        scratch.mkdir(exist_ok=True)
        fitted = fit_rerank(
            self.recipe,
            plain,
            examples=self.steering()[0],
            world=self.world,
            items=self.items,
            seed=self.seed,
            scratch=scratch,
        )
        return replace(plain, rerank=fitted)


@dataclass(frozen=True, eq=False)
class _Looks:
    """What the steering users show while it trains."""

    work: _Alignment
    panel: Panel
    start: nn.Module

    def look(self, model: nn.Module) -> dict[str, float]:
        """Means over users: by the judge, by the training reward, and how far the policy went."""
        recommender = make_recommender(self.work.recipe, model, self.work.items)
        measures = self.panel.measure(without_last_word(recommender), before=self.start)
        means = {name: float(values.mean()) for name, values in measures.per_user.items()}
        return {**means, "training_reward": self._training_reward(model)}

    @torch.no_grad()
    def _training_reward(self, model: nn.Module) -> float:
        """What the reward that trains says of samples for the first prompts."""
        work, seed = self.work, derive_seed(self.work.seed, "look")
        known = work.trained.recommender
        prompt = work.prompts(seed=seed % 2**31)(0)
        tensors = to_tensors({name: values for name, values in prompt.items() if is_input(name)}, known.device)
        model.eval()
        groups = work.plan.sampler.draw(model, tensors, trie=known.trie, seen=None, seed=seed)
        rewards = judged(work.reward.reward, prompt, groups)
        drawn = groups.drawn.cpu().numpy()
        return float(rewards[drawn].mean()) if drawn.any() else 0.0


class _Counted:
    """A source that knows how many steps were asked for."""

    def __init__(self, inner: RolloutSource) -> None:
        self._inner, self.done = inner, 0

    @property
    def steps_per_epoch(self) -> int:
        return self._inner.steps_per_epoch

    def __call__(self, step: int) -> Any:
        self.done = step + 1
        return self._inner(step)


def _telling(prompts: Prompts, reward: Any) -> Prompts:
    """`prompts` that tell what `reward` reads."""
    names: tuple[str, ...] = reward.names
    columns = {name.removeprefix("target_") for name in names if name.startswith("target_")}
    told = {name.removeprefix("history_") for name in names if name.startswith("history_")}
    return replace(
        prompts,
        columns=tuple(sorted({*prompts.columns, *columns})),
        told=tuple(sorted({*prompts.told, *told})),
    )
