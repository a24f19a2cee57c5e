"""What a model does for held-out users, as the gate and the looks of an alignment want to know it.

Shape legend: N users, K list places, G samples of a user, L code levels.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sememe.align.prompts import PromptSource, held_out_places
from sememe.align.protocol import Reward
from sememe.align.rollouts import IndependentGroups, check_names, is_input
from sememe.core.schema import Batch, Int32Array
from sememe.core.seeding import derive_seed
from sememe.data.splits import Examples, Split
from sememe.decode.protocol import TensorBatch
from sememe.pipeline.evaluate import judge as judge_lists
from sememe.pipeline.gate import KL, REWARD, Measures
from sememe.pipeline.recipe import EvaluationPlan
from sememe.pipeline.recommend import Recommender
from sememe.train.device import to_tensors

DEPTHS = (10, 50)
"""List lengths that the gate compares."""
FIRST_CODES = 10
"""Best first codes among which the target's is looked for."""

LARGEST_GAP = 100.0
"""Nats of a code that the reference gives no chance."""

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Panel:
    """Held-out users and who judges what they get."""

    split: Split
    examples: Examples
    asker: PromptSource
    """Says what is told of a request, beside its history."""
    judge: Reward
    list_items: int
    samples: int
    batch_size: int
    seed: int

    def measure(self, recommender: Recommender, *, before: Any = None, lists: Recommender | None = None) -> Measures:
        """recommender: the generator; `lists` says whose lists are judged, its own where None.

        before: the network from which drift is measured; None: there is none.
        """
        listed = self._lists(lists or recommender)
        prompts = list(self._prompts())
        found = [
            self._samples(recommender, prompt, before=before, number=number) for number, prompt in enumerate(prompts)
        ]
        rewards = [
            self._rewards(prompt, listed.items[rows]) for prompt, rows in zip(prompts, self._rows(), strict=True)
        ]
        per_user = {
            REWARD: np.concatenate(rewards),
            **{name: listed.per_row[name] for name in listed.per_row if name.split("@")[0] in ("ndcg", "recall")},
            **{name: np.concatenate([part[name] for part in found]) for name in found[0]},
        }
        return Measures(per_user=per_user, lists=listed.items, num_items=self.split.interactions.num_items)

    def _lists(self, recommender: Recommender) -> "_Listed":
        plan = EvaluationPlan(ks=DEPTHS, batch_size=self.batch_size)
        judged = judge_lists(recommender, self.split, plan, examples=self.examples, mask_seen=True)
        return _Listed(judged.ranked.items, dict(judged.per_row))

    def _rows(self) -> list[slice]:
        return [slice(start, start + self.batch_size) for start in range(0, len(self.examples), self.batch_size)]

    def _prompts(self) -> list[dict[str, Any]]:
        log = self.split.interactions
        places = held_out_places(log, self.examples)
        return [self.asker.ask(log, places[rows]) for rows in self._rows()]

    def _rewards(self, prompt: Batch, items: Int32Array) -> Float64Array:
        check_names(self.judge, prompt)
        return self.judge.score(prompt, items[:, None, : self.list_items])[:, 0].astype(np.float64)

    def _samples(self, recommender: Recommender, prompt: Batch, *, before: Any, number: int) -> dict[str, Float64Array]:
        """What the policy says and draws, beyond lists: one item, the first where a model writes lists."""
        model, trie = recommender.model, recommender.trie
        for network in (model, before):
            if network is not None:
                network.eval()
        tensors = to_tensors({name: values for name, values in prompt.items() if is_input(name)}, recommender.device)
        sampler = IndependentGroups(size=self.samples, under_trie=False)
        # Draws of their own for every batch: intervals take users for independent.
        free = sampler.draw(model, tensors, trie=trie, seen=None, seed=derive_seed(self.seed, "panel", number))
        drift = torch.zeros(len(free.drawn)) if before is None else policy_kl(model, before, tensors, free.codes)
        return {
            "legality": free.legal.double().mean(1).cpu().numpy(),
            f"level1@{FIRST_CODES}": self._first_code(model, tensors, prompt, trie=trie),
            KL: drift.double().cpu().numpy(),
        }

    @torch.no_grad()
    def _first_code(self, model: Any, tensors: dict[str, Tensor], prompt: Batch, *, trie: Any) -> Float64Array:
        """(N,) whether the target's first code is among the model's best."""
        log_probs = model.step(model.encode(tensors), None, None)[:, 0]
        best = log_probs.topk(min(FIRST_CODES, log_probs.shape[1]), dim=1).indices
        targets = torch.from_numpy(np.asarray(prompt["target"])).long().to(trie.device)
        codes = trie.child_codes[0][trie.node_at(trie.positions[targets], depth=1)].long()
        found: Float64Array = (best == codes.unsqueeze(1)).any(1).double().cpu().numpy()
        return found


@dataclass(frozen=True, eq=False)
class _Listed:
    items: Int32Array
    per_row: dict[str, Float64Array]


@torch.no_grad()
def policy_kl(policy: Any, reference: Any, batch: TensorBatch, codes: Tensor) -> Tensor:
    """(N,) KL(policy || reference) in nats: summed over the codes of each level, averaged over prefixes that `policy`
    drew, the first codes of `codes` (N, G, L).  Unbiased, never negative, and steady however large the drift is."""
    states = [model.encode(batch) for model in (policy, reference)]
    group = codes.shape[1]
    total = torch.zeros(len(codes), device=codes.device)
    for level in range(codes.shape[2]):
        told: tuple[Tensor | None, Tensor | None] = (None, None)
        if level:
            own = torch.arange(group, device=codes.device) * (level > 1)
            told = codes[:, :, level - 1], own.expand(len(codes), -1)
        ours, theirs = (model.step(state, *told) for model, state in zip((policy, reference), states, strict=True))
        gaps = (ours - theirs).clamp(max=LARGEST_GAP).masked_fill(ours == -torch.inf, 0.0)
        total += (ours.exp() * gaps).sum(2).mean(1)
    return total


def without_last_word(recommender: Recommender) -> Recommender:
    """The generator alone, by its own decoder."""
    return replace(recommender, rerank=None)
