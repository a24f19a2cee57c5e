"""The drift of a policy against enumeration."""

import torch

from sememe.core.schema import ModelInputs
from sememe.data.simulator import PlantedWorld
from sememe.decode.exact import ExactCodes
from sememe.decode.trie import Trie
from sememe.models.depth import Depth
from sememe.models.itemwise import ItemWise, ItemWiseModel
from sememe.nn.trunk import Trunk
from sememe.pipeline.measuring import policy_kl

WORLD = PlantedWorld(branching=(3, 3), items_per_leaf=3, num_users=10).generate(seed=0)
CODES = WORLD.codes()


def model(seed: int) -> ItemWiseModel:
    part = ItemWise(trunk=Trunk(layers=1, d_model=16, ff=32, dropout=0.0, max_history=8), depth=Depth(hidden=16))
    return part.build(ModelInputs(10, 27, CODES, WORLD.catalog.vectors), seed=seed).eval()


def test_the_kl_of_two_policies_is_that_of_their_items() -> None:
    """Prefixes are drawn from the policy: 20,000 of them leave little to chance."""
    policy, reference = model(1), model(2)
    batch = {"history": torch.tensor([[3, 8]]), "lengths": torch.tensor([2]), "user": torch.tensor([0])}
    trie = Trie.build(CODES)
    ours, theirs = (ExactCodes().score_items(one, batch, trie=trie)[0] for one in (policy, reference))
    wanted = (ours.exp() * (ours - theirs)).sum()
    drawn = torch.multinomial(ours.exp(), 20_000, replacement=True, generator=torch.Generator().manual_seed(0))
    codes = torch.from_numpy(CODES.matrix).long()[drawn].unsqueeze(0)
    found = policy_kl(policy, reference, batch, codes)
    assert wanted > 0.1 and abs(found.item() - wanted.item()) < 0.02 * wanted.item()
    assert policy_kl(policy, policy, batch, codes).item() == 0.0
