"""What is trained where users and items get semantic IDs together: two autoencoders, who took what, and the contrasts.

Source: DAS, arXiv 2508.10584; see `sememe.sid.two_sided`.

Shape legend: U users, I items, E events, m distinct contents of a side, n events of a batch, N pairs, latent the width
of every vector.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from sememe.core.seeding import derive_seed, generator
from sememe.nn.quantize import Quantized, straight_through
from sememe.sid.codebook_training import CodebookTraining, in_blocks, revive_dead_codes, start_codebooks
from sememe.sid.debias import Split, SplitVectors, debiased_loss, plain_loss
from sememe.sid.rqvae import RqVaeNet, rqvae_loss
from sememe.sid.together import Together
from sememe.sid.views import Candidates, View, contrast, contrast_pairs


@dataclass(frozen=True, eq=False)
class Side:
    """Users or items in training."""

    name: str
    net: RqVaeNet
    inputs: Tensor
    """(m, dim) the distinct contents, standardised."""
    rows: Tensor
    """int64 (members,) which of them each member has."""
    split: SplitVectors
    log_share: Tensor
    """(members,) log of the chance that an event is of this member."""
    pairs: Together | None
    """Contents whose members were met together; None where nobody asks."""
    pair_log_share: Tensor
    """(m,) log of the chance that a place in a drawn pair holds this content; empty where nobody asks."""

    def parameters(self) -> list[nn.Parameter]:
        """Of the network and the collaborative vectors."""
        return [*self.net.parameters(), *self.split.parameters()]

    def latents(self) -> Tensor:
        """(m, latent)"""
        return in_blocks(self.net.encoder, self.inputs)


@dataclass(frozen=True, eq=False)
class SideBatch:
    """What a step asks of one side."""

    sweep: Tensor
    """(k,) contents to rebuild; an epoch meets each at least once."""
    members: Tensor
    """(n,) of the events."""
    pairs: Tensor
    """(2 N,) contents met together, k with k + N; none where nobody asks."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One step."""

    users: SideBatch
    items: SideBatch
    even: Tensor
    """(n,) an item for each event, each as likely as any other."""
    popular: Tensor
    """(n,) an item for each event, each as likely as it is taken."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """What a side's network makes of a batch."""

    loss: Tensor
    """Scalar: error of the sweep and what the choice of its codes adds, per dimension of the content."""
    members: Tensor
    """(n, latent)"""
    pairs: Tensor
    """(2 N, latent)"""


@dataclass(frozen=True)
class LossPlan:
    """How the parts of the loss are put together; see `sememe.sid.two_sided.TwoSidedRqVae`."""

    beta: float
    alpha: float
    align: float
    temperature: float
    debias: bool
    log_q: bool
    views: tuple[View, ...]


@dataclass(frozen=True, eq=False)
class TwoSidedLearner:
    """Both sides and the log between them."""

    users: Side
    items: Side
    events: Tensor
    """int64 (2, E) who took what."""
    taken: sp.csr_matrix
    """(U, I) positive where a user took an item."""
    plan: LossPlan
    training: CodebookTraining
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps that meet as many events as there are."""
        return -(-self.events.shape[1] // self.training.batch_size)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Events with replacement, each as likely as any other; contents in random order."""
        size, num_events = self.training.batch_size, self.events.shape[1]
        rng = generator(self.seed, "sid", "two_sided", "batches", epoch)
        sweeps = [self._sweep(len(side.inputs), rng) for side in (self.users, self.items)]
        for user_sweep, item_sweep in zip(*sweeps, strict=True):
            users, items = self.events[:, torch.from_numpy(rng.integers(0, num_events, size))]
            popular = self.events[1, torch.from_numpy(rng.integers(0, num_events, size))]
            even = torch.from_numpy(rng.integers(0, len(self.items.rows), size))
            yield Batch(
                users=self._side_batch(self.users, user_sweep, users, rng),
                items=self._side_batch(self.items, item_sweep, items, rng),
                even=even,
                popular=popular,
            )

    def _sweep(self, count: int, rng: np.random.Generator) -> list[Tensor]:
        """The numbers below `count` in random order, over and over, dealt out to the steps of an epoch."""
        steps = self.steps_per_epoch
        size = max(-(-count // steps), min(count, self.training.batch_size // 4))
        rounds = -(-size * steps // count)
        order = torch.from_numpy(np.concatenate([rng.permutation(count) for _ in range(rounds)]))
        return list(order[: size * steps].reshape(steps, size))

    def _side_batch(self, side: Side, sweep: Tensor, members: Tensor, rng: np.random.Generator) -> SideBatch:
        nothing = torch.zeros(0, dtype=torch.int64)
        # Half a batch of pairs is a batch of vectors.
        pairs = side.pairs.draw(max(1, self.training.batch_size // 2), rng).ravel() if side.pairs else nothing
        return SideBatch(sweep, members, pairs)

    def warm_loss(self, batch: Batch) -> Tensor:
        """The loss with latents in place of codes."""
        return self._loss(batch, quantized=False)

    def start(self) -> None:
        """Put the codebooks of both sides where the residuals are."""
        for side in (self.users, self.items):
            seed = derive_seed(self.seed, "sid", "two_sided", side.name)
            start_codebooks(side.net.codebooks, side.latents().numpy(), seed=seed)

    def loss(self, batch: Batch) -> Tensor:
        """Errors and codes of both sides, the collaborative loss and the contrasts; scalar."""
        return self._loss(batch, quantized=True)

    def end_epoch(self, *, revive: bool) -> None:
        """Move codes that nothing chose."""
        for side in (self.users, self.items):
            if revive:
                revive_dead_codes(side.net.codebooks, side.latents())
            side.net.codebooks.forget()

    def _loss(self, batch: Batch, *, quantized: bool) -> Tensor:
        user_vectors, item_vectors = (
            self._vectors(side, asked, quantized=quantized)
            for side, asked in ((self.users, batch.users), (self.items, batch.items))
        )
        users, items = self.users.split.of(batch.users.members), self.items.split.of(batch.items.members)
        even = self.items.split.of(batch.even)
        collaborative = (
            debiased_loss(users, items, even=even, popular=self.items.split.of(batch.popular))
            if self.plan.debias
            else plain_loss(users, items, even=even)
        )
        loss = user_vectors.loss + item_vectors.loss + self.plan.alpha * collaborative
        for view in self.plan.views if self.plan.align else ():
            seen = self._view(view, batch, vectors=(user_vectors, item_vectors), splits=(users, items))
            loss = loss + self.plan.align * seen
        return loss

    def _vectors(self, side: Side, asked: SideBatch, *, quantized: bool) -> Vectors:
        net, count = side.net, len(asked.sweep)
        rows = torch.cat([asked.sweep, side.rows[asked.members], asked.pairs])
        x, z = side.inputs[asked.sweep], net.encoder(side.inputs[rows])
        if quantized:
            found: Quantized = net.codebooks(z)
            net.codebooks.note(found)
            own = found.first(count)
            x_hat = net.decode_quantized(z[:count], own.chosen.sum(dim=0))
            loss = rqvae_loss(x, x_hat, net.codebooks.terms(own, beta=self.plan.beta))
            # Straight through: a contrast of latents could be met without any code changing.
            z = straight_through(z, found.chosen.sum(dim=0))
        else:
            loss = (x - net.decoder(z)[:count]).square().sum(dim=1).mean()
        ends = count + len(asked.members)
        return Vectors(loss / x.shape[1], z[count:ends], z[ends:])

    def _view(
        self, view: View, batch: Batch, *, vectors: tuple[Vectors, Vectors], splits: tuple[Split, Split]
    ) -> Tensor:
        """One contrast; scalar.  vectors, splits: of users, of items."""
        sides, asked = (self.users, self.items), (batch.users, batch.items)
        here, there = 0 if view.startswith("user") else 1, 0 if view.endswith("user") else 1
        if view.endswith("together"):
            side, pairs = sides[here], asked[here].pairs
            assert side.pairs is not None, "a view of pairs has pairs"
            candidates = self._candidates(side.pairs.met(pairs, pairs), side.pair_log_share[pairs])
            return contrast_pairs(vectors[here].pairs, candidates, temperature=self.plan.temperature)
        members = asked[there].members
        # A user or item is no negative of itself where a batch holds it twice.
        belong = self._taken(batch, here=here) if here != there else members.unsqueeze(1) == members
        candidates = self._candidates(belong, sides[there].log_share[members])
        return contrast(vectors[here].members, splits[there].free, candidates, temperature=self.plan.temperature)

    def _taken(self, batch: Batch, *, here: int) -> Tensor:
        """bool (n, n): whether the user of a row took the item of a column; the other way round for items."""
        cells = self.taken[batch.users.members.numpy()][:, batch.items.members.numpy()]
        taken = torch.from_numpy(cells.toarray() > 0)
        return taken if here == 0 else taken.T

    def _candidates(self, belong: Tensor, log_q: Tensor) -> Candidates:
        return Candidates(belong, log_q if self.plan.log_q else None, balanced=self.plan.debias)
