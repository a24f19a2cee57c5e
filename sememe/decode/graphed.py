"""Beam search as a CUDA graph: recorded once for a shape of batches, replayed with a single launch.

A graph holds no decision: no shape, branch or copy to the host may depend on numbers.  So this walk looks at as many
children as any node of a depth has, where `decode.beam` looks at as many as the live ones have, and sorts all
candidates by a stable sort, where that one picks the best and repairs ties.  Its leaves are those of `decode.beam` to
rounding; items are listed from them outside of the graph, by the same function.  A model must step in fixed shapes too
(`EncDecModel` does; `models.itemwise_padded` makes an item-wise generator do so).

On other devices nothing is recorded and the same walk runs as it stands, which is how it is tested without a GPU.

Shape legend: N rows, S seen items, T items of a history, P positions of the tree, B beams, W most children of a node.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock

import torch
from torch import Tensor

from sememe.core.errors import ConfigError, DataError
from sememe.decode.beam import Found, list_items
from sememe.decode.eligible import Eligible
from sememe.decode.frontier import NEVER, Beams, level_widths
from sememe.decode.item_set import ItemSet
from sememe.decode.protocol import Seen, StepModel, TensorBatch
from sememe.decode.seen import SeenPositions
from sememe.decode.trie import Trie
from sememe.nn.select import refuse_nan

WARMING = 3
"""Searches before the recording, as PyTorch's notes on CUDA graphs ask: libraries set themselves up in them."""


@dataclass(frozen=True, eq=False)
class Closing:
    """What the rows must not get, in buffers whose numbers change and whose sizes do not."""

    allowed_before: Tensor
    """(P + 1,) int32: allowed items before each position, for all rows."""
    seen: Tensor
    """(N, S) int32: distinct positions of seen items that are allowed, ascending; P where a row has fewer."""

    @classmethod
    def open(cls, trie: Trie, *, rows: int, most_seen: int) -> "Closing":
        """Nothing is closed yet."""
        every = torch.arange(trie.num_items + 1, dtype=torch.int32, device=trie.device)
        seen = torch.full((rows, most_seen), trie.num_items, dtype=torch.int32, device=trie.device)
        return cls(allowed_before=every, seen=seen)

    def before(self, positions: Tensor) -> Tensor:
        """Items that the row may get before each of its positions; (N, X) -> (N, X)."""
        return self.allowed_before[positions] - torch.searchsorted(self.seen, positions.contiguous())


@dataclass(frozen=True)
class Sizes:
    """What the shapes of a walk follow from, per depth."""

    widths: tuple[int, ...]
    """(L,) hypotheses kept."""
    most: tuple[int, ...]
    """(L,) `most_children`."""


def walk(model: StepModel, batch: TensorBatch, *, sizes: Sizes, trie: Trie, closing: Closing) -> Beams:
    """The best leaves of each row, (N, B), as `decode.beam` finds them, in shapes that no number decides."""
    state = model.encode(batch)
    rows = len(next(iter(batch.values())))
    nodes = torch.zeros(rows, 1, dtype=torch.int64, device=trie.device)
    scores = torch.zeros(rows, 1, device=trie.device)
    codes: Tensor | None = None
    parents: Tensor | None = None
    for depth, (width, most) in enumerate(zip(sizes.widths, sizes.most, strict=True)):
        log_probs = model.step(state, codes, parents)
        starts, child_codes = trie.child_starts[depth], trie.child_codes[depth]
        first, count = starts[nodes].long(), starts[nodes + 1] - starts[nodes]
        offset = torch.arange(most + 1, device=trie.device)
        bounds = (first.unsqueeze(2) + offset).clamp_(max=len(child_codes))
        children = bounds[..., :-1].clamp(max=len(child_codes) - 1)
        below = closing.before(trie.first_position(bounds.flatten(1), depth=depth + 1)).view_as(bounds)
        is_open = (offset[:-1] < count.unsqueeze(2)) & (below[..., 1:] > below[..., :-1])
        codes = child_codes[children].long()
        candidates = log_probs.gather(2, codes).add_(scores.unsqueeze(2)).masked_fill_(~is_open, NEVER).flatten(1)
        # Equal scores keep the order of nodes; then the kept ones go back to it, as the next depth expects.
        best = candidates.sort(dim=1, descending=True, stable=True).indices[:, :width]
        columns = best.sort(dim=1).values
        scores, parents = candidates.gather(1, columns), columns // most
        nodes, codes = children.flatten(1).gather(1, columns), codes.flatten(1).gather(1, columns)
    return Beams(nodes=nodes, scores=scores)


def most_children(trie: Trie) -> tuple[int, ...]:
    """Of any node of each depth 0..L-1."""
    return tuple(int(starts.diff().max()) for starts in trie.child_starts)


@dataclass(frozen=True, eq=False)
class GraphedSearch:
    """Searches batches of up to N rows of one shape; one at a time, whatever thread asks."""

    model: StepModel
    trie: Trie
    inputs: Mapping[str, Tensor]
    """What the walk reads: the batch, N rows."""
    closing: Closing
    beams: Beams
    """What the walk leaves."""
    sizes: Sizes
    graph: torch.cuda.CUDAGraph | None
    """None: not a CUDA device."""
    lock: Lock = field(default_factory=Lock)
    filled: list[ItemSet | None] = field(default_factory=lambda: [None])
    """The one set that `closing` was filled with last."""

    @classmethod
    def record(
        cls, model: StepModel, trie: Trie, example: TensorBatch, *, width: int, first_width: int = 0, most_seen: int
    ) -> "GraphedSearch":
        """Record the search of a batch like `example`, whose shapes and types all later ones have, on its device.

        most_seen: how many items a row may have to leave out.
        """
        assert not getattr(model, "training", False), "dropout is on: call model.eval() before searching"
        assert tuple(model.codebook_sizes) == trie.codebook_sizes, "the trie and the model come from different codes"
        inputs = {name: values.clone() for name, values in example.items()}
        closing = Closing.open(trie, rows=len(next(iter(inputs.values()))), most_seen=max(1, most_seen))
        widths = level_widths(trie.num_levels, width=width, first_width=first_width)
        sizes = Sizes(tuple(widths), most_children(trie))
        with torch.inference_mode():
            if trie.device.type != "cuda":
                beams, graph = walk(model, inputs, sizes=sizes, trie=trie, closing=closing), None
            else:
                beams, graph = _record(model, inputs, sizes=sizes, trie=trie, closing=closing)
        return cls(model, trie, inputs, closing, beams, sizes, graph)

    @torch.inference_mode()
    def search(self, batch: TensorBatch, *, k: int, seen: Seen = None, allowed: ItemSet | None = None) -> Found:
        """What `decode.beam.search` finds for a batch of at most N rows.

        Raises:
            ConfigError: k is more than the beam's width.
            DataError: the batch has more rows or another shape than the recorded one, or too many seen items.
            ArtifactError: a score is not a number.
        """
        if not 1 <= k <= self.sizes.widths[-1]:
            raise ConfigError(
                f"k is {k}, for a beam of {self.sizes.widths[-1]}", fix="record a search with a wider beam"
            )
        rows = len(next(iter(batch.values())))
        eligible = Eligible.build(self.trie, seen=seen, allowed=allowed, num_rows=rows)
        with self.lock:
            self._fill_inputs(batch, rows=rows)
            self._fill_closing(seen, allowed, rows=rows)
            beams = self._run()
            found = Beams(nodes=beams.nodes[:rows].clone(), scores=beams.scores[:rows].clone())
        refuse_nan(found.scores)
        return list_items(found, k=k, trie=self.trie, eligible=eligible)

    def _run(self) -> Beams:
        if self.graph is None:
            return walk(self.model, self.inputs, sizes=self.sizes, trie=self.trie, closing=self.closing)
        self.graph.replay()
        return self.beams

    def _fill_inputs(self, batch: TensorBatch, *, rows: int) -> None:
        for name, buffer in self.inputs.items():
            given = batch.get(name)
            if given is None or rows > len(buffer) or given.shape != (rows, *buffer.shape[1:]):
                told = "nothing" if given is None else f"shape {tuple(given.shape)}"
                raise DataError(
                    f"the batch has {told} of {name!r}, where up to {len(buffer)} rows of shape "
                    f"{tuple(buffer.shape[1:])} were recorded",
                    fix="pad histories to the recorded length, and split larger batches",
                )
        for name, buffer in self.inputs.items():
            buffer[:rows].copy_(batch[name])
            # Rows that nobody asked for repeat one that somebody did.
            buffer[rows:].copy_(batch[name][:1].expand_as(buffer[rows:]))

    def _fill_closing(self, seen: Seen, allowed: ItemSet | None, *, rows: int) -> None:
        num_items, buffer = self.trie.num_items, self.closing.seen
        # As long as the catalogue, and most requests in a row go by the same rules.
        if self.filled[-1] is not allowed:
            before = torch.arange(num_items + 1, dtype=torch.int32)
            if allowed is not None:
                torch.cumsum(torch.from_numpy(allowed.flags()), 0, dtype=torch.int32, out=before[1:])
            self.closing.allowed_before.copy_(before)
            self.filled[-1] = allowed
        buffer.fill_(num_items)
        if seen is None:
            return
        positions = SeenPositions.build(seen, self.trie).positions
        if positions.shape[1] > buffer.shape[1]:
            raise DataError(
                f"there are {positions.shape[1]} items to leave out, and room for {buffer.shape[1]} was recorded",
                fix="record a search with more, or leave out those of the latest events",
            )
        is_allowed = self.closing.allowed_before.diff()[positions.clamp(max=num_items - 1).long()] > 0
        kept = torch.where(is_allowed, positions, num_items).sort(dim=1).values
        buffer[:rows, : kept.shape[1]].copy_(kept)


def _record(
    model: StepModel, inputs: TensorBatch, *, sizes: Sizes, trie: Trie, closing: Closing
) -> tuple[Beams, torch.cuda.CUDAGraph]:
    aside: torch.cuda.Stream = torch.cuda.Stream(trie.device)  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream(trie.device))
    with torch.cuda.stream(aside):
        for _ in range(WARMING):
            walk(model, inputs, sizes=sizes, trie=trie, closing=closing)
    torch.cuda.current_stream(trie.device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the device in the meantime; what they do is no part of this.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        beams = walk(model, inputs, sizes=sizes, trie=trie, closing=closing)
    return beams, graph
