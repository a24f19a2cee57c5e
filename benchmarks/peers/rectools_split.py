"""An exported split as a RecTools data set, its training with the best epoch kept, and its lists.

The validation event of each user picks the epoch, by Recall@10 with the history left out, as the authors of RecTools do
in their benchmark of eSASRec (Recall@10, 50 epochs of patience); training sees the training part only, and lists are
asked for with the validation event in the history.  RecTools orders events by time, so the place in the sequence stands
for the time, which keeps the order of ties; real times are used where a model reads them.  Items of no training
sequence are unknown to RecTools: it neither reads nor recommends them.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import Callback
from rectools import Columns
from rectools.dataset import Dataset

from benchmarks.peers.exchange import (
    DEPTH,
    ExportedSplit,
    Stopwatch,
    Training,
    targets_per_epoch,
    write_measures,
    write_rankings,
)

EPOCH = np.datetime64("2020-01-01", "ns")
NAMES = {Columns.User: "user", Columns.Item: "item"}


def rectools_dataset(split: ExportedSplit, *, real_times: bool = False) -> Dataset:
    """Training part and validation events.  Ends the program where times are to be real and contradict the order."""
    known = split.part("train", "valid")
    frame = pd.DataFrame({name: known[column].to_numpy() for name, column in NAMES.items()})
    frame[Columns.Weight] = 1.0
    frame[Columns.Datetime] = _real_times(known) if real_times else EPOCH + np.arange(len(frame)).astype("m8[s]")
    return Dataset.construct(frame)


def asking_times(split: ExportedSplit, *, of: str) -> pd.DataFrame:
    """When each list is asked for: the time of the "test" event, or the last known one ("known")."""
    parts = split.part("test") if of == "test" else split.part("train", "valid")
    last = parts.group_by("user", maintain_order=True).agg(pl.col("timestamp").last())
    last = last.filter(pl.col("user").is_in(split.part("test")["user"].implode()))
    return pd.DataFrame(
        {
            Columns.User: last["user"].to_numpy(),
            Columns.Datetime: last["timestamp"].to_numpy().astype("M8[ms]").astype("M8[ns]"),
            Columns.Weight: 1.0,
        }
    )


def last_events(interactions: pd.DataFrame, users: Sequence[int]) -> np.ndarray[Any, Any]:
    """(E,) True at the last event of each of `users`: what RecTools keeps out of training and validates on."""
    last = ~interactions[Columns.User].duplicated(keep="last")
    return np.asarray(last & interactions[Columns.User].isin(users))


class KeepBest(Callback):
    """Recall@10 after every epoch, history left out; the weights of the best epoch are put back at the end."""

    def __init__(self, *, patience: int | None) -> None:
        self._patience = patience
        self._running: Any = None
        self._hits: list[torch.Tensor] = []
        self._weights: dict[str, torch.Tensor] = {}
        self.curve: list[float] = []
        self.watch = Stopwatch()

    @property
    def best_epoch(self) -> int:
        """Counted from 1."""
        return int(np.argmax(self.curve)) + 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._running = self.watch.time("validation")
        self._running.__enter__()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Rank all items for the sequences of the batch."""
        model = pl_module.torch_model
        states = model.encode_sessions(batch, pl_module.item_embs)[:, -1, :]
        scores = model.similarity_module(states, pl_module.item_embs)
        # Place 0 is padding, which also stands in short histories: it goes out with the seen items.
        scores = scores.scatter(1, batch["x"], -torch.inf)
        self._hits.append((scores.topk(10).indices == batch["y"][:, -1:]).any(dim=1).float().cpu())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights where they are the best so far; stop where patience is over."""
        self.curve.append(float(torch.cat(self._hits).mean()))
        self._hits.clear()
        if self.best_epoch == len(self.curve):
            self._weights = {name: value.detach().cpu().clone() for name, value in pl_module.state_dict().items()}
        if self._patience is not None and len(self.curve) - self.best_epoch >= self._patience:
            trainer.should_stop = True
        self._running.__exit__(None, None, None)
        print(f"epoch {len(self.curve)}: recall@10 {self.curve[-1]:.4f}, best {max(self.curve):.4f}", flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the best weights back."""
        pl_module.load_state_dict(self._weights)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained model and how it went."""

    model: Any
    keep: KeepBest


def fit(
    model_class: Any, split: ExportedSplit, dataset: Dataset, settings: Mapping[str, Any], *, options: Any
) -> Fitted:
    """Train the model with these settings for `options.epochs` epochs, or until `options.patience` is over."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    seed_everything(options.seed)

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=options.epochs,
            accelerator="gpu" if options.device == "cuda" else "cpu",
            devices=1,
            callbacks=[KeepBest(patience=options.patience or None)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )

    model = model_class(
        **settings,
        get_trainer_func=trainer,
        get_val_mask_func=last_events,
        get_val_mask_func_kwargs={"users": split.part("valid")["user"].to_list()},
        recommend_torch_device=options.device,
    )
    model.fit(dataset)
    # RecTools trains with a deep copy of the trainer, so the callback that saw the training is the copy's.
    return Fitted(model, next(each for each in model.fit_trainer.callbacks if isinstance(each, KeepBest)))


def run_peer(
    model_class: Any,
    settings: Mapping[str, Any],
    options: Any,
    *,
    real_times: bool = False,
    asked_at: str | None = None,
    notes: tuple[str, ...] = (),
) -> None:
    """Train, rank, write.

    real_times: the model reads times.
    asked_at: the time that a list is asked for, where it reads that too; see `asking_times`.
    """
    split = ExportedSplit.read(options.split)
    dataset = rectools_dataset(split, real_times=real_times)
    settings = {**settings, **options.set}
    watch = Stopwatch()
    with watch.time("fit"):
        fitted = fit(model_class, split, dataset, settings, options=options)
    with watch.time("recommend"):
        context = None if asked_at is None else asking_times(split, of=asked_at)
        write_rankings(options.out, recommend(fitted.model, split, dataset, context=context))
    keep = fitted.keep
    watch.seconds |= keep.watch.seconds
    watch.cpu_seconds |= keep.watch.cpu_seconds
    training = Training(
        epochs=len(keep.curve),
        targets_per_epoch=targets_per_epoch(split, longest=settings["session_max_len"]),
        parameters=sum(parameter.numel() for parameter in fitted.model.torch_model.parameters()),
        notes=(
            f"validation recall@10, history left out, was best after epoch {keep.best_epoch}: {max(keep.curve):.4f}",
            "items of no training sequence are not recommended: the package does not know them",
            *notes,
        ),
    )
    write_measures(options.out, options, package="rectools", settings=settings, training=training, watch=watch)


def recommend(model: Any, split: ExportedSplit, dataset: Dataset, *, context: pd.DataFrame | None) -> pl.DataFrame:
    """Every test user's lists, seen items left in and left out."""
    users: Sequence[int] = list(split.histories)
    tables = []
    for mask_seen in (False, True):
        found = model.recommend(
            users=users,
            dataset=dataset,
            k=DEPTH,
            filter_viewed=mask_seen,
            on_unsupported_targets="warn",
            context=None if context is None else context.copy(),
        )
        columns = {
            "user": found[Columns.User].to_numpy().astype(np.int32),
            "rank": found[Columns.Rank].to_numpy().astype(np.int32),
            "item": found[Columns.Item].to_numpy().astype(np.int32),
            "score": found[Columns.Score].to_numpy().astype(np.float32),
        }
        tables.append(pl.DataFrame(columns).with_columns(mask_seen=pl.lit(mask_seen)))
    return pl.concat(tables)


def _real_times(events: pl.DataFrame) -> np.ndarray[Any, Any]:
    times = events["timestamp"]
    if times.null_count():
        raise SystemExit("this split has no times, and the model is to read them: --time none")
    backwards = events.filter((pl.col("timestamp").diff() < 0).over("user")).height
    if backwards:
        raise SystemExit(f"{backwards} events are older than the user's event before them: --time none")
    return times.to_numpy().astype("M8[ms]").astype("M8[ns]")
