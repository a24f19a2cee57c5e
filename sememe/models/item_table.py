"""Vectors of items: an embedding of their own, and their projected content.

A new item has content and no vector of its own.  So that a model learns to go by content alone, training takes the own
vector away from some items at random (as DropoutNet, Volkovs et al., NIPS 2017, does with latent factors).

An own vector starts at random, or at the item's content in the model's width, so that what is learned from few events
is a correction of what the content says.

Shape legend: I items, M of them, V width of the given vectors, D width of the model.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from sememe.core.errors import ConfigError
from sememe.core.schema import BoolArray, FloatArray, ModelInputs


class ItemTable(nn.Module):
    """own[i] + project(content[i]), each where asked for; lengths are about 1 to begin with."""

    content: Tensor
    center: Tensor

    def __init__(
        self,
        inputs: ModelInputs,
        *,
        d_model: int,
        own: bool,
        content: bool,
        known_items: BoolArray | None,
        cold: float = 0.0,
        start: Literal["random", "content"] = "random",
    ) -> None:
        """known_items: (I,) whether the training part holds the item; the others start, and stay, at zero.

        cold: share of items that lose their own vector in each training step.
        start: where own vectors start; with "content", those of items without any start at random all the same.
        """
        super().__init__()
        self.cold = cold
        self.as_new: Tensor | None = None
        """(I,) bool: items that are to look new for a while; see `ItemWiseModel.as_new`."""
        self.num_items = inputs.num_items
        self.own = nn.Embedding(inputs.num_items, d_model) if own else None
        if self.own is not None:
            nn.init.normal_(self.own.weight, std=d_model**-0.5)
            if start == "content":
                unit, _ = _unit_content(inputs, otherwise="model.start=random")
                has_content = unit.any(1)
                self.own.weight.data[has_content] = _in_width(unit, d_model)[has_content]
            if known_items is not None:
                self.own.weight.data[torch.from_numpy(~known_items)] = 0.0
        self.project: nn.Linear | None = None
        if content:
            # Not saved: the vectors are an artifact of their own.
            unit, center = _unit_content(inputs, otherwise="model.content=false")
            self.register_buffer("content", unit, persistent=False)
            self.register_buffer("center", center, persistent=False)
            self.project = nn.Linear(self.content.shape[1], d_model, bias=False)
            nn.init.normal_(self.project.weight, std=d_model**-0.5)

    def forward(self, items: Tensor) -> Tensor:
        """(M,) item indices -> (M, D)."""
        vectors = torch.zeros((), device=items.device)
        if self.own is not None:
            vectors = vectors + self._own(items)
        if self.project is not None:
            vectors = vectors + self.project(self.content[items])
        return vectors

    def take_over(self, older: "ItemTable", vectors: FloatArray | None) -> None:
        """Be `older` with more items, which come after its own and have content alone.

        vectors: (I, V) of all items; what the known ones share is still what was found when `older` was made, so that
        nobody's content moves because others came.
        """
        if self.own is not None and older.own is not None:
            self.own.weight.data.zero_()
            self.own.weight.data[: older.num_items] = older.own.weight.data
        if self.project is not None and older.project is not None:
            assert vectors is not None, "a table with content is made of vectors"
            self.project.load_state_dict(older.project.state_dict())
            self.center = older.center
            self.content = _unit(torch.from_numpy(vectors).to(older.center), center=older.center)

    def _own(self, items: Tensor) -> Tensor:
        assert self.own is not None, "asked for only where there is one"
        vectors: Tensor = self.own(items)
        if self.as_new is not None:
            vectors = vectors.masked_fill(self.as_new[items].unsqueeze(1), 0.0)
        if not self.training or self.cold == 0.0:
            return vectors
        # Not scaled up, as dropout would: what is left must look as it does when a new item is met.
        return vectors * (torch.rand(len(items), 1, device=items.device) >= self.cold)


def _unit_content(inputs: ModelInputs, *, otherwise: str) -> tuple[Tensor, Tensor]:
    """(I, V) the item vectors, centred and of unit length, zero where an item has none; and (V,) the centre.

    otherwise: the setting that does without them, for the ConfigError where there are none at all.
    """
    if inputs.item_vectors is None:
        raise ConfigError(
            "the model projects item vectors, and there are none",
            fix=f"add an embedder to the recipe, or set {otherwise}",
        )
    vectors = torch.from_numpy(inputs.item_vectors)
    known = vectors.any(1)
    center = vectors[known].mean(0) if bool(known.any()) else vectors.new_zeros(vectors.shape[1])
    return _unit(vectors, center=center), center


def _unit(vectors: Tensor, *, center: Tensor) -> Tensor:
    """(I, V) `vectors` without `center` (V,), what all items share and what says nothing about any of them, at unit
    length; zero where an item has none."""
    centered = (vectors - center) * vectors.any(1, keepdim=True)
    unit: Tensor = centered / centered.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return unit


def _in_width(unit: Tensor, width: int) -> Tensor:
    """(I, width) `unit` (I, V) along its leading principal directions, scaled to a mean square length of 1 over the
    items that have content; the columns beyond V are zero."""
    # About the origin, not about the mean: what is to be kept are the products of the vectors.
    _, directions = torch.linalg.eigh(unit.T.double() @ unit.double())
    leading = directions.flip(1)[:, :width].to(unit.dtype)
    mapped = nn.functional.pad(unit @ leading, (0, max(0, width - unit.shape[1])))
    length = mapped.square().sum(1)[unit.any(1)].mean().sqrt()
    return mapped / length.clamp(min=1e-6)
