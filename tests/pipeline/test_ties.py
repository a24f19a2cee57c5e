"""Items that share all their codes, through the evaluation that every model goes through: nobody is told apart by luck.

Item 3 comes first, then the three items 0, 1, 2 of one semantic ID, then 4 and 5 of another.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from sememe.core.schema import Codes, Interactions
from sememe.data.splits import LeaveOneOut, Split
from sememe.decode.beam import BeamSearch
from sememe.decode.exact import ExactCodes
from sememe.decode.trie import Trie
from sememe.pipeline.evaluate import judge
from sememe.pipeline.recipe import EvaluationPlan
from sememe.pipeline.recommend import Recommender
from sememe.sid.collisions import CollisionToken, KeepTied

SEMANTIC = np.array([[0, 0], [0, 0], [0, 0], [0, 1], [1, 0], [1, 0]], np.int32)
PLAN = EvaluationPlan(ks=(1, 2, 3), batch_size=4)
GAIN = [1.0, 1 / math.log2(3), 0.5]
"""Of the first three places in NDCG."""


class FixedSteps(torch.nn.Module):
    """Writes codes with probabilities that do not depend on the history."""

    def __init__(self, codebook_sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.codebook_sizes = codebook_sizes
        self.level = 0

    def encode(self, batch: Mapping[str, Tensor]) -> int:
        self.level = 0
        return len(batch["history"])

    def step(self, state: int, codes: Tensor | None, parents: Tensor | None) -> Tensor:
        tables = [[[0.8, 0.2]], [[0.25, 0.75], [0.9, 0.1]]]
        if codes is None:
            chances = torch.tensor(tables[0]).expand(state, 1, 2)
        elif self.level == 1:
            chances = torch.tensor(tables[1])[codes]
        else:  # the token: every number is as likely
            chances = torch.full((*codes.shape, self.codebook_sizes[2]), 1 / self.codebook_sizes[2])
        self.level += 1
        return chances.log()


def world(*targets: int) -> Split:
    """One user per test target, each of whom took items 5, 4 and 0 before, validation's item among them."""
    histories = [[5, 4, 0, target] for target in targets]
    return LeaveOneOut().split(
        Interactions(
            offsets=np.arange(len(histories) + 1) * 4,
            items=np.array(histories, np.int32).ravel(),
            user_ids=pl.Series(range(len(histories))),
            item_ids=pl.Series(range(6)),
        )
    )


def judged(codes: Codes, decode: Any, *, targets: tuple[int, ...], mask_seen: bool) -> Mapping[str, np.ndarray]:
    recommender = Recommender(
        model=FixedSteps(codes.codebook_sizes),
        decode=decode,
        trie=Trie.build(codes),
        max_history=8,
        device=torch.device("cpu"),
    )
    split = world(*targets)
    return judge(recommender, split, PLAN, examples=split.test, mask_seen=mask_seen).per_row


TIED = KeepTied().resolve(SEMANTIC, (2, 2))
every_decoder = pytest.mark.parametrize("decode", [BeamSearch(width=1), BeamSearch(width=6), ExactCodes()])


@every_decoder
def test_each_of_three_tied_items_gets_the_mean_over_their_orders(decode: Any) -> None:
    found = judged(TIED, decode, targets=(0, 1, 2, 3), mask_seen=False)
    for row in range(3):
        # Places 2, 3 and 4, each with a chance of a third.
        assert found["recall@1"][row] == 0
        assert found["recall@2"][row] == pytest.approx(1 / 3)
        assert found["recall@3"][row] == pytest.approx(2 / 3)
        assert found["ndcg@3"][row] == pytest.approx((GAIN[1] + GAIN[2]) / 3)
        assert found["mrr@3"][row] == pytest.approx((1 / 2 + 1 / 3) / 3)
    assert found["recall@1"][3] == found["ndcg@3"][3] == 1


@every_decoder
def test_items_that_were_seen_leave_the_tie(decode: Any) -> None:
    found = judged(TIED, decode, targets=(1, 2, 0), mask_seen=True)
    for row in range(2):  # item 0 is out: places 2 and 3 are left to items 1 and 2
        assert found["recall@2"][row] == pytest.approx(1 / 2)
        assert found["ndcg@2"][row] == pytest.approx(GAIN[1] / 2)
        assert found["recall@3"][row] == pytest.approx(1)
        assert found["mrr@3"][row] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert found["recall@3"][2] == 0


def test_a_list_that_ends_inside_a_tie_is_read_to_its_end() -> None:
    """Item 2 is the last of its tie by index, and a list of two would never hold it."""
    found = judged(TIED, BeamSearch(width=2), targets=(2,), mask_seen=False)
    assert found["recall@2"].tolist() == pytest.approx([1 / 3])


def test_a_token_that_the_model_cannot_tell_is_a_tie_all_the_same() -> None:
    numbered = CollisionToken(size=3).resolve(SEMANTIC, (2, 2))
    told = judged(numbered, ExactCodes(), targets=(0, 1, 2), mask_seen=False)
    tied = judged(TIED, ExactCodes(), targets=(0, 1, 2), mask_seen=False)
    for name, values in tied.items():
        np.testing.assert_allclose(told[name], values, atol=1e-12)
