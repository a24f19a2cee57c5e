"""RecTools' HSTU on an exported split.

    .venv-rectools/bin/python -m benchmarks.peers.rectools_hstu SPLIT --out OUT

Settings: those of RecTools' own HSTU tutorial (MovieLens; two blocks, one head, width 50, dropout .2, sampled softmax
with 128 negatives, cosine over temperature .05, Adam at 1e-3, batches of 128, 100 epochs, the best by validation
Recall@10), with the last 50 items as its authors take for Amazon Beauty: they give no HSTU settings for that data, and
report .0788 / .0439 (Recall@10 / NDCG@10, seen items left out) for Meta's own code.

The package's default also reads the time of the event that is to be predicted.  No other system here may know that, so
`--time none` (the default) leaves times out; `known` gives the time of the last known event instead, which training
never saw in that place; `test` is the package's own way, and its number is not comparable.
"""

from typing import Any

from rectools.models import HSTUModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet

from benchmarks.peers.exchange import parse_options, peer_parser
from benchmarks.peers.rectools_split import run_peer

AUTHORS: dict[str, Any] = {
    "n_factors": 50,
    "session_max_len": 50,
    "n_blocks": 2,
    "n_heads": 1,
    "dropout_rate": 0.2,
    "loss": "sampled_softmax",
    "n_negatives": 128,
    "lr": 1e-3,
    "batch_size": 128,
    "lightning_module_kwargs": {"logits_t": 0.05},
    "item_net_block_types": (IdEmbeddingsItemNet,),
    "use_pos_emb": True,
    "relative_pos_attention": True,
}


def main() -> None:
    """Train, rank, write."""
    parser = peer_parser(__doc__, epochs=100)
    parser.add_argument("--patience", type=int, default=0, help="epochs without a better validation; 0 means no limit")
    parser.add_argument("--time", choices=("none", "known", "test"), default="none", help="see above")
    options = parse_options(parser)
    reads_times = options.time != "none"
    notes = ("the model is told the time of the test event",) if options.time == "test" else ()
    run_peer(
        HSTUModel,
        {**AUTHORS, "relative_time_attention": reads_times},
        options,
        real_times=reads_times,
        asked_at=options.time if reads_times else None,
        notes=notes,
    )


if __name__ == "__main__":
    main()
