"""Depth decoders: from the vector of a position to the codes of the next item, one level after the other.

The layout, one position per item and a small decoder over its codes, follows the depth transformer of RQ-Transformer
(Lee et al. 2022, arXiv 2203.01941).  Kept: a vector per position, and a decoder that sees it and the codes so far.
Changed: a level is normalised over the codes that may follow the prefix, in training as in search, so that no
probability goes to tuples that name no item, and what is learned is the likelihood of real items (a hierarchical
softmax, Morin and Bengio 2005); a node of the tree has a vector of its own beside that of its code, since code 7 means
something else after each prefix.

Shape legend: P positions, M hypotheses, L levels, D width, K codes of a level, R children of all hypotheses.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from sememe.core.errors import ConfigError, did_you_mean
from sememe.models.code_nodes import Children, CodeNodes
from sememe.nn.causal import CausalBlock, initialize
from sememe.nn.dropout import Dropout

NEVER = float("-inf")
GROUPED_FROM = 4
"""Hypotheses per distinct node from which on products of whole groups beat gathering pairs."""


Form = Literal["mlp", "transformer", "parallel"]


@dataclass(frozen=True)
class Depth:
    """How the codes of one item are written."""

    form: Form = "mlp"
    """mlp: a two-layer network per level reads the position and the sum of the codes so far.  transformer: causal
    blocks over [position, code 1, code 2, ...].  parallel: each level reads the position alone."""
    hidden: int = 256
    """Width inside the networks."""
    layers: int = 1
    """Blocks of the transformer form."""
    dropout: float = 0.2
    node_vectors: bool = True
    """Give every node of the tree a vector of its own, beside its code's."""

    def check(self) -> None:
        """Raise a ConfigError that names the setting which cannot be."""
        if self.form not in get_args(Form):
            fix = did_you_mean(str(self.form), get_args(Form))
            raise ConfigError(f"form is {self.form!r}, which there is not", fix=fix)
        for name in ("hidden", "layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, and must be at least 1", fix=f"set {name} higher")
        if self.form != "transformer" and self.layers != 1:
            raise ConfigError(
                f"layers is {self.layers}, and only the transformer form has more than one",
                fix="set form=transformer, or leave layers at 1",
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout is {self.dropout}, not at least 0 and below 1", fix="set e.g. dropout=0.2")


class QueryNet(nn.Module):
    """What a level asks for, from the position and the codes so far: (M, D), compared with the vectors of the nodes."""

    def __init__(self, config: Depth, *, levels: int, d_model: int, heads: int) -> None:
        super().__init__()
        self.form = config.form
        if config.form == "transformer":
            self.levels = nn.Parameter(torch.empty(levels, d_model))
            nn.init.normal_(self.levels, std=0.02)
            shape = {"heads": heads, "ff": config.hidden}
            self.blocks = nn.ModuleList(
                CausalBlock(d_model, dropout=config.dropout, **shape) for _ in range(config.layers)
            )
            initialize(self)
            return
        self.nets = nn.ModuleList()
        for level in range(levels):
            width = 2 * d_model if level and config.form == "mlp" else d_model
            wide, narrow = nn.Linear(width, config.hidden), nn.Linear(config.hidden, d_model)
            nn.init.normal_(wide.weight, std=width**-0.5)
            # Near zero, so that every level begins by asking for what the position says.
            nn.init.normal_(narrow.weight, std=0.02)
            nn.init.zeros_(wide.bias)
            nn.init.zeros_(narrow.bias)
            self.nets.append(nn.Sequential(wide, nn.GELU(), Dropout(config.dropout), narrow))

    def forward(self, hidden: Tensor, prefix: Tensor) -> Tensor:
        """hidden (M, D), prefix (M, l, D) the embedded codes so far -> (M, D), the query of level l."""
        level = prefix.shape[1]
        if self.form == "transformer":
            states = torch.cat([hidden.unsqueeze(1), prefix], 1) + self.levels[: level + 1]
            for block in self.blocks:
                states = block(states)
            return hidden + states[:, -1]
        told = torch.cat([hidden, prefix.sum(1)], 1) if level and self.form == "mlp" else hidden
        change: Tensor = self.nets[level](told)
        return hidden + change


class CodeHead(nn.Module):
    """Log-probabilities of codes, each level normalised over the children of the prefix."""

    def __init__(self, config: Depth, *, nodes: CodeNodes, d_model: int, heads: int, cold: float = 0.0) -> None:
        """cold: share of nodes that lose their own vector in each training step, as a new item's leaf has none."""
        super().__init__()
        config.check()
        self.nodes = nodes
        self.cold = cold
        self.as_new: list[Tensor] | None = None
        """Per depth >= 1, (V_d,) bool: nodes that are to look new for a while."""
        levels = nodes.num_levels
        self.query = QueryNet(config, levels=levels, d_model=d_model, heads=heads)
        # The same vectors tell the decoder what was written; the model's inputs read them too.
        self.read = nn.ModuleList(nn.Embedding(size, d_model) for size in nodes.codebook_sizes)
        self.write = nn.ModuleList(nn.Embedding(size, d_model) for size in nodes.codebook_sizes)
        self.own = nn.ModuleList()
        if config.node_vectors:
            self.own.extend(nn.Embedding(nodes.num_nodes(depth), d_model) for depth in range(1, levels + 1))
        for table in (*self.read, *self.write, *self.own):
            nn.init.normal_(cast(nn.Embedding, table).weight, std=d_model**-0.5)
        for depth, table in enumerate(self.own, start=1):
            # A node that training never meets learns nothing of its own: its code alone speaks for it.
            cast(nn.Embedding, table).weight.data[~nodes.is_known(depth)] = 0.0
        for level in range(levels):
            # Nor does a code that only new items have.
            met = nodes.node_codes(level + 1)[nodes.is_known(level + 1)]
            new = torch.ones(nodes.codebook_sizes[level], dtype=torch.bool).index_fill_(0, met, False)
            for tables in (self.read, self.write):
                cast(nn.Embedding, tables[level]).weight.data[new] = 0.0

    def embed(self, codes: Tensor, *, level: int) -> Tensor:
        """Input vectors of codes of one level: any shape -> (..., D), of length about D^0.5."""
        table = cast(nn.Embedding, self.read[level])
        scaled: Tensor = table(codes) * table.embedding_dim**0.5
        return scaled

    def node_vectors(self, nodes: Tensor, *, depth: int) -> Tensor:
        """(R, D) output vectors of nodes (R,) of a depth >= 1."""
        vectors: Tensor = cast(nn.Embedding, self.write[depth - 1])(self.nodes.node_codes(depth)[nodes])
        return vectors + self._own(nodes, depth=depth) if len(self.own) else vectors

    def _own(self, nodes: Tensor, *, depth: int) -> Tensor:
        own: Tensor = cast(nn.Embedding, self.own[depth - 1])(nodes)
        if self.as_new is not None:
            own = own.masked_fill(self.as_new[depth - 1][nodes].unsqueeze(1), 0.0)
        if self.training and self.cold > 0.0:
            own = own * (torch.rand(len(nodes), 1, device=nodes.device) >= self.cold)
        return own

    def take_over(self, older: "CodeHead") -> None:
        """Give nodes the vectors of their own that the same prefixes have in `older`; new ones have none."""
        for depth, (table, before) in enumerate(zip(self.own, older.own, strict=True), start=1):
            every = torch.arange(self.nodes.num_nodes(depth), device=self.nodes.matrix.device)
            prefixes = self.nodes.item_codes(self.nodes.any_item(every, depth=depth))[:, :depth]
            node = older.nodes.find(prefixes)
            weight = cast(nn.Embedding, before).weight.data[node.clamp(min=0)]
            cast(nn.Embedding, table).weight.data = weight.masked_fill((node < 0).unsqueeze(1), 0.0)

    def log_probs(self, hidden: Tensor, items: Tensor) -> Tensor:
        """(P, L) log-probability of each code of `items` (P,), given the position (P, D) and the item's codes before.

        Training normalises over nodes that the training part reaches: a withheld item is neither learned nor unlearned.
        """
        levels = []
        prefix = hidden.new_zeros(len(hidden), 0, hidden.shape[1])
        for level in range(self.nodes.num_levels):
            node = self.nodes.of_items(items, depth=level + 1)
            levels.append(self._level(hidden, prefix, self.nodes.of_items(items, depth=level), node, level=level))
            told = self.embed(self.nodes.node_codes(level + 1)[node], level=level)
            prefix = torch.cat([prefix, told.unsqueeze(1)], 1)
        return torch.stack(levels, 1)

    def _level(self, hidden: Tensor, prefix: Tensor, parent: Tensor, wanted: Tensor, *, level: int) -> Tensor:
        """(P,) log-probability of the nodes `wanted` among the children of `parent`."""
        result = hidden.new_zeros(len(hidden))
        # Where there is one child only, its probability is 1 and nothing needs computing.
        open_rows = (self.nodes.child_counts(parent, depth=level) > 1).nonzero().squeeze(1)
        if not len(open_rows):
            return result
        query = self.query(hidden[open_rows], prefix[open_rows])
        if level == 0:
            every = torch.arange(self.nodes.num_nodes(1), device=hidden.device)
            logits = self._hide_unknown(exact(query @ self.node_vectors(every, depth=1).T), every, depth=1)
            return logits.log_softmax(1).gather(1, wanted.unsqueeze(1)).squeeze(1)
        children = self.nodes.children_of(parent[open_rows], depth=level)
        logits = self._hide_unknown(self._compare(query, children, depth=level + 1), children.node, depth=level + 1)
        is_wanted = children.node == wanted[open_rows][children.owner]
        chosen = torch.zeros_like(result[open_rows]).index_add(0, children.owner, logits.masked_fill(~is_wanted, 0.0))
        log_prob = chosen - segment_logsumexp(logits, children.owner, segments=len(open_rows))
        return result.index_copy(0, open_rows, log_prob)

    def item_log_prob(self, hidden: Tensor, items: Tensor) -> Tensor:
        """(N, C) log-probability of the codes of `items` (N, C) given one position per row, `hidden` (N, D).

        The same numbers as the sum of `log_probs`; items of a row that share a prefix share the work on it.
        """
        total = hidden.new_zeros(items.numel())
        for places, values in self._levels_of(hidden, items):
            total = total.index_add(0, places, values)
        return total.view(items.shape)

    def item_log_probs(self, hidden: Tensor, items: Tensor) -> Tensor:
        """(N, C, L) the terms of `item_log_prob`, at least fp32: of each code given the codes before it."""
        levels = [
            exact(hidden).new_zeros(items.numel()).index_add(0, places, exact(values))
            for places, values in self._levels_of(hidden, items)
        ]
        return torch.stack(levels, 1).view(*items.shape, -1)

    def _levels_of(self, hidden: Tensor, items: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Per level: places (R,) in `items`, flattened, where its code is not certain, and log-probabilities (R,)."""
        nodes = self.nodes
        flat = items.flatten()
        row = torch.arange(len(items), device=items.device).repeat_interleave(items.shape[1])
        for level in range(nodes.num_levels):
            parent = nodes.of_items(flat, depth=level)
            places = (nodes.child_counts(parent, depth=level) > 1).nonzero().squeeze(1)
            if not len(places):
                yield places, hidden.new_zeros(0)
                continue
            count = nodes.num_nodes(level) if level else 1
            pairs, pair = torch.unique(row[places] * count + parent[places], return_inverse=True)
            prefix = self._prefix(nodes.any_item(pairs % count, depth=level), level=level)
            query = self.query(hidden[pairs // count], prefix)
            node = nodes.of_items(flat[places], depth=level + 1)
            wanted = (query[pair] * self.node_vectors(node, depth=level + 1)).sum(1)
            yield places, wanted - self._normalizer(query, pairs % count, level=level)[pair]

    def _prefix(self, items: Tensor, *, level: int) -> Tensor:
        """(M, level, D) the embedded first codes of `items` (M,)."""
        codes = self.nodes.item_codes(items)
        told = [self.embed(codes[:, before], level=before) for before in range(level)]
        width = cast(nn.Embedding, self.read[0]).embedding_dim
        return torch.stack(told, 1) if told else torch.zeros(len(items), 0, width, device=items.device)

    def _normalizer(self, query: Tensor, parents: Tensor, *, level: int) -> Tensor:
        """(M,) log of the summed exp over the children of `parents` (M,)."""
        if level == 0:
            every = torch.arange(self.nodes.num_nodes(1), device=query.device)
            return (query @ self.node_vectors(every, depth=1).T).float().logsumexp(1)
        children, logits = self._child_logits(query, parents, level=level)
        return segment_logsumexp(logits, children.owner, segments=len(parents))

    def _child_logits(self, query: Tensor, parents: Tensor, *, level: int) -> tuple[Children, Tensor]:
        """The children of `parents` (M,), in no particular order, and their logits (R,)."""
        order = parents.argsort(stable=True)
        distinct, sizes = torch.unique_consecutive(parents[order], return_counts=True)
        if len(parents) < GROUPED_FROM * len(distinct):
            children = self.nodes.children_of(parents, depth=level)
            return children, self._compare(query, children, depth=level + 1)
        # Hypotheses that stand on one node share its children: one product per node instead of a gather per pair.
        vectors = self.node_vectors(self.nodes.children_of(distinct, depth=level).node, depth=level + 1)
        widths = self.nodes.child_counts(distinct, depth=level)
        groups = zip(torch.split(query[order], sizes.tolist()), torch.split(vectors, widths.tolist()), strict=True)
        logits = torch.cat([(asking @ offered.T).flatten() for asking, offered in groups])
        children = self.nodes.children_of(parents[order], depth=level)
        return Children(owner=order[children.owner], node=children.node), logits

    def _hide_unknown(self, logits: Tensor, nodes: Tensor, *, depth: int) -> Tensor:
        return logits.masked_fill(~self.nodes.is_known(depth)[nodes], NEVER) if self.training else logits

    def _compare(self, query: Tensor, children: Children, *, depth: int) -> Tensor:
        """(R,) logits of the children; query (M, D) by owner."""
        # Siblings come in many rows: each distinct node's vector is looked up, and its gradient summed, once.
        distinct, place = torch.unique(children.node, return_inverse=True)
        vectors = self.node_vectors(distinct, depth=depth)
        return (query[children.owner] * vectors[place]).sum(1)

    def next_level(self, hidden: Tensor, prefix: Tensor, nodes: Tensor) -> Tensor:
        """(M, K) fp32 log-probabilities of the codes after `nodes` (M,) of depth l; -inf where no item continues so.

        hidden: (M, D); prefix: (M, l, D).
        """
        level = prefix.shape[1]
        sizes = self.nodes.codebook_sizes
        dense = hidden.new_full((len(nodes), sizes[level]), NEVER, dtype=torch.float32)
        if level == 0:
            query = self.query(hidden, prefix)
            every = torch.arange(self.nodes.num_nodes(1), device=hidden.device)
            dense[:, self.nodes.node_codes(1)] = (query @ self.node_vectors(every, depth=1).T).float()
            return dense.log_softmax(1)
        several = self.nodes.child_counts(nodes, depth=level) > 1
        # An only child is certain: most of the last levels need no product.
        alone = (~several).nonzero().squeeze(1)
        child = self.nodes.children_of(nodes[alone], depth=level).node
        dense[alone, self.nodes.node_codes(level + 1)[child]] = 0.0
        rows = several.nonzero().squeeze(1)
        if len(rows):
            query = self.query(hidden[rows], prefix[rows])
            children, logits = self._child_logits(query, nodes[rows], level=level)
            asked = dense[rows]
            asked[children.owner, self.nodes.node_codes(level + 1)[children.node]] = logits.float()
            dense[rows] = asked.log_softmax(1)
        return dense


def exact(logits: Tensor) -> Tensor:
    """`logits` in at least fp32: where products are taken in bf16, the sums after them must not be."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def segment_logsumexp(values: Tensor, segments_of: Tensor, *, segments: int) -> Tensor:
    """(segments,) log of the summed exp of `values` (R,) by segment (R,); each segment has a finite value."""
    largest = torch.full((segments,), NEVER, dtype=values.dtype, device=values.device)
    largest = largest.scatter_reduce(0, segments_of, values.detach(), "amax")
    powers = (values - largest[segments_of]).exp()
    return largest + torch.zeros_like(largest).index_add(0, segments_of, powers).log()
