"""How a generator reads and writes semantic IDs: a token per code, as in TIGER (Rajput et al. 2023, arXiv 2305.05065).

Kept: each level has its own range of tokens; a user is one token, hashed into a fixed number of buckets.
The table is: 0 for padding and the start of decoding, then the codes of level 0, of level 1, ..., then user buckets.

Shape legend: N rows, M sequences to write, T history items, L code levels, I items, S = tokens of a row, D width of the
model.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sememe.core.schema import PAD, Codes

START = 0
"""The token that pads a history and that starts decoding, as in T5."""

_HASH_MULTIPLIER = 2654435761  # Knuth's multiplicative hash: 2^32 divided by the golden ratio, prime


def user_bucket(users: Tensor, *, buckets: int) -> Tensor:
    """Bucket of each user index >= 0, any shape, in 0..buckets-1: a fixed hash, the same on every machine."""
    hashed = (users.long() * _HASH_MULTIPLIER) & 0xFFFFFFFF
    return (hashed * buckets) >> 32


class TokenTable(nn.Module):
    """The token ids of items and users, and one embedding for each token."""

    item_tokens: Tensor

    def __init__(self, codes: Codes, *, d_model: int, user_buckets: int) -> None:
        super().__init__()
        self.codebook_sizes = codes.codebook_sizes
        self.user_buckets = user_buckets
        self.offsets = tuple(1 + sum(codes.codebook_sizes[:level]) for level in range(codes.num_levels))
        self.first_user = 1 + sum(codes.codebook_sizes)
        self.embedding = nn.Parameter(torch.randn(self.first_user + user_buckets, d_model))
        # Not saved: the codes have an artifact of their own, and a catalogue may grow without new weights.
        self.register_buffer("item_tokens", self._tokens_of(codes), persistent=False)

    def know(self, codes: Codes) -> None:
        """From now on items have these codes, of the same codebooks."""
        assert codes.codebook_sizes == self.codebook_sizes, "tokens are of their codebooks"
        self.item_tokens = self._tokens_of(codes).to(self.item_tokens.device)

    def _tokens_of(self, codes: Codes) -> Tensor:
        """(I + 1, L): the row after the last item is padding, which entries of PAD = -1 select without a branch."""
        tokens = torch.from_numpy(codes.matrix).long() + torch.tensor(self.offsets)
        return F.pad(tokens, (0, 0, 0, 1), value=START)

    def history_tokens(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(N, S) tokens of user and history; START where there is nothing to read.

        batch: "history" (N, T) item indices, PAD after the end; "user" (N,) indices, PAD for an unknown user.
        """
        tokens = self.item_tokens[batch["history"]].flatten(1)
        if not self.user_buckets:
            return tokens
        return torch.cat([self.user_tokens(batch["user"])[:, None], tokens], 1)

    def user_tokens(self, users: Tensor) -> Tensor:
        """(N,) tokens of user indices (N,); START for PAD, an unknown user."""
        tokens = self.first_user + user_bucket(users.clamp(min=0), buckets=self.user_buckets)
        return tokens.masked_fill(users == PAD, START)

    def code_tokens(self, codes: Tensor, *, level: int) -> Tensor:
        """Tokens of codes of one level, any shape."""
        return codes + self.offsets[level]

    def target_tokens(self, target_codes: Tensor) -> Tensor:
        """(N, L) decoder input: START, then all codes but the last.  target_codes: (N, L)."""
        known = target_codes[:, :-1].long() + torch.tensor(self.offsets[:-1], device=target_codes.device)
        return F.pad(known, (1, 0), value=START)

    def session_tokens(self, target_codes: Tensor) -> Tensor:
        """(M, m * (L + 1) - 1) decoder input for m items: before each of them START, after the last code nothing.

        target_codes: (M, m, L); any code where an item is missing.
        """
        known = target_codes.clamp(min=0).long() + torch.tensor(self.offsets, device=target_codes.device)
        return F.pad(known, (1, 0), value=START).flatten(1)[:, :-1]

    def listed_tokens(self, items: Tensor) -> Tensor:
        """(M, j * (L + 1) + 1) what was written, items (M, j) with PAD for none, and START for the next one."""
        return F.pad(F.pad(self.item_tokens[items], (1, 0), value=START).flatten(1), (0, 1), value=START)

    def level_embeddings(self, level: int) -> Tensor:
        """(K of the level, D) embeddings of the codes of one level."""
        first = self.offsets[level]
        return self.embedding[first : first + self.codebook_sizes[level]]

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, S) tokens -> (N, S, D)."""
        return F.embedding(tokens, self.embedding)
