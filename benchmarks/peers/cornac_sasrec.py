"""cornac's SASRec on an exported split, with the settings that its authors found best on Amazon Beauty.

    .venv-cornac/bin/python -m benchmarks.peers.cornac_sasrec SPLIT --out OUT

Settings: the README of cornac 3.0.1's TIGER tunes SASRec over loss, width, rate, dropout and history and names the best
by validation NDCG@10: BCE, width 128, rate 5e-4, dropout .2, the last 50 items; it reports Recall@10 / NDCG@10 of
.0740 / .0423 (seen items left in).  It does not say for how many epochs; 100 here, with the best of every fifth kept.
Validation scores users one at a time, so 2,000 of them, drawn once, stand for all (`--validation-users 0` takes all).
"""

import importlib

import cornac.models.sasrec.recom_sasrec as cornac_sasrec
from cornac.models import SASRec

from benchmarks.peers.cornac_split import cornac_split, rank_all
from benchmarks.peers.exchange import (
    ExportedSplit,
    Stopwatch,
    Training,
    parse_options,
    peer_parser,
    targets_per_epoch,
    write_measures,
    write_rankings,
)

AUTHORS = {
    "loss": "bce",
    "embedding_dim": 128,
    "learning_rate": 5e-4,
    "dropout": 0.2,
    "max_len": 50,
    "model_selection": "best",
    "val_metric": "ndcg",
    "val_k": 10,
    "val_eval_every": 5,
}


def main() -> None:
    """Train, rank, write."""
    parser = peer_parser(__doc__, epochs=100)
    parser.add_argument("--validation-users", type=int, default=2000, help="0 means all")
    options = parse_options(parser)
    split = ExportedSplit.read(options.split)
    data = cornac_split(split, validation_users=options.validation_users or None)
    settings = {**AUTHORS, "n_epochs": options.epochs, **options.set}
    model = SASRec(**settings, seed=options.seed, device=options.device, verbose=True)
    # cornac loads its network, and torch's compiler with it, when it trains: that is no training time.
    importlib.import_module("cornac.models.sasrec.sasrec")
    watch = Stopwatch()
    cornac_sasrec.val_score = watch.timed("validation", cornac_sasrec.val_score)
    with watch.time("fit"):
        model.fit(data.evaluation.train_set, data.evaluation.val_set)
    with watch.time("recommend"):
        write_rankings(options.out, rank_all(model, split, data, only_trained=True))
    training = Training(
        epochs=model.n_epochs,
        targets_per_epoch=targets_per_epoch(split),
        parameters=sum(parameter.numel() for parameter in model.model.parameters()),
        notes=("items of no training sequence are not recommended, as in the package's own evaluation",),
    )
    write_measures(options.out, options, package="cornac", settings=settings, training=training, watch=watch)


if __name__ == "__main__":
    main()
