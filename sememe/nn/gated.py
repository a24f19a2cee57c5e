"""SwiGLU: a feed-forward network whose hidden values are multiplied by gates.

Shazeer, "GLU Variants Improve Transformer" (2020, arXiv 2002.05202).  Kept: (silu(x G) * x U) W without biases, hidden
width 2/3 of a two-layer network's, so that three matrices have the parameters of two.  Changed: the width is rounded to
a multiple of 8, which fast kernels want, and G and U are one product.

Shape legend: D model width, F hidden width.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from sememe.nn.dropout import Dropout


class SwiGlu(nn.Module):
    """D -> F, gated, dropout, F -> D, with about as many parameters as two layers of hidden width `ff`."""

    def __init__(self, d_model: int, *, ff: int, dropout: float) -> None:
        super().__init__()
        hidden = 8 * max(1, round(ff / 12))
        self.gate_and_up = nn.Linear(d_model, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, d_model, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        gate, up = self.gate_and_up(states).chunk(2, -1)
        narrowed: Tensor = self.down(self.dropout(F.silu(gate) * up))
        return narrowed
