"""Plain networks of linear layers, their weights drawn from a generator of their own."""

import numpy as np
import torch
from torch import nn


def relu_mlp(widths: tuple[int, ...], *, rng: np.random.Generator) -> nn.Sequential:
    """Linear layers with ReLU between them; He-uniform weights drawn from `rng`, not from torch's global seed."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
        linear = nn.Linear(fan_in, fan_out)
        bound = (3 / fan_in) ** 0.5
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(rng.uniform(-bound, bound, (fan_out, fan_in)).astype(np.float32)))
            linear.bias.zero_()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
