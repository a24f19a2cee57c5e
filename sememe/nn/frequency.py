"""A transformer block beside a frequency filter, over a window of fixed length, as in BSARec.

Shin, Choi, Wi and Park, "An Attentive Inductive Bias for Sequential Recommendation beyond the Self-Attention" (AAAI
2024, arXiv 2312.10325).  Kept: low + beta^2 * (x - low), where low is the part of x at the lowest frequencies of its
Fourier transform along the window and beta is one learned number per channel, drawn from the standard normal
distribution; alpha * norm(x + filter(x)) + (1 - alpha) * norm(x + attention(x)); a GELU network with a norm after it.
Changed: keeping the lowest frequencies is a projection, so it is one matrix product and no transform (the same
numbers); a position of the padding reads itself alone, where the paper's mask lets it read the whole window.

The filter reads the whole window at every position.  A model of such blocks may only be asked what comes after the
window: trained with a target at every position, it would read the targets.

Shape legend: N rows, W positions of the window, L the last of them that are computed, H heads, D model width.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sememe.nn.attention import MASKED, attend, merge_heads, split_heads
from sememe.nn.dropout import Dropout


def low_pass(window: int, *, frequencies: int) -> Tensor:
    """(W, W) matrix that keeps the `frequencies` lowest frequencies of a column: the mean, then pairs of waves.

    A real wave is two frequencies, f and -f; as in the paper's code an even number counts as the next odd one.
    """
    spectrum = np.fft.rfft(np.eye(window), axis=0)
    spectrum[frequencies // 2 + 1 :] = 0.0
    return torch.from_numpy(np.fft.irfft(spectrum, n=window, axis=0)).float()


def window_bias(valid: Tensor) -> Tensor:
    """(N, 1, W, W) float32: MASKED where the key comes after the query, or is padding other than the query itself.

    valid: (N, W), false at the padding.
    """
    width = valid.shape[1]
    square = torch.ones(width, width, dtype=torch.bool, device=valid.device)
    readable = (valid.unsqueeze(1) & square.tril()) | torch.eye(width, dtype=torch.bool, device=valid.device)
    return torch.where(readable, 0.0, MASKED).unsqueeze(1)


class FrequencyFilter(nn.Module):
    """Scales what changes fast along the window, channel by channel; leaves what changes slowly."""

    low_pass: Tensor

    def __init__(self, d_model: int, *, window: int, frequencies: int) -> None:
        super().__init__()
        self.root_beta = nn.Parameter(torch.randn(d_model))
        # Fixed by the sizes, so it is no part of the saved weights.
        self.register_buffer("low_pass", low_pass(window, frequencies=frequencies), persistent=False)

    def forward(self, states: Tensor, *, last: int) -> Tensor:
        """(N, W, D) -> (N, L, D), the last `last` positions of the filtered window."""
        low = self.low_pass[-last:] @ states
        return low + self.root_beta.square() * (states[:, -last:] - low)


class WindowAttention(nn.Module):
    """Multi-head self-attention whose mask is given."""

    def __init__(self, d_model: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        assert d_model % heads == 0, "heads divide d_model"
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(d_model, d_model)
        self.key_value = nn.Linear(d_model, 2 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, states: Tensor, bias: Tensor, *, last: int) -> Tensor:
        """(N, W, D) -> (N, L, D) with the last `last` positions as queries; bias: (N, 1, W, W)."""
        width = states.shape[2] // self.heads
        (queries,) = split_heads(self.query(states[:, -last:]) / math.sqrt(width), parts=1, heads=self.heads)
        keys, values = split_heads(self.key_value(states), parts=2, heads=self.heads)
        dropout = self.dropout if self.training else 0.0
        joined: Tensor = self.out(merge_heads(attend(queries, keys, values, bias=bias[:, :, -last:], dropout=dropout)))
        return joined


class FrequencyBlock(nn.Module):
    """Filter and attention side by side, mixed, then a two-layer network; each with a shortcut and a norm after it."""

    def __init__(
        self, d_model: int, *, heads: int, ff: int, dropout: float, window: int, frequencies: int, alpha: float
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.filter = FrequencyFilter(d_model, window=window, frequencies=frequencies)
        self.filter_norm = nn.LayerNorm(d_model, eps=1e-12)  # eps of the paper's code, here and below
        self.attention = WindowAttention(d_model, heads=heads, dropout=dropout)
        self.attention_norm = nn.LayerNorm(d_model, eps=1e-12)
        self.wide = nn.Linear(d_model, ff)
        self.narrow = nn.Linear(ff, d_model)
        self.ff_norm = nn.LayerNorm(d_model, eps=1e-12)
        self.dropout = Dropout(dropout)

    def forward(self, states: Tensor, bias: Tensor, *, last: int) -> Tensor:
        """(N, W, D) -> (N, L, D), the last `last` positions; bias: (N, 1, W, W), from `window_bias`."""
        own = states[:, -last:]
        filtered = self.filter_norm(own + self.dropout(self.filter(states, last=last)))
        attended = self.attention_norm(own + self.dropout(self.attention(states, bias, last=last)))
        mixed = self.alpha * filtered + (1.0 - self.alpha) * attended
        deepened: Tensor = self.ff_norm(mixed + self.dropout(self.narrow(F.gelu(self.wide(mixed)))))
        return deepened
