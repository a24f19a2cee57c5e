"""Semantic IDs for users and items, learnt in one stage with who took what, and held apart from mere popularity.

Source: DAS, arXiv 2508.10584, CIKM 2025.
Kept: an RQ-VAE on the content of users and one on that of items; beside them a debiased collaborative model (see
`sememe.sid.debias`) and six contrasts of quantised vectors with its vectors (see `sememe.sid.views`), all trained
together: L = L_sem + alpha L_cf + align L_views, with alpha 1 and align .5.  Codes come from content alone, so that
new users and items have some; content itself is never moved.
Not stated there, so ours:
- errors and terms of the RQ-VAEs are divided by the width of the content, so that weights mean the same at any width;
- an epoch meets as many events as there are, and every distinct content at least once;
- users, or items, that lie within a window of each other in a sequence of the log were met together;
- warm-up, start and revival of codes are those of our RQ-VAE; in the warm-up the contrasts act on latents.

Shape legend: U users, I items, E events, m distinct contents of a side, L levels, latent the width of every vector.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from sememe.core.errors import ConfigError, DataError, did_you_mean
from sememe.core.schema import FloatArray, Int64Array, Interactions
from sememe.core.seeding import generator
from sememe.data.cooccurrence import cooccurrence, turned
from sememe.sid.codebook_training import CodebookTraining, Scale, train_codebooks
from sememe.sid.context import CodeContext
from sememe.sid.debias import SplitVectors, conformity_feature, popularity_feature
from sememe.sid.encode import PlainRule, Settled, VectorRule, settle_catalog
from sememe.sid.kmeans import distinct_rows
from sememe.sid.rqkmeans import check_room, check_sizes, check_vectors
from sememe.sid.rqvae import FittedRqVae, RqVae, RqVaeNet
from sememe.sid.together import Together
from sememe.sid.two_sided_training import LossPlan, Side, TwoSidedLearner
from sememe.sid.views import VIEWS, View


@dataclass(frozen=True)
class TwoSidedRqVae:
    """Fit DAS on the CPU."""

    levels: int = 3
    codebook_size: int | tuple[int, ...] = 512
    """One size for all levels, or one per level; the same for users and items."""
    hidden: tuple[int, ...] = (512, 256, 128)
    latent: int = 32
    """Width of the bottlenecks and of the collaborative vectors."""
    beta: float = 0.25
    """Weight of the commitment terms."""
    alpha: float = 1.0
    """Weight of the collaborative loss."""
    align: float = 0.5
    """Weight of each contrast; 0 leaves content alone."""
    temperature: float = 0.2
    """What the cosines of the contrasts are divided by."""
    debias: bool = True
    """Tell what is liked from what is popular, in the collaborative vectors and in the rows of the contrasts; off: one
    vector each, and negatives that are drawn evenly."""
    log_q: bool = True
    """Free the contrasts' scores from how often candidates stand in a batch; off: rows are not balanced either."""
    views: tuple[View, ...] = VIEWS
    """The contrasts."""
    window: int = 5
    """Two that lie at most so many places apart in a sequence were met together."""
    training: CodebookTraining = CodebookTraining(epochs=10, warmup_epochs=2, batch_size=512)

    def fit_in(self, vectors: FloatArray, *, context: CodeContext, seed: int) -> FittedRqVae:
        """The items' tokenizer, fitted on float32 (n, dim) and the training log; a user is the mean of what it took.

        Raises as `fit_both`.
        """
        check_vectors(vectors)
        context.check(vectors)
        return self.fit_both(
            taken_content(vectors, context.train), vectors, train=context.train, seed=seed
        ).items.tokenizer

    def fit_both(self, users: FloatArray, items: FloatArray, *, train: Interactions, seed: int) -> "FittedTwoSided":
        """Fit on the content of users (U, any width) and items (I, any width) and the training log.

        The order of users and items does not matter where their contents differ.

        Raises:
            ConfigError: settings that cannot be, or codebooks that are larger than a side.
            DataError: content that cannot be used or does not fit the log, an empty log, or a log without the pairs
                that a view asks for.
        """
        self._check()
        _check_content(users, items, train)
        sizes = check_sizes(self.levels, self.codebook_size)
        check_room(sizes, items=len(users), of="users")
        check_room(sizes, items=len(items))
        left, right = _Content.of(users), _Content.of(items)
        events = _events(train, left, right)
        popularity = popularity_feature(np.bincount(events[1], minlength=len(items)))
        conformity = conformity_feature(*events, popularity=popularity, num_users=len(users))
        ones = np.ones(events.shape[1], np.float32)
        learner = TwoSidedLearner(
            users=self._side("users", left, conformity, members=events[0], sequences=turned(train), seed=seed),
            items=self._side("items", right, popularity, members=events[1], sequences=train, seed=seed),
            events=torch.from_numpy(events),
            taken=sp.csr_matrix((ones, (events[0], events[1])), shape=(len(users), len(items))),
            plan=LossPlan(self.beta, self.alpha, self.align, self.temperature, self.debias, self.log_q, self.views),
            training=self.training,
            seed=seed,
        )
        parameters = [*learner.users.parameters(), *learner.items.parameters()]
        train_codebooks(learner, parameters, self.training, steps_per_epoch=learner.steps_per_epoch)
        return FittedTwoSided(_fitted_side(learner.users, left), _fitted_side(learner.items, right))

    def _side(
        self,
        name: str,
        content: "_Content",
        feature: FloatArray,
        *,
        members: Int64Array,
        sequences: Interactions,
        seed: int,
    ) -> Side:
        shape = RqVae(self.levels, self.codebook_size, self.hidden, self.latent)
        rng = generator(seed, "sid", "two_sided", name)
        counts = np.bincount(members, minlength=len(feature))
        asked = f"{name}_together" in self.views and self.align > 0
        pairs = self._pairs(name, content, sequences) if asked else None
        return Side(
            name=name,
            net=RqVaeNet(content.rows.shape[1], shape, rng=rng),
            inputs=content.scale.apply(content.rows),
            rows=torch.from_numpy(content.row_of),
            split=SplitVectors(feature, latent=self.latent, rng=rng),
            # Those that were never taken are never asked for.
            log_share=torch.from_numpy(np.log(np.maximum(counts, 1) / len(members)).astype(np.float32)),
            pairs=pairs,
            pair_log_share=pairs.log_shares() if pairs else torch.zeros(0),
        )

    def _pairs(self, name: str, content: "_Content", sequences: Interactions) -> Together:
        counts = cooccurrence(sequences, window=self.window, decay=1.0)
        found = Together.of(counts, content.inverse, num_rows=len(content.rows))
        if len(found) == 0:
            raise DataError(
                f"no two {name} of different content are met together in the training log",
                fix=f'give a log with longer histories, a wider window, or leave "{name}_together" out of the views',
            )
        return found

    def _check(self) -> None:
        self.training.check(owner="TwoSidedRqVae.training")
        for name in ("latent", "window"):
            if getattr(self, name) < 1:
                raise ConfigError(f"TwoSidedRqVae got {name}={getattr(self, name)}", fix="give at least 1")
        if min(self.alpha, self.align) < 0 or not self.temperature > 0:
            raise ConfigError(
                f"TwoSidedRqVae got alpha={self.alpha}, align={self.align}, temperature={self.temperature}",
                fix="give alpha >= 0, align >= 0 and temperature > 0",
            )
        for view in self.views:
            if view not in VIEWS:
                raise ConfigError(f"TwoSidedRqVae knows no view {view!r}", fix=did_you_mean(view, VIEWS))


@dataclass(frozen=True, eq=False)
class FittedSide:
    """What was learnt of users, or of items."""

    tokenizer: FittedRqVae
    """From content alone."""
    free: FloatArray
    """(members, latent): interest of each user, or properties of each item, as the log knows them."""
    bias: FloatArray
    """(members, latent): conformity of each user, or popularity of each item; means nothing without debiasing."""


@dataclass(frozen=True, eq=False)
class FittedTwoSided:
    """Tokenizers of both sides, and the collaborative vectors that they were trained with."""

    users: FittedSide
    items: FittedSide


@dataclass(frozen=True, eq=False)
class TwoSidedCodes:
    """Semantic IDs of users and of items."""

    users: Settled
    items: Settled


def two_sided_codes(
    fitted: FittedTwoSided, users: FloatArray, items: FloatArray, *, rule: PlainRule | VectorRule, seed: int
) -> TwoSidedCodes:
    """The IDs of all users (U, dim) and items (I, dim), collisions settled by `rule`.

    Raises DataError where the rule cannot tell them apart.
    """
    return TwoSidedCodes(
        settle_catalog(rule, tokenizer=fitted.users.tokenizer, vectors=users, seed=seed),
        settle_catalog(rule, tokenizer=fitted.items.tokenizer, vectors=items, seed=seed),
    )


def taken_content(vectors: FloatArray, train: Interactions) -> FloatArray:
    """float32 (U, dim): the mean vector of what each user took; zeros for users of nothing."""
    lengths = np.maximum(train.lengths(), 1).astype(np.float32)
    taken = sp.csr_matrix(
        (np.ones(train.num_events, np.float32), train.items, train.offsets), shape=(train.num_users, len(vectors))
    )
    return np.asarray((taken @ vectors) / lengths[:, None], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class _Content:
    """The content of a side, and its members in an order that goes by content."""

    rows: FloatArray
    """(m, dim) distinct vectors."""
    inverse: Int64Array
    """(members,) which of them each member has."""
    order: Int64Array
    """(members,) the members in the order of their content."""
    scale: Scale

    @classmethod
    def of(cls, vectors: FloatArray) -> "_Content":
        distinct = distinct_rows(vectors)
        return cls(
            distinct.rows, distinct.inverse, np.argsort(distinct.inverse, kind="stable"), Scale.of(distinct.rows)
        )

    @property
    def row_of(self) -> Int64Array:
        """(members,) the distinct vector of each member, in their new order."""
        return self.inverse[self.order]

    @property
    def place(self) -> Int64Array:
        """(members,) where each member went."""
        place = np.empty_like(self.order)
        place[self.order] = np.arange(len(place))
        return place


def _events(train: Interactions, users: _Content, items: _Content) -> Int64Array:
    """(2, E) who took what, both by their new places, in ascending order."""
    left, right = users.place[train.users()], items.place[train.items]
    order = np.lexsort((right, left))
    return np.stack([left[order], right[order]])


def _fitted_side(side: Side, content: _Content) -> FittedSide:
    with torch.no_grad():
        split = side.split.of(torch.from_numpy(content.place))
    tokenizer = FittedRqVae(side.net.eval(), mean=content.scale.mean, scale=content.scale.spread)
    return FittedSide(tokenizer, split.free.numpy(), split.bias.numpy())


def _check_content(users: FloatArray, items: FloatArray, train: Interactions) -> None:
    for name, vectors, known in (("user", users, train.num_users), ("item", items, train.num_items)):
        check_vectors(vectors, of=name)
        if len(vectors) != known:
            raise DataError(
                f"there are {len(vectors)} {name} vectors, and the log knows {known} {name}s",
                fix=f"give one row of vectors per {name} of the log",
            )
    if train.num_events == 0:
        raise DataError("the training log has no event", fix="give a log, or use a tokenizer that reads content alone")
