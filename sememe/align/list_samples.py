"""Groups of whole lists, for generators that write a session item after item.

OneRec (arXiv 2502.18965) beams its candidates: `BeamLists`.  `DrawnLists` draws each list from the policy, item after
item under the trie, without an item twice.  Log-probabilities of a list are those of its codes given what is before
them; that listed items were left out of the draw does not enter them.

Shape legend: N rows, G lists of a row, M = N * G, S items of a list, j of them written, L code levels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sememe.align.protocol import Groups
from sememe.align.rollouts import check_size, codes_of_items
from sememe.core.errors import ConfigError
from sememe.core.schema import PAD
from sememe.decode.eligible import Eligible
from sememe.decode.frontier import NEVER, Beams, children_of
from sememe.decode.protocol import TensorBatch
from sememe.decode.sessions import NextItem, SessionSearch
from sememe.decode.trie import Trie


@dataclass(frozen=True)
class BeamLists:
    """The `size` most probable lists that a search keeps."""

    size: int = 16
    width: int = 16
    """Prefixes of an item that are kept; as many as lists, or more."""

    def draw(self, policy: Any, batch: TensorBatch, *, trie: Trie, seen: Tensor | None, seed: int) -> Groups:
        """As `Sampler.draw`; the same for every seed."""
        del seed
        check_size(self.size)
        search = SessionSearch(width=max(self.width, self.size), lists=self.size)
        found = search.search(policy, batch, k=1, trie=trie, seen=seen)
        return _groups(found.items.clone(), found.total.clone(), trie=trie)


@dataclass(frozen=True)
class DrawnLists:
    """`size` lists drawn independently of each other."""

    size: int = 16
    temperature: float = 1.0

    @torch.no_grad()
    def draw(self, policy: Any, batch: TensorBatch, *, trie: Trie, seen: Tensor | None, seed: int) -> Groups:
        """As `Sampler.draw`; in the order of their probability."""
        check_size(self.size)
        if not self.temperature > 0 or not hasattr(policy, "open_list"):
            raise ConfigError(
                f"lists are drawn at temperature {self.temperature} from {type(policy).__name__}",
                fix="set temperature above 0, and draw lists from a generator that writes them, such as OneRec",
            )
        steps = NextItem(policy, policy.read(batch))
        noise = torch.Generator(device=trie.device).manual_seed(seed % 2**63)
        rows = len(next(iter(batch.values())))
        row = torch.arange(rows, device=trie.device).repeat_interleave(self.size)
        listed = torch.empty(len(row), 0, dtype=torch.long, device=trie.device)
        total = torch.zeros(len(row), device=trie.device)
        for _ in range(policy.session):
            closed = listed if seen is None else torch.cat([seen[row], listed], 1)
            item, gain = self._item(steps, row, listed, closed=closed, trie=trie, noise=noise)
            listed, total = torch.cat([listed, item.unsqueeze(1)], 1), total + gain
        total = total.view(rows, -1)
        order = total.sort(dim=1, descending=True, stable=True).indices
        items = listed.view(rows, self.size, -1)
        items = items.gather(1, order.unsqueeze(2).expand_as(items))
        return _groups(items, total.gather(1, order), trie=trie)

    def _item(
        self,
        steps: NextItem,
        row: Tensor,
        listed: Tensor,
        *,
        closed: Tensor,
        trie: Trie,
        noise: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """The next item of each list (M,), PAD where there is none left, and its log-probability (M,)."""
        state = steps.encode({"row": row, "listed": listed})
        eligible = Eligible.build(trie, seen=closed if closed.shape[1] else None, allowed=None, num_rows=len(row))
        beams = Beams.at_root(len(row), device=trie.device)
        codes: Tensor | None = None
        for depth in range(trie.num_levels):
            parents = None if codes is None else torch.zeros_like(codes)
            log_probs = steps.step(state, codes, parents)
            below = children_of(beams, depth=depth, trie=trie)
            open_to = log_probs.gather(2, below.codes).masked_fill(below.missing, NEVER)
            open_to = eligible.close(open_to, beams, depth=depth)
            uniform = torch.empty(open_to.shape, dtype=torch.float64, device=trie.device)
            gumbel = -uniform.exponential_(generator=noise).log()
            place = (open_to.double() / self.temperature + gumbel).argmax(2, keepdim=True)
            codes = below.codes.gather(2, place).squeeze(2)
            nodes = trie.child_starts[depth][beams.nodes].long() + place.squeeze(2)
            beams = Beams(
                nodes=nodes.clamp(max=len(trie.child_codes[depth]) - 1),
                scores=beams.scores + open_to.gather(2, place).squeeze(2),
            )
        position = trie.first_position(beams.nodes[:, 0], depth=trie.num_levels).long()
        alive = beams.scores[:, 0] > NEVER
        return torch.where(alive, trie.items[position].long(), PAD), beams.scores[:, 0].masked_fill(~alive, 0.0)


def _groups(items: Tensor, log_probs: Tensor, *, trie: Trie) -> Groups:
    """Groups of lists `items` (N, G, S)."""
    return Groups(items, codes_of_items(items, trie=trie).flatten(2), (items != PAD).any(2), log_probs)
