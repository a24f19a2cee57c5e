"""The frequency block against Fourier transforms and loops in numpy."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sememe.nn.attention import MASKED
from sememe.nn.frequency import FrequencyBlock, FrequencyFilter, low_pass, window_bias

WINDOW = 10


def states_of(seed: int, *, rows: int = 3, width: int = 6) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(rows, WINDOW, width, generator=random, dtype=torch.float64)


def filtered(states: np.ndarray, *, frequencies: int, beta: np.ndarray) -> np.ndarray:
    """The paper's filter, one frequency of one channel at a time."""
    length = states.shape[0]
    low = np.zeros_like(states)
    for channel in range(states.shape[1]):
        for frequency in range(-(frequencies // 2), frequencies // 2 + 1):
            wave = np.exp(2j * math.pi * frequency * np.arange(length) / length)
            low[:, channel] += (wave * (wave.conj() @ states[:, channel]) / length).real
    return low + beta * (states - low)


def block_of(**changes: float) -> FrequencyBlock:
    torch.manual_seed(0)
    sizes = {"heads": 2, "ff": 12, "dropout": 0.4, "window": WINDOW, "frequencies": 3, "alpha": 0.3}
    return FrequencyBlock(6, **(sizes | changes)).double().eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("frequencies", [1, 3, 5, 9])
def test_the_filter_equals_a_fourier_transform_by_hand(frequencies: int) -> None:
    torch.manual_seed(0)
    part = FrequencyFilter(6, window=WINDOW, frequencies=frequencies).double()
    states = states_of(1)
    beta = (part.root_beta**2).detach().numpy()
    # The matrix is single precision.
    for row in range(3):
        expected = filtered(states[row].numpy(), frequencies=frequencies, beta=beta)
        np.testing.assert_allclose(part(states, last=WINDOW)[row].detach().numpy(), expected, atol=1e-6)


def test_a_mean_and_its_remainder_by_hand() -> None:
    part = FrequencyFilter(1, window=4, frequencies=1)
    torch.nn.init.constant_(part.root_beta, -2.0)
    # Mean 3, remainder -2 -1 0 3, times (-2)^2.
    assert part(torch.tensor([[[1.0], [2.0], [3.0], [6.0]]]), last=4).flatten().tolist() == pytest.approx(
        [-5, -1, 3, 15]
    )


def test_low_pass_is_the_projection_that_the_paper_computes() -> None:
    matrix = low_pass(50, frequencies=5)
    # The paper's code keeps c // 2 + 1 = 3 rows of the real transform.
    states = torch.randn(50, 4, generator=torch.Generator().manual_seed(3))
    spectrum = torch.fft.rfft(states, dim=0, norm="ortho")
    spectrum[3:] = 0
    torch.testing.assert_close(matrix @ states, torch.fft.irfft(spectrum, n=50, dim=0, norm="ortho"))
    torch.testing.assert_close(matrix @ matrix, matrix)
    assert matrix.trace().item() == pytest.approx(5.0, abs=1e-5)
    torch.testing.assert_close(low_pass(50, frequencies=4), matrix)
    torch.testing.assert_close(low_pass(7, frequencies=7), torch.eye(7))


def test_a_block_equals_its_parts_in_loops() -> None:
    block, states = block_of().requires_grad_(False), states_of(2, rows=1)
    valid = torch.tensor([[False] * 4 + [True] * 6])
    query = F.linear(states[0], block.attention.query.weight, block.attention.query.bias)
    key, value = F.linear(states[0], block.attention.key_value.weight, block.attention.key_value.bias).chunk(2, dim=1)
    mixed = torch.zeros_like(states[0])
    for head in (slice(0, 3), slice(3, 6)):
        for here in range(WINDOW):
            keys = [here] if here < 4 else list(range(4, here + 1))
            weights = torch.stack([query[here, head] @ key[past, head] / math.sqrt(3) for past in keys]).softmax(0)
            mixed[here, head] = weights @ value[keys][:, head]
    attended = block.attention_norm(states[0] + block.attention.out(mixed))
    slow = filtered(states[0].numpy(), frequencies=3, beta=(block.filter.root_beta**2).numpy())
    joined = 0.3 * block.filter_norm(states[0] + torch.from_numpy(slow)) + 0.7 * attended
    expected = block.ff_norm(joined + block.narrow(F.gelu(block.wide(joined))))
    torch.testing.assert_close(block(states, window_bias(valid), last=WINDOW)[0], expected, rtol=0, atol=1e-6)


def test_the_last_positions_alone_are_those_of_the_whole_window() -> None:
    block, states = block_of(), states_of(4).requires_grad_()
    bias = window_bias(torch.ones(3, WINDOW, dtype=torch.bool))
    whole, part = block(states, bias, last=WINDOW)[:, -2:], block(states, bias, last=2)
    torch.testing.assert_close(part, whole)
    torch.testing.assert_close(
        torch.autograd.grad(part.square().sum(), states), torch.autograd.grad(whole.square().sum(), states)
    )


def test_gradients_are_those_of_small_differences() -> None:
    block = block_of(window=4)
    states = states_of(5, rows=2)[:, :4].clone().requires_grad_()
    bias = window_bias(torch.tensor([[True] * 4, [False, False, True, True]]))
    root = block.filter.root_beta.detach().clone().requires_grad_()

    def loss(states: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
        named = {"filter.root_beta": root}
        return torch.func.functional_call(block, named, (states, bias), {"last": 2}).pow(3).sum()

    assert torch.autograd.gradcheck(loss, (states, root), atol=1e-5)


def test_the_filter_reads_what_comes_later_and_attention_does_not() -> None:
    states = states_of(6)
    changed = states.clone()
    changed[:, 7] += 1.0
    bias = window_bias(torch.ones(3, WINDOW, dtype=torch.bool))
    for alpha, reads_ahead in ((1.0, True), (0.0, False)):
        block = block_of(alpha=alpha)
        before, after = block(states, bias, last=WINDOW)[:, :7], block(changed, bias, last=WINDOW)[:, :7]
        assert torch.equal(before, after) != reads_ahead


def test_a_padded_position_reads_itself_alone() -> None:
    bias = window_bias(torch.tensor([[False, False, True, True]]))
    readable = (bias == 0.0)[0, 0].int().tolist()
    assert readable == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert set(bias.flatten().tolist()) == {0.0, MASKED}
