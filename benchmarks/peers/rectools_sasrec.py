"""RecTools' SASRec on an exported split, with the settings that its authors give for Amazon Beauty.

    .venv-rectools/bin/python -m benchmarks.peers.rectools_sasrec SPLIT --out OUT [--layers ligr]

Settings: the benchmark that the authors published with eSASRec (RecSys 2025), leave-one-out on this very data
(configs/paper/loo/s3_vanilla.yaml; s3_beauty_ligr.yaml for `--layers ligr`, which makes it eSASRec): one block, one
head, width 256, dropout .2, the last 50 items, sampled softmax with 256 negatives, Adam at 1e-3, batches of 128, at
most 200 epochs, 50 of patience on validation Recall@10.  Their table of settings says width 64 where the files say 256:
`--set n_factors=64` is that.  They report Recall@10 / NDCG@10 of .0921 / .0531 for SASRec and .0928 / .0523 for
eSASRec, seen items left out.
"""

from typing import Any

from rectools.models import SASRecModel
from rectools.models.nn.transformers.ligr import LiGRLayers

from benchmarks.peers.exchange import parse_options, peer_parser
from benchmarks.peers.rectools_split import run_peer

AUTHORS: dict[str, Any] = {
    "n_factors": 256,
    "session_max_len": 50,
    "n_blocks": 1,
    "n_heads": 1,
    "dropout_rate": 0.2,
    "loss": "sampled_softmax",
    "n_negatives": 256,
    "lr": 1e-3,
    "batch_size": 128,
}
LIGR: dict[str, Any] = {
    "transformer_layers_type": LiGRLayers,
    "transformer_layers_kwargs": {"ff_factors_multiplier": 4},
    "use_key_padding_mask": True,
}


def main() -> None:
    """Train, rank, write."""
    parser = peer_parser(__doc__, epochs=200)
    parser.add_argument("--patience", type=int, default=50, help="epochs without a better validation; 0 means no limit")
    parser.add_argument("--layers", choices=("sasrec", "ligr"), default="sasrec")
    options = parse_options(parser)
    run_peer(SASRecModel, AUTHORS | (LIGR if options.layers == "ligr" else {}), options)


if __name__ == "__main__":
    main()
