"""Groups of whole lists: no item twice, codes that are the items', probabilities that are the model's."""

import numpy as np
import pytest
import torch
from align_world import CODES, INPUTS, TRIE, itemwise, prompts

from sememe.align.list_samples import BeamLists, DrawnLists
from sememe.core.errors import ConfigError
from sememe.decode.sessions import SessionSearch
from sememe.models.onerec import OneRec

ONEREC = OneRec(
    encoder_layers=1, decoder_layers=1, d_model=16, heads=2, head_dim=8, ff=32, experts=0, user_buckets=8, session=3
).build(INPUTS, seed=0)
ONEREC.eval()


@pytest.mark.parametrize("sampler", [BeamLists(size=6, width=8), DrawnLists(size=6)], ids=["beam", "drawn"])
def test_lists_hold_no_item_twice_and_none_that_was_seen(sampler: BeamLists | DrawnLists) -> None:
    batch = prompts()
    groups = sampler.draw(ONEREC, batch, trie=TRIE, seen=batch["history"], seed=1)
    assert groups.items.shape == (5, 6, 3) and groups.codes.shape == (5, 6, 9) and bool(groups.legal.all())
    for row, history in zip(groups.items.tolist(), batch["history"].tolist(), strict=True):
        assert all(len(set(one)) == 3 and not set(one) & set(history) for one in row)
    np.testing.assert_array_equal(groups.codes.view(5, 6, 3, 3).numpy(), CODES.matrix[groups.items.numpy()])
    assert groups.log_probs is not None and bool((groups.log_probs.diff(dim=1) <= 0).all())
    log_probs = ONEREC.sample_log_probs(batch, groups.codes).sum(2)
    torch.testing.assert_close(log_probs, groups.log_probs, atol=1e-4, rtol=1e-4)


def test_beamed_lists_are_those_of_the_search() -> None:
    batch = prompts()
    groups = BeamLists(size=4, width=8).draw(ONEREC, batch, trie=TRIE, seen=None, seed=0)
    lists = SessionSearch(width=8, lists=4).search(ONEREC, batch, k=3, trie=TRIE)
    torch.testing.assert_close(groups.items, lists.items)


def test_drawn_lists_follow_the_seed_and_the_policy() -> None:
    batch = prompts()
    first = DrawnLists(size=8).draw(ONEREC, batch, trie=TRIE, seen=None, seed=1)
    again = DrawnLists(size=8).draw(ONEREC, batch, trie=TRIE, seen=None, seed=1)
    other = DrawnLists(size=8).draw(ONEREC, batch, trie=TRIE, seen=None, seed=2)
    assert torch.equal(first.items, again.items) and not torch.equal(first.items, other.items)
    cold = DrawnLists(size=8, temperature=0.05).draw(ONEREC, batch, trie=TRIE, seen=None, seed=1)
    assert first.log_probs is not None and cold.log_probs is not None
    assert cold.log_probs.mean() > first.log_probs.mean()


def test_a_model_of_single_items_draws_no_lists() -> None:
    for sampler in (BeamLists(size=4), DrawnLists(size=4)):
        with pytest.raises(ConfigError, match="such as OneRec"):
            sampler.draw(itemwise(), prompts(), trie=TRIE, seen=None, seed=0)
