"""TIGER's generator (Rajput et al. 2023, arXiv 2305.05065): a T5 encoder-decoder that writes the next item's codes.

Kept: the encoder reads [user token, codes of item 1, codes of item 2, ...], the decoder writes one code per level; T5
version 1 (Raffel et al. 2020, arXiv 1910.10683) in all arithmetic: unscaled attention, bucketed relative positions
shared by the layers of a stack, ReLU, root mean square norms, no biases, dropout in T5's places.
Changed: each level has an output layer over that level's codes only, where TIGER's softmax runs over the whole
vocabulary.  A code of another level is never right, so this takes no answer away; the logits are that level's block of
the full output layer.  Initial output weights have a standard deviation of d_model^-0.5, since T5 ties them to the
embeddings and scales by that factor; `tie_head` does the same here.

Shape legend: N rows, B beams, T history items, L code levels, K codes of a level, S tokens of a history, D width of the
model, H heads, E width of one head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sememe.core.errors import ConfigError
from sememe.core.schema import Codes, ModelInputs
from sememe.core.seeding import derive_seed
from sememe.models.encdec_search import SearchState
from sememe.models.tokens import START, TokenTable
from sememe.nn.attention import RelativeBias, causal_bias, padding_bias
from sememe.nn.blocks import BlockShape, CrossMemory, DecoderBlock, EncoderBlock
from sememe.nn.dropout import Dropout
from sememe.nn.norm import RmsNorm


@dataclass(frozen=True)
class EncDec:
    """The encoder-decoder of TIGER; the defaults are the paper's size."""

    reads_target_codes: ClassVar[bool] = True

    layers: int = 4
    """Encoder layers, and as many decoder layers."""
    d_model: int = 128
    heads: int = 6
    head_dim: int = 64
    ff: int = 1024
    dropout: float = 0.1
    user_buckets: int = 2000
    """Tokens that user indices are hashed into; 0: no user token."""
    tie_head: bool = False
    """Use the input embeddings of a level's codes, times d_model^-0.5, as its output layer."""
    position_buckets: int = 32
    """Relative distances told apart in a stack."""
    max_distance: int = 128
    """Token distance from which on all distances are one."""

    def build(self, inputs: ModelInputs, *, seed: int) -> "EncDecModel":
        """A model with fresh weights for the items of `inputs`, which must have codes; equal seeds, equal weights."""
        if inputs.codes is None:
            raise ConfigError("EncDec writes semantic IDs, and there are none", fix="add a tokenizer to the recipe")
        self._check()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "encdec"))
            return EncDecModel(self, codes=inputs.codes)

    def _check(self) -> None:
        for name in ("layers", "d_model", "heads", "head_dim", "ff"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, and must be at least 1", fix=f"set {name} higher")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout is {self.dropout}, not at least 0 and below 1", fix="set e.g. dropout=0.1")
        if self.user_buckets < 0:
            raise ConfigError(
                f"user_buckets is {self.user_buckets}, below 0", fix="set a positive number, or 0 for no user token"
            )
        if self.position_buckets < 4 or self.max_distance <= self.position_buckets // 2:
            raise ConfigError(
                f"position_buckets is {self.position_buckets} and max_distance {self.max_distance}",
                fix="use at least 4 buckets and a distance above half of them; T5 has 32 and 128",
            )


class EncDecModel(nn.Module):
    """Built by `EncDec.build`."""

    def __init__(self, config: EncDec, *, codes: Codes) -> None:
        super().__init__()
        self.config = config
        self.codebook_sizes = codes.codebook_sizes
        self.rows_at_once = 16  # see `decode.parts`: with more, a layer's numbers leave the cache, which costs a sixth
        shape = BlockShape(
            d_model=config.d_model, heads=config.heads, head_dim=config.head_dim, ff=config.ff, dropout=config.dropout
        )
        self.tokens = TokenTable(codes, d_model=config.d_model, user_buckets=config.user_buckets)
        self.encoder_bias = self._relative_bias(bidirectional=True)
        self.encoder = nn.ModuleList(EncoderBlock(shape) for _ in range(config.layers))
        self.encoder_norm = RmsNorm(config.d_model)
        self.memory = CrossMemory(shape, layers=config.layers)
        self.decoder_bias = self._relative_bias(bidirectional=False)
        self.decoder = nn.ModuleList(DecoderBlock(shape) for _ in range(config.layers))
        self.decoder_norm = RmsNorm(config.d_model)
        self.dropout = Dropout(config.dropout)
        self.heads = nn.ParameterList()
        if not config.tie_head:
            scale = config.d_model**-0.5
            self.heads.extend(nn.Parameter(torch.randn(size, config.d_model) * scale) for size in self.codebook_sizes)

    def _relative_bias(self, *, bidirectional: bool) -> RelativeBias:
        config = self.config
        bias = RelativeBias(
            config.heads,
            bidirectional=bidirectional,
            buckets=config.position_buckets,
            max_distance=config.max_distance,
        )
        nn.init.normal_(bias.weight, std=config.d_model**-0.5)
        return bias

    def head_weight(self, level: int) -> Tensor:
        """(K of the level, D) weights of the output layer of a level."""
        if self.config.tie_head:
            return self.tokens.level_embeddings(level) * float(self.config.d_model**-0.5)
        return cast(Tensor, self.heads[level])

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Teacher-forced logits: "code_logits" (N, L, largest K), -inf where a level has fewer codes.

        batch: "history" (N, T), "user" (N,) (unless user_buckets is 0), "target_codes" (N, L).
        """
        memory, memory_bias = self._read(batch)
        states = self.dropout(self.tokens(self.tokens.target_tokens(batch["target_codes"])))
        length = states.shape[1]
        bias = self.decoder_bias(length) + causal_bias(length, device=states.device)
        for layer, block in enumerate(self.decoder):
            states = block(states, bias, memory[2 * layer : 2 * layer + 2], memory_bias)
        states = self.dropout(self.decoder_norm(states))
        logits = [self._logits(states[:, level], level=level) for level in range(length)]
        widest = max(self.codebook_sizes)
        padded = [F.pad(part, (0, widest - part.shape[-1]), value=-torch.inf) for part in logits]
        return {"code_logits": torch.stack(padded, 1)}

    @torch.no_grad()
    def encode(self, batch: Mapping[str, Tensor]) -> SearchState:
        """Read N histories once, for `step`; no gradients.  batch: "history" (N, T), "user" (N,)."""
        assert not self.training, "decoding needs model.eval(): dropout would make the search random"
        memory, memory_bias = self._read(batch)
        blocks = (cast(DecoderBlock, block) for block in self.decoder)
        bias = self.decoder_bias(len(self.codebook_sizes))
        return SearchState.start(blocks, memory=memory, memory_bias=memory_bias, bias=bias)

    @torch.no_grad()
    def step(self, state: SearchState, codes: Tensor | None = None, parents: Tensor | None = None) -> Tensor:
        """Log-probabilities of the next level's codes, float32, normalised over the level.

        First call: no codes, no parents -> (N, 1, K of level 0).  Call l: `codes` (N, B) int64 chosen at level l-1 by
        each live beam, `parents` (N, B) int64 the beam of the previous call each comes from -> (N, B, K of level l).
        The state moves on to the beams given.
        """
        level = state.level
        if codes is None or parents is None:
            assert level == 0, "only the first step has no beams"
            tokens = torch.full((len(state.memory[0]), 1), START, device=self.tokens.embedding.device)
        else:
            assert 0 < level < len(self.codebook_sizes), "one step per code level"
            tokens = self.tokens.code_tokens(codes, level=level - 1)
            state.follow(parents)
        states = state.advance(self.tokens(tokens))
        return self._logits(self.decoder_norm(states), level=level).float().log_softmax(-1)

    def _read(self, batch: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Keys and values of all decoder layers, and the padding mask (None where nothing is padded)."""
        tokens = self.tokens.history_tokens(batch)
        valid = tokens != START
        # Batches are sorted by length, so most hold no padding.  Only asked on CPU: elsewhere asking would wait.
        full = tokens.device.type == "cpu" and bool(valid.all())
        memory_bias = None if full else padding_bias(valid)
        bias = self.encoder_bias(tokens.shape[1]) + (0.0 if memory_bias is None else memory_bias)
        states = self.dropout(self.tokens(tokens))
        for block in self.encoder:
            states = block(states, bias)
        return self.memory(self.dropout(self.encoder_norm(states))), memory_bias

    def _logits(self, states: Tensor, *, level: int) -> Tensor:
        """(..., D) -> (..., K of the level)."""
        return F.linear(states, self.head_weight(level))
