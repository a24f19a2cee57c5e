"""Networks whose weights come from a generator of their own."""

import numpy as np
import torch

from sememe.nn.mlp import relu_mlp


def test_the_layers_and_where_their_weights_come_from() -> None:
    torch.manual_seed(0)
    network = relu_mlp((5, 400, 3), rng=np.random.default_rng(1))
    torch.manual_seed(1)
    again = relu_mlp((5, 400, 3), rng=np.random.default_rng(1))
    first, rectifier, second = network
    assert isinstance(rectifier, torch.nn.ReLU)
    assert first.weight.shape == (400, 5) and second.weight.shape == (3, 400)
    for ours, theirs in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not first.bias.any() and not second.bias.any()
    # Uniform up to sqrt(3 / fan in), so that the standard deviation is 1 / sqrt(fan in).
    assert abs(first.weight.std().item() - 5**-0.5) < 0.02
    assert first.weight.abs().max().item() <= (3 / 5) ** 0.5


def test_the_same_as_by_hand() -> None:
    network = relu_mlp((2, 3, 1), rng=np.random.default_rng(0))
    x = torch.tensor([[1.0, -2.0]])
    hidden = torch.relu(x @ network[0].weight.T + network[0].bias)
    assert torch.allclose(network(x), hidden @ network[2].weight.T + network[2].bias)
