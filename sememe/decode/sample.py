"""Lists drawn at random from what the generator would write, without replacement: stochastic beam search.

Kool, van Hoof and Welling, "Stochastic Beams and Where to Find Them: The Gumbel-Top-k Trick for Sampling Sequences
Without Replacement" (ICML 2019, arXiv 1903.06059).  A prefix is ranked by its log-probability plus Gumbel noise, its
perturbed score; the noise of its continuations is conditioned on their maximum being that score (section 4.1), so that
a prefix stands for the best item below it, and k beams find exactly the k items that noise on every item of the
catalogue would put first: the first is a draw from the distribution, each next one a draw from what is left.

The distribution, level by level: among the codes by which some eligible item continues, p ** (1 / temperature),
normalised; of these the fewest codes, most probable first, whose mass reaches `top_p`, normalised again.  Changed: only
codes that lead to an item are ever drawn; the root's noise is drawn too, where the paper's algorithm starts from 0, so
that the perturbed score of an item is a Gumbel number located at its log-probability; the noise is a function of seed,
user, history and codes (see `noise`), so that a request gets the same list alone, in a batch and tomorrow.

Temperature 0 is beam search.  It is no limit of small temperatures: those write the most probable code at each level,
where a beam can find that a less probable first code leads to a more probable item.

Shape legend: N rows, B live beams, W widest child range among them, k listed items.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Ranked
from sememe.decode.allowed import Allowed
from sememe.decode.beam import BeamSearch, Found, list_items
from sememe.decode.eligible import Eligible
from sememe.decode.frontier import NEVER, Beams, Kept, children_of, keep_best
from sememe.decode.noise import child_keys, gumbel, row_keys
from sememe.decode.protocol import Seen, StepModel, TensorBatch
from sememe.decode.trie import Trie

LOWEST, HIGHEST = 1e-6, 1e6
"""Temperatures beyond these are no different, and numbers get lost."""

ROUNDING = 1e-6
"""Share of `top_p` by which a sum of fp32 probabilities may miss it and still count as reaching it."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Drawn lists with what is known of each item."""

    found: Found
    """The lists; their scores are the perturbed ones."""
    log_probs: Tensor
    """(N, k) fp32: what the generator gives to the item's codes, the score that `BeamSearch` would list it with; -inf
    where the list has ended, as below."""
    draw_log_probs: Tensor
    """(N, k) fp32: log-probability of the item's codes in the distribution drawn from, to be the first of the list."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """Live hypotheses of one depth and what is carried along with them, (N, B) each."""

    beams: Beams
    """Their scores are the perturbed ones, fp64."""
    keys: Tensor
    """int64, of the noise."""
    log_probs: Tensor
    """fp32"""
    draw_log_probs: Tensor
    """fp64"""


@dataclass(frozen=True, eq=False)
class Grown:
    """The children of all hypotheses of one depth, (N, B, W) each, as `Drawing` has them."""

    perturbed: Tensor
    keys: Tensor
    log_probs: Tensor
    draw_log_probs: Tensor

    def keep(self, kept: Kept) -> Drawing:
        """The hypotheses that `kept` chose among them."""

        def chosen(values: Tensor) -> Tensor:
            return values.flatten(1).gather(1, kept.columns)

        return Drawing(
            beams=kept.beams,
            keys=chosen(self.keys),
            log_probs=chosen(self.log_probs),
            draw_log_probs=chosen(self.draw_log_probs),
        )


@dataclass(frozen=True)
class Sampled:
    """Recommend by drawing semantic IDs without replacement; items that share one are listed together, tied.

    The score of an item is its perturbed log-probability, which orders the list; `draw` tells the log-probabilities.
    """

    temperature: float = 1.0
    """Below 1 closer to the most probable items, above 1 more even; 0 is `BeamSearch(width)`."""
    level_temperatures: tuple[float, ...] | None = None
    """One factor of the temperature for each level of codes; None is 1 everywhere."""
    top_p: float = 1.0
    """At each level only the most probable codes that have this mass together; a list can end early for it."""
    width: int = 20
    """Beams, or k where that is more.  A draw is exact with k of them; the same number for every k keeps the last bits
    of a model's answer, and so a shorter list the head of a longer one."""
    seed: int = 0
    """Another one draws other lists; with the same one, a list changes only with its user and history."""

    def recommend(
        self, model: StepModel, batch: TensorBatch, *, k: int, trie: Trie, seen: Seen = None, allowed: Allowed = None
    ) -> Ranked:
        """Up to k items per row that `allowed` holds and `seen` (N, S) does not, as if the trie had never held others.

        Raises:
            ConfigError: a setting is out of its range.
            DataError: `allowed` is of another tree.
        """
        self._levels(trie)
        if self.temperature == 0.0:
            return BeamSearch(width=self.width).recommend(model, batch, k=k, trie=trie, seen=seen, allowed=allowed)
        drawn = self.draw(model, batch, k=k, trie=trie, seen=seen, allowed=allowed)
        return drawn.found.to_ranked(source="sample:code_log_prob")

    def describe(self) -> str:
        """How lists come about, in a line."""
        if self.temperature == 0.0:
            return BeamSearch(width=self.width).describe()
        levels = "" if self.level_temperatures is None else f" times {self.level_temperatures} by level"
        mass = "" if self.top_p == 1.0 else f", top-p {self.top_p:g}"
        return f"drawn by code score at temperature {self.temperature:g}{levels}{mass}"

    @torch.inference_mode()
    def draw(
        self, model: StepModel, batch: TensorBatch, *, k: int, trie: Trie, seen: Seen = None, allowed: Allowed = None
    ) -> Drawn:
        """The lists of `recommend` in tensors, on the trie's device, with the log-probabilities of their items.

        Raises:
            ConfigError: a setting is out of its range, or the temperature is 0, at which nothing is drawn.
        """
        temperatures = self._levels(trie)
        if self.temperature == 0.0:
            raise ConfigError("nothing is drawn at temperature 0", fix="set it above 0, or search with BeamSearch")
        assert self.width >= 1 and k >= 1, "a draw keeps and lists at least one"
        assert not getattr(model, "training", False), "dropout is on: call model.eval() before drawing"
        assert tuple(model.codebook_sizes) == trie.codebook_sizes, "the trie and the model come from different codes"
        eligible = Eligible.build(trie, seen=seen, allowed=allowed, num_rows=len(next(iter(batch.values()))))
        drawing = _start(row_keys(batch, seed=self.seed).to(trie.device))
        state = model.encode(batch)
        codes: Tensor | None = None
        parents: Tensor | None = None
        for depth, temperature in enumerate(temperatures):
            below = children_of(drawing.beams, depth=depth, trie=trie)
            log_probs = model.step(state, codes, parents).gather(2, below.codes).masked_fill_(below.missing, NEVER)
            log_probs = eligible.close(log_probs, drawing.beams, depth=depth)
            chances = level_distribution(log_probs, temperature=temperature, top_p=self.top_p)
            grown = _grow(drawing, below.codes, log_probs=log_probs, chances=chances)
            kept = keep_best(grown.perturbed, drawing.beams, width=max(self.width, k), depth=depth, trie=trie)
            drawing, parents = grown.keep(kept), kept.parents
            codes = trie.child_codes[depth][drawing.beams.nodes].long()
        return _list_drawn(drawing, k=k, trie=trie, eligible=eligible)

    def _levels(self, trie: Trie) -> tuple[float, ...]:
        """The temperature of each level, once every setting is found usable."""
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"top_p is {self.top_p}, and must be above 0 and at most 1", fix="set it to 1, or to 0.9")
        factors = (1.0,) * trie.num_levels if self.level_temperatures is None else self.level_temperatures
        if len(factors) != trie.num_levels:
            raise ConfigError(
                f"level_temperatures has {len(factors)} numbers, and the semantic IDs have {trie.num_levels} levels",
                fix="give one for each level, that of the collision token too",
            )
        temperatures = tuple(self.temperature * factor for factor in factors)
        outside = [value for value in temperatures if not LOWEST <= value <= HIGHEST]
        if outside and not (self.temperature == 0.0 and min(factors) > 0.0):
            raise ConfigError(
                f"the temperature of a level is {outside[0]}, outside {LOWEST:g}..{HIGHEST:g}",
                fix="set temperature to 1, or to 0 for the best list, and each of level_temperatures to 1",
            )
        return temperatures


def level_distribution(log_probs: Tensor, *, temperature: float, top_p: float) -> Tensor:
    """(N, B, W) fp64 log-probabilities to draw each child with, given its parent; -inf for one that is left out.

    log_probs: (N, B, W) of the generator, -inf where there is no child to go to.
    """
    chances = _normalise(log_probs.double() / temperature)
    if top_p == 1.0:
        return chances
    # Stable, so that of equally probable codes the lower ones stay.
    ordered = chances.sort(dim=2, descending=True, stable=True)
    masses = ordered.values.exp()
    # A code is needed as long as those before it do not have the mass; the first one always is.
    spare = masses.cumsum(dim=2) - masses >= top_p * (1.0 - ROUNDING)
    left_out = torch.zeros_like(spare).scatter_(2, ordered.indices, spare)
    return _normalise(chances.masked_fill(left_out, NEVER))


def _normalise(logits: Tensor) -> Tensor:
    """Log-softmax over the last axis that leaves a slice of nothing but -inf as it is."""
    total = logits.logsumexp(dim=2, keepdim=True)
    return logits - total.masked_fill(total == NEVER, 0.0)


def condition_on_maximum(perturbed: Tensor, *, maximum: Tensor) -> Tensor:
    """Independent Gumbel numbers (N, B, W) turned into ones whose largest is `maximum` (N, B), in the same order.

    -log(exp(-maximum) - exp(-largest) + exp(-perturbed)), in the form that neither overflows nor cancels (the paper's
    appendix B.3); -inf stays.
    """
    largest = perturbed.amax(dim=2, keepdim=True)
    gap = (perturbed - largest).masked_fill_(perturbed == NEVER, NEVER)
    maximum = maximum.unsqueeze(2)
    excess = maximum - perturbed + _log_one_minus_exp(gap)
    conditioned = maximum - excess.clamp(min=0.0) - torch.log1p(torch.exp(-excess.abs()))
    return conditioned.masked_fill_(perturbed == NEVER, NEVER)


def _log_one_minus_exp(values: Tensor) -> Tensor:
    """log(1 - exp(values)) for values <= 0, each side of -log(2) in the form that keeps its digits."""
    return torch.where(values > -math.log(2.0), torch.log(-torch.expm1(values)), torch.log1p(-torch.exp(values)))


def _start(keys: Tensor) -> Drawing:
    """The roots of rows with `keys` (N,)."""
    keys = keys.unsqueeze(1)
    nothing = torch.zeros_like(keys)
    return Drawing(
        beams=Beams(nodes=nothing, scores=gumbel(keys)),
        keys=keys,
        log_probs=nothing.float(),
        draw_log_probs=nothing.double(),
    )


def _grow(drawing: Drawing, codes: Tensor, *, log_probs: Tensor, chances: Tensor) -> Grown:
    """The children of every beam: their `codes` (N, B, W), given their parent their `log_probs` and `chances`."""
    keys = child_keys(drawing.keys, codes)
    draw_log_probs = drawing.draw_log_probs.unsqueeze(2) + chances
    return Grown(
        perturbed=condition_on_maximum(draw_log_probs + gumbel(keys), maximum=drawing.beams.scores),
        keys=keys,
        log_probs=drawing.log_probs.unsqueeze(2) + log_probs,
        draw_log_probs=draw_log_probs,
    )


def _list_drawn(drawing: Drawing, *, k: int, trie: Trie, eligible: Eligible) -> Drawn:
    """The items of the drawn leaves, and for each item what its leaf carries."""
    leaves = drawing.beams
    found = list_items(leaves, k=k, trie=trie, eligible=eligible)
    unlisted = found.items == PAD
    wanted = trie.node_at(trie.positions[found.items.clamp(min=0).long()], depth=trie.num_levels)
    nodes, order = leaves.nodes.masked_fill(leaves.scores == NEVER, trie.num_items).sort(dim=1)
    place = order.gather(1, torch.searchsorted(nodes, wanted).clamp_(max=nodes.shape[1] - 1))
    return Drawn(
        found=replace(found, scores=found.scores.float()),
        log_probs=drawing.log_probs.gather(1, place).masked_fill_(unlisted, NEVER),
        draw_log_probs=drawing.draw_log_probs.gather(1, place).float().masked_fill_(unlisted, NEVER),
    )
