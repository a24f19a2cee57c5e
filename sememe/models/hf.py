"""The same weights as a Hugging Face T5, for export and for the test that our arithmetic is T5's.

Shape legend: D width of the model, V tokens of the vocabulary, N rows, T history items, L code levels.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sememe.core.errors import MissingExtraError
from sememe.models.encdec import EncDecModel
from sememe.models.tokens import START

if TYPE_CHECKING:
    from transformers import T5Config, T5ForConditionalGeneration

_EMBEDDINGS = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")


def to_hf_t5(model: EncDecModel) -> "T5ForConditionalGeneration":
    """A `transformers.T5ForConditionalGeneration` on the CPU with a copy of the weights, in evaluation mode.

    Its vocabulary is that of `model.tokens`: 0 pads and starts, then the codes level by level, then user buckets.  Its
    output layer has our layers as blocks and zeros elsewhere, so logits are comparable within one level's block.
    """
    try:
        from transformers import T5ForConditionalGeneration
    except ImportError as error:
        raise MissingExtraError("transformers", extra="text", purpose="exporting to Hugging Face") from error
    exported: T5ForConditionalGeneration = T5ForConditionalGeneration(_hf_config(model))
    # T5Config always ties the output layer to the embeddings when it is made; ours is a matrix of its own.
    exported.config.tie_word_embeddings = False
    exported.lm_head.weight = torch.nn.Parameter(exported.lm_head.weight.detach().clone())
    exported.load_state_dict(hf_weights(model))
    exported.train(mode=False)
    return exported


def hf_inputs(model: EncDecModel, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the exported model reads for a batch: input_ids and attention_mask (N, S), decoder_input_ids (N, L).

    batch: as for the model; decoder_input_ids only where it has "target_codes".
    """
    tokens = model.tokens.history_tokens(batch)
    inputs = {"input_ids": tokens, "attention_mask": (tokens != START).long()}
    if "target_codes" in batch:
        inputs["decoder_input_ids"] = model.tokens.target_tokens(batch["target_codes"])
    return inputs


def hf_weights(model: EncDecModel) -> dict[str, Tensor]:
    """The state of `model` under the names that Hugging Face's T5 gives to its parameters."""
    weights = dict.fromkeys((f"{stack}.weight" for stack in _EMBEDDINGS), model.tokens.embedding.detach())
    weights["lm_head.weight"] = _lm_head(model)
    for name, value in model.state_dict().items():
        if not name.startswith(("tokens.", "heads.")):
            weights |= _renamed(name, value, layers=model.config.layers)
    return {name: value.detach().cpu().clone() for name, value in weights.items()}


def _hf_config(model: EncDecModel) -> "T5Config":
    from transformers import T5Config

    config = model.config
    settings: dict[str, Any] = {
        "vocab_size": len(model.tokens.embedding),
        "d_model": config.d_model,
        "d_kv": config.head_dim,
        "d_ff": config.ff,
        "num_layers": config.layers,
        "num_heads": config.heads,
        "relative_attention_num_buckets": config.position_buckets,
        "relative_attention_max_distance": config.max_distance,
        "dropout_rate": config.dropout,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": False,
        "pad_token_id": START,
        "decoder_start_token_id": START,
        "eos_token_id": None,  # a code has a fixed length, nothing ends it
    }
    return T5Config(**settings)


def _lm_head(model: EncDecModel) -> Tensor:
    """(V, D): each level's output weights at that level's tokens, zeros at the others."""
    full = torch.zeros_like(model.tokens.embedding.detach())
    for level, size in enumerate(model.codebook_sizes):
        first = model.tokens.offsets[level]
        full[first : first + size] = model.head_weight(level).detach()
    return full


def _renamed(name: str, value: Tensor, *, layers: int) -> dict[str, Tensor]:
    """One of our parameters as the one to six parameters that hold the same numbers in Hugging Face's T5."""
    stack, *path = name.split(".")
    if stack in ("encoder_norm", "decoder_norm"):
        return {f"{stack.removesuffix('_norm')}.final_layer_norm.weight": value}
    if stack in ("encoder_bias", "decoder_bias"):
        return {f"{stack.removesuffix('_bias')}.block.0.layer.0.SelfAttention.relative_attention_bias.weight": value}
    if stack == "memory":
        parts = value.chunk(2 * layers)
        return {
            f"decoder.block.{layer}.layer.1.EncDecAttention.{letter}.weight": parts[2 * layer + place]
            for layer in range(layers)
            for place, letter in enumerate("kv")
        }
    layer, part, piece = path[0], path[1], path[2]
    places = {"attention": 0, "cross": 1, "feed_forward": 1 if stack == "encoder" else 2}
    base = f"{stack}.block.{layer}.layer.{places[part]}"
    attention = "SelfAttention" if part == "attention" else "EncDecAttention"
    if piece == "qkv":
        return {f"{base}.{attention}.{letter}.weight": rows for letter, rows in zip("qkv", value.chunk(3), strict=True)}
    names = {
        "norm": "layer_norm",
        "query": f"{attention}.q",
        "out": f"{attention}.o",
        "wide": "DenseReluDense.wi",
        "narrow": "DenseReluDense.wo",
    }
    return {f"{base}.{names[piece]}.weight": value}
