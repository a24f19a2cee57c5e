"""The causal transformer that a generator with one position per item stands on, with its parts to choose from.

SASRec (Kang and McAuley 2018, arXiv 1808.09781) as `sememe/models/sequential.py` builds it, which the defaults compute
exactly for a full window: learned positions are counted from the first item here, from the newest there. Kept: causal
blocks with the norm before each part, dropout on the inputs, a last norm. Added, each by one setting: root mean square
norms (`norm.py`), SwiGLU (`gated.py`), rotary positions (`rotary.py`), a bias per distance (`relative.py`), and a
mixture of experts (`experts.py`); their files name the papers.

Rows are left-aligned and padding comes after: no position that counts can read it, and causality alone is the mask.

Shape legend: N rows, T positions, D model width.
"""

from dataclasses import dataclass
from typing import Literal, cast, get_args

from torch import Tensor, nn

from sememe.core.errors import ConfigError, did_you_mean
from sememe.nn.causal import CausalAttention, initialize
from sememe.nn.dropout import Dropout
from sememe.nn.experts import ExpertMixture
from sememe.nn.gated import SwiGlu
from sememe.nn.kvcache import Extended, KeyValues, TrunkCache, TrunkReading
from sememe.nn.norm import RmsNorm
from sememe.nn.relative import RelativeAttention
from sememe.nn.rotary import RotaryAttention

Norm = Literal["layer", "rms"]
FeedForward = Literal["gelu", "swiglu"]
Positions = Literal["learned", "rotary", "relative"]


@dataclass(frozen=True)
class Trunk:
    """Sizes and parts of a causal transformer."""

    layers: int = 2
    d_model: int = 128
    heads: int = 2
    ff: int = 512
    """Hidden width of a gelu feed-forward; swiglu has about as many parameters, in three matrices of 2/3 that width."""
    dropout: float = 0.5
    max_history: int = 50
    """Longest history that can be read, whatever the positions are; batches must not be longer."""
    norm: Norm = "layer"
    feed_forward: FeedForward = "gelu"
    positions: Positions = "learned"
    """learned: a vector per position, added to the inputs; rotary: queries and keys turn with their position; relative:
    a number per head and distance, added to the attention scores of each layer."""
    experts: int = 0
    """0: one feed-forward in each block; else so many, each of the full size, of which a router chooses some."""
    experts_per_token: int = 2
    """How many experts a position is sent to; of no effect without experts."""

    def build(self) -> "TrunkModule":
        """A module with fresh weights, drawn from torch's global generator.  Raises ConfigError where sizes clash."""
        self._check_sizes()
        self._check_parts()
        return TrunkModule(self)

    def _check_sizes(self) -> None:
        for name in ("layers", "d_model", "heads", "ff", "max_history"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, and must be at least 1", fix=f"set {name} higher")
        if self.d_model % self.heads:
            raise ConfigError(
                f"d_model is {self.d_model}, which {self.heads} heads do not divide", fix="choose heads that divide it"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout is {self.dropout}, not at least 0 and below 1", fix="set e.g. dropout=0.5")

    def _check_parts(self) -> None:
        for name, options in {"norm": Norm, "feed_forward": FeedForward, "positions": Positions}.items():
            known, value = get_args(options), getattr(self, name)
            if value not in known:
                raise ConfigError(f"{name} is {value!r}, which there is not", fix=did_you_mean(str(value), known))
        width = self.d_model // self.heads
        if self.positions == "rotary" and width % 2:
            raise ConfigError(
                f"a head is {width} wide (d_model {self.d_model}, {self.heads} heads), and rotary positions turn pairs",
                fix="choose heads so that d_model / heads is even, or other positions",
            )
        if self.experts < 0:
            raise ConfigError(f"experts is {self.experts}, below 0", fix="set 0 for none, or how many there are")
        if self.experts and not 2 <= self.experts_per_token <= self.experts:
            raise ConfigError(
                f"experts_per_token is {self.experts_per_token}, not between 2 and experts = {self.experts}",
                fix="set experts_per_token=2 (from one alone the router would learn nothing), or experts=0",
            )


class TrunkModule(nn.Module):
    """Built by `Trunk.build`."""

    def __init__(self, config: Trunk) -> None:
        super().__init__()
        self.config = config
        learned = config.positions == "learned"
        self.positions = nn.Embedding(config.max_history, config.d_model) if learned else None
        self.blocks = nn.ModuleList(TrunkBlock(config) for _ in range(config.layers))
        self.norm = _norm(config)
        self.dropout = Dropout(config.dropout)
        initialize(self)

    def forward(self, states: Tensor) -> Tensor:
        """(N, T, D) vectors of the items read -> (N, T, D) what comes after each position.

        Raises ConfigError for more than max_history positions.
        """
        length = states.shape[1]
        self._refuse_longer(length)
        if self.positions is not None:
            states = states + self.positions.weight[:length]
        states = self.dropout(states)
        for block in self.blocks:
            states = block(states)
        normed: Tensor = self.norm(states)
        return normed

    def extend(self, states: Tensor, *, cache: TrunkCache | None = None) -> TrunkReading:
        """What `forward` says after the last of the items with vectors `states` (N, t, D), t >= 1, and what it takes to
        read on from there; in evaluation.

        cache: of the items read before, where there are any.

        Raises ConfigError for more than max_history positions in all: the window would slide, see `sememe.nn.kvcache`.
        """
        first = 0 if cache is None else cache.length
        self._refuse_longer(first + states.shape[1])
        if self.positions is not None:
            states = states + self.positions.weight[first : first + states.shape[1]]
        layers = []
        for number, block in enumerate(self.blocks):
            past = None if cache is None else cache.layers[number]
            # Below the last layer every new position is needed: the next layer reads it.
            extended = cast(TrunkBlock, block).extend(states, past, last_only=number == len(self.blocks) - 1)
            states = extended.states
            layers.append(extended.cache)
        return TrunkReading(self.norm(states[:, -1]), TrunkCache(tuple(layers)))

    def _refuse_longer(self, length: int) -> None:
        if length > self.config.max_history:
            raise ConfigError(
                f"a history of {length} items is longer than max_history = {self.config.max_history} of the model",
                fix="give model and batches the same max_history",
            )


class TrunkBlock(nn.Module):
    """Attention, then a network at each position, each with a norm before, dropout after, and a shortcut.

    The names of its weights are those of `CausalBlock`.
    """

    def __init__(self, config: Trunk) -> None:
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = _attention(config)
        self.ff_norm = _norm(config)
        self.ff = _feed_forward(config)
        self.dropout = Dropout(config.dropout)

    def forward(self, states: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, D)"""
        states = states + self.dropout(self.attention(self.attention_norm(states)))
        deepened: Tensor = states + self.dropout(self.ff(self.ff_norm(states)))
        return deepened

    def extend(self, states: Tensor, past: KeyValues | None, *, last_only: bool) -> Extended:
        """What `forward` says of the positions of `states` (N, t, D), which come after those of `past`; in evaluation.

        last_only: whether the last position alone is asked for.
        """
        attended = self.attention.extend(self.attention_norm(states), past, last_only=last_only)
        states = (states[:, -1:] if last_only else states) + attended.states
        return Extended(states + self.ff(self.ff_norm(states)), attended.cache)


def _norm(config: Trunk) -> nn.Module:
    return RmsNorm(config.d_model) if config.norm == "rms" else nn.LayerNorm(config.d_model)


def _attention(config: Trunk) -> CausalAttention:
    kinds = {"learned": CausalAttention, "rotary": RotaryAttention, "relative": RelativeAttention}
    return kinds[config.positions](config.d_model, heads=config.heads, dropout=config.dropout)


def _feed_forward(config: Trunk) -> nn.Module:
    if not config.experts:
        return _network(config)
    networks = (_network(config) for _ in range(config.experts))
    return ExpertMixture(networks, d_model=config.d_model, per_token=config.experts_per_token)


def _network(config: Trunk) -> nn.Module:
    if config.feed_forward == "swiglu":
        return SwiGlu(config.d_model, ff=config.ff, dropout=config.dropout)
    wide, narrow = nn.Linear(config.d_model, config.ff), nn.Linear(config.ff, config.d_model)
    return nn.Sequential(wide, nn.GELU(), Dropout(config.dropout), narrow)
