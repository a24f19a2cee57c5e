"""A generator that reads a user once and writes items code by code: one item, or a list item after item.

Before each item stands START, so that a list of m items of L codes is m * (L + 1) - 1 tokens, and a single item is a
list of one (OneRec, 2025, arXiv 2502.18965).  What reads and what writes are parts; `OneRec` and `LazyDecoder` describe
which.

Shape legend: N rows, M lists (several a row), B beams, G samples of a row, m items of a list, j of them written, L code
levels, K codes of a level, D width of the model.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sememe.core.errors import ConfigError
from sememe.core.schema import Codes, ModelInputs
from sememe.models.code_decoder import CodeDecoder, Memories, WriteState, of_rows
from sememe.models.contexts import Context
from sememe.models.tokens import TokenTable


class Reader(Protocol):
    """Reads users for a decoder: what is known of them, and then what each layer of the decoder attends to."""

    def context(self, batch: Mapping[str, Tensor], tokens: TokenTable) -> Context: ...
    def memories(self, context: Context) -> Memories: ...


class ListGenerator(nn.Module):
    """Built by `OneRec.build` and `LazyDecoder.build`."""

    def __init__(self, tokens: TokenTable, reader: Reader, decoder: CodeDecoder, *, session: int) -> None:
        """reader: a module; session: items of the longest list that is learned."""
        super().__init__()
        self.codebook_sizes = tokens.codebook_sizes
        self.session = session
        self.tokens = tokens
        self.reader = reader
        self.decoder = decoder

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Teacher-forced logits, -inf where a level has fewer codes than the largest.

        batch: what the reader reads, and "target_codes": (N, L) -> "code_logits" (N, L, K); (N, m, L), PAD where a
        session has fewer items -> (N, m, L, K).
        """
        targets = batch["target_codes"]
        lists = targets if targets.ndim == 3 else targets.unsqueeze(1)
        logits = self._write(self.read(batch), lists)
        return {"code_logits": logits if targets.ndim == 3 else logits.squeeze(1)}

    def sample_log_probs(self, batch: Mapping[str, Tensor], samples: Tensor) -> Tensor:
        """(N, G, m * L) fp32 log-probability of each code of `samples` (N, G, m * L), given those before it.

        The histories are read once for all samples of a row.
        """
        levels = len(self.codebook_sizes)
        lists = samples.reshape(len(samples) * samples.shape[1], -1, levels)
        log_probs = self._write(self.read(batch), lists).float().log_softmax(-1)
        return log_probs.gather(-1, lists.clamp(min=0).long().unsqueeze(-1)).view(samples.shape)

    def read(self, batch: Mapping[str, Tensor]) -> Memories:
        """What the decoder's layers attend to, of N users; `open_list` starts from it as often as is wanted."""
        return self.reader.memories(self.reader.context(batch, self.tokens))

    def encode(self, batch: Mapping[str, Tensor]) -> WriteState:
        """Read N users once, for `step`, which writes the first item."""
        memories = self.read(batch)
        nothing = torch.empty(len(memories[0].keys), 0, dtype=torch.long, device=self.tokens.embedding.device)
        return self.open_list(memories, rows=None, listed=nothing)

    def open_list(self, memories: Memories, *, rows: Tensor | None, listed: Tensor) -> WriteState:
        """Ready to write the item after `listed` (M, j), PAD where a list has ended; in evaluation.

        rows: (M,) whose list each is; None: row n has list n.  Of a longer list than was learned, the end counts.
        """
        assert not self.training, "decoding needs model.eval(): dropout would make the search random"
        memories = memories if rows is None else of_rows(memories, rows)
        listed = listed[:, max(0, listed.shape[1] - self.session + 1) :]
        decoded = self.decoder(self.tokens(self.tokens.listed_tokens(listed)), memories)
        return WriteState(memories, decoded.states[:, -1:], decoded.caches)

    def step(self, state: WriteState, codes: Tensor | None = None, parents: Tensor | None = None) -> Tensor:
        """Log-probabilities of the next level's codes, as `decode.protocol.StepModel` says; the state moves on."""
        if codes is None or parents is None:
            assert state.level == 0, "only the first step has no beams"
        else:
            assert 0 < state.level < len(self.codebook_sizes), "one step per code level"
            state.follow(parents)
            tokens = self.tokens.code_tokens(codes, level=state.level - 1)
            decoded = self.decoder(self.tokens(tokens.view(-1, 1)), state.memories, state.caches)
            state.last, state.caches = decoded.states.view(*codes.shape, -1), decoded.caches
        state.level += 1
        return self.decoder.logits(state.last, level=state.level - 1).float().log_softmax(-1)

    def _write(self, memories: Memories, lists: Tensor) -> Tensor:
        """(M, m, L, K) logits of known lists (M, m, L)."""
        states = self.decoder(self.tokens(self.tokens.session_tokens(lists)), memories).states
        # After the last code of an item comes START again, of which nothing is asked.
        padded = F.pad(states, (0, 0, 0, 1)).view(len(lists), lists.shape[1], -1, states.shape[-1])
        return self.decoder.all_logits(padded[:, :, :-1])


def need_codes(inputs: ModelInputs, *, name: str) -> Codes:
    """The codes to write, or a ConfigError."""
    if inputs.codes is None:
        raise ConfigError(f"{name} writes semantic IDs, and there are none", fix="add a tokenizer to the recipe")
    return inputs.codes


def check_sizes(config: object, *, least: Mapping[str, int]) -> None:
    """Refuse sizes of a generator's description that cannot be.

    Raises:
        ConfigError: names the setting.
    """
    values = {name: getattr(config, name) for name in ("heads", "dropout", "experts", "experts_per_token")}
    for name, smallest in least.items():
        if getattr(config, name) < smallest:
            raise ConfigError(
                f"{name} is {getattr(config, name)}, and must be at least {smallest}", fix=f"set {name} higher"
            )
    if not 0.0 <= values["dropout"] < 1.0:
        raise ConfigError(f"dropout is {values['dropout']}, not at least 0 and below 1", fix="set e.g. dropout=0.1")
    if values["experts"] and not 2 <= values["experts_per_token"] <= values["experts"]:
        raise ConfigError(
            f"experts_per_token is {values['experts_per_token']}, not between 2 and experts = {values['experts']}",
            fix="set experts_per_token=2 (from one alone the router would learn nothing), or experts=0",
        )
