"""cornac's TIGER on an exported split, with one of the two configurations that it ships for Amazon Beauty.

    .venv-cornac/bin/python -m benchmarks.peers.cornac_tiger SPLIT --out OUT [--config grid]

"paischer" is cornac 3.0.1's best recipe (RQ-VAE of 8,000 epochs, 6 + 6 layers, about 200,000 steps of 64, validation of
2,000 users every fifth epoch) and reports Recall@10 / NDCG@10 of .0634 / .0338; "grid" is its fast one (residual
k-means, 4 + 4 layers, 50 epochs of batches of 256) and reports .0564 / .0288; seen items left in, beam 50, item text as
Sentence-T5 vectors.  Here the vectors are those of the split (all-MiniLM-L6-v2 by default, which Sememe's TIGER reads
too), beam 50.  Lists without seen items are the same beam with those taken out, so a long history can shorten them.
The beam searches one user at a time.
"""

import importlib
import math
from typing import Any

from cornac.models import TIGER
from cornac.models.tiger import GRID_CONFIG, PAISCHER_CONFIG

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

CONFIGS = {"paischer": PAISCHER_CONFIG, "grid": GRID_CONFIG}
BEAMS = 50
"""What the authors evaluate with."""


def collided(model: Any) -> int:
    """Items whose semantic codes another item before them has too; the last level tells them apart."""
    return int((model.sid_table[:, -1] > 0).sum())


def main() -> None:
    """Tokenize, train, rank, write."""
    parser = peer_parser(__doc__, epochs=None)
    parser.add_argument("--config", choices=tuple(CONFIGS), default="paischer")
    options = parse_options(parser)
    split = ExportedSplit.read(options.split)
    data = cornac_split(split, content=True)
    settings = {**CONFIGS[options.config], "n_beams": BEAMS}
    settings |= {"n_epochs": settings["n_epochs"] if options.epochs is None else options.epochs, **options.set}
    model = TIGER(**settings, seed=options.seed, device=options.device, verbose=True)
    # cornac loads transformers when it trains: that is no training time.
    importlib.import_module("cornac.models.tiger.tiger")
    watch = Stopwatch()
    model._tokenize = watch.timed("tokenizer", model._tokenize)
    model._validate = watch.timed("validation", model._validate)
    with watch.time("fit"):
        model.fit(data.evaluation.train_set, data.evaluation.val_set)
    with watch.time("recommend"):
        write_rankings(options.out, rank_all(model, split, data, only_trained=False))
    targets = targets_per_epoch(split)
    training = Training(
        epochs=model.n_epochs,
        targets_per_epoch=targets,
        parameters=sum(parameter.numel() for parameter in model.model.parameters()),
        notes=(
            f"configuration {options.config}, {math.ceil(targets / model.batch_size) * model.n_epochs:,} steps",
            f"item vectors: {split.meta['vectors']}; the authors use Sentence-T5",
            f"{collided(model)} items share their semantic codes with an earlier one",
        ),
    )
    write_measures(options.out, options, package="cornac", settings=settings, training=training, watch=watch)


if __name__ == "__main__":
    main()
