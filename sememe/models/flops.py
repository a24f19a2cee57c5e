"""Floating-point operations of a `ListGenerator`, counted while it runs: two for each multiply-add of a product.

Counted are matrix products, those of attention too, as torch meets them; norms, softmax, look-ups and sums, which are
a small part, are not.  The context side ends with one vector for each position of the context.  What is done to these
for the decoder, its keys and values, counts as the decoder's.

Shape legend: N rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sememe.models.generator import ListGenerator


@dataclass(frozen=True)
class Flops:
    """Of one forward pass, the training's without its backward pass."""

    context: int
    """Reading the context: in an encoder-decoder the encoder, in a lazy decoder the networks of the pathways."""
    decoder: int
    """Keys and values of the context, the layers that write, and the output layers."""

    @property
    def total(self) -> int:
        """Both."""
        return self.context + self.decoder


def count_flops(model: ListGenerator, batch: Mapping[str, Tensor]) -> Flops:
    """Of writing the "target_codes" of a batch, all N rows together; the model's mode and weights stay as they are."""
    was_training = model.training
    model.eval()
    # With gradients, attention is made of products that the counter knows; fused kernels of some machines it does not.
    with torch.enable_grad():
        with FlopCounterMode(display=False) as counter:
            model.reader.context(batch, model.tokens)
        context = int(counter.get_total_flops())
        with FlopCounterMode(display=False) as counter:
            model(batch)
        total = int(counter.get_total_flops())
    model.train(was_training)
    return Flops(context=context, decoder=total - context)
