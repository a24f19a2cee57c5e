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


def test_drawn_lists_are_as_frequent_as_the_policy_says() -> None:
    """First items, and second ones after the likeliest first, of 20,000 draws, against enumeration code by code: the
    trie leaves what leads to an item that is not listed yet."""
    batch = {name: values[:1] for name, values in prompts().items()}
    drawn = DrawnLists(size=20_000).draw(ONEREC, batch, trie=TRIE, seen=None, seed=3).items[0]
    first = torch.bincount(drawn[:, 0], minlength=len(CODES.matrix))
    likeliest = int(first.argmax())
    second = torch.bincount(drawn[drawn[:, 0] == likeliest, 1], minlength=len(CODES.matrix))
    for counts, listed in ((first, []), (second, [likeliest])):
        chances = next_item_chances(batch, listed)
        errors = (chances * (1 - chances) / counts.sum()).sqrt()
        assert counts.sum() > 500 and chances.sum().item() == pytest.approx(1.0, abs=1e-5)
        assert bool(((counts / counts.sum() - chances).abs() <= 4.5 * errors + 1e-9).all())


def next_item_chances(batch: dict[str, torch.Tensor], listed: list[int]) -> torch.Tensor:
    """(I,) chance of each item to be written after `listed`, each code among those that lead to an open item."""
    matrix = torch.from_numpy(CODES.matrix).long()
    before = matrix[listed].flatten().expand(1, len(matrix), -1)
    samples = torch.cat([before, matrix.unsqueeze(0)], 2)
    with torch.no_grad():
        levels = ONEREC.sample_log_probs(batch, samples)[0, :, before.shape[2] :].exp()
    is_open = torch.ones(len(matrix), dtype=torch.bool)
    is_open[listed] = False
    chances = is_open.double()
    for level in range(matrix.shape[1]):
        for item in is_open.nonzero().flatten().tolist():
            beside = is_open & (matrix[:, :level] == matrix[item, :level]).all(1)
            codes = {int(matrix[other, level]): levels[other, level] for other in beside.nonzero().flatten()}
            chances[item] *= levels[item, level] / sum(codes.values())
    return chances


def test_a_model_of_single_items_draws_no_lists() -> None:
    for sampler in (BeamLists(size=4), DrawnLists(size=4)):
        with pytest.raises(ConfigError, match="such as OneRec"):
            sampler.draw(itemwise(), prompts(), trie=TRIE, seen=None, seed=0)
