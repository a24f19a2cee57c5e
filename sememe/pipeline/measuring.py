"""What a model does for held-out users, as the gate and the looks of an alignment want to know it.

Shape legend: N users, K list places, G samples of a user, L code levels.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sememe.align.policy import log_probs_now
from sememe.align.prompts import PromptSource, held_out_places
from sememe.align.protocol import Reward
from sememe.align.rollouts import IndependentGroups, check_names, is_input
from sememe.core.schema import Batch, Int32Array
from sememe.core.seeding import derive_seed
from sememe.data.splits import Examples, Split
from sememe.pipeline.evaluate import judge as judge_lists
from sememe.pipeline.gate import KL, REWARD, Measures
from sememe.pipeline.recipe import EvaluationPlan
from sememe.pipeline.recommend import Recommender
from sememe.train.device import to_tensors

DEPTHS = (10, 50)
"""List lengths that the gate compares."""
FIRST_CODES = 10
"""Best first codes among which the target's is looked for."""

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
        found = [self._samples(recommender, prompt, before=before) for prompt in prompts]
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

    def _samples(self, recommender: Recommender, prompt: Batch, *, before: Any) -> dict[str, Float64Array]:
        """What the policy says and draws, beyond lists."""
        model, trie = recommender.model, recommender.trie
        model.eval()
        tensors = to_tensors({name: values for name, values in prompt.items() if is_input(name)}, recommender.device)
        free = self._draw(model, tensors, trie=trie, under_trie=False)
        return {
            "legality": free.legal.double().mean(1).cpu().numpy(),
            f"level1@{FIRST_CODES}": self._first_code(model, tensors, prompt, trie=trie),
            KL: self._drift(model, tensors, trie=trie, before=before),
        }

    def _draw(self, model: Any, tensors: dict[str, Tensor], *, trie: Any, under_trie: bool) -> Any:
        sampler = IndependentGroups(size=self.samples, under_trie=under_trie)
        return sampler.draw(model, tensors, trie=trie, seen=None, seed=derive_seed(self.seed, "panel"))

    def _drift(self, model: Any, tensors: dict[str, Tensor], *, trie: Any, before: Any) -> Float64Array:
        """(N,) the KL to the model before: the mean log ratio over samples of this one.

        Unbiased; the estimator that objectives use, never negative, has no bounded variance once drift is large."""
        if before is None:
            return np.zeros(len(next(iter(tensors.values()))))
        drawn = self._draw(model, tensors, trie=trie, under_trie=True)
        ours, theirs = (log_probs_now(one, tensors, drawn.codes).sum(2) for one in (model, before))
        drift: Float64Array = (ours - theirs).double().mean(1).cpu().numpy()
        return drift

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


def without_last_word(recommender: Recommender) -> Recommender:
    """The generator alone, by its own decoder."""
    return replace(recommender, rerank=None)
