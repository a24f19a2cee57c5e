"""What was shown to whom: every list that was answered, in the exposure log, where one is kept."""

import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from sememe.serve.stores.exposures import Exposure, ExposureLog, read_exposures
from sememe.serve.wire import RecommendAnswer, RecommendRequest, Shown


class ShownLists:
    """Logs lists; safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        """Raises StoreDownError where the folder cannot be made."""
        self._folder, self._log = folder, ExposureLog(folder)

    def write(self, asked: Sequence[RecommendRequest], answers: Sequence[RecommendAnswer]) -> None:
        """Take the lists that are about to be sent; they are written later, by another thread."""
        now = time.time_ns() // 1_000_000
        self._log.write(
            Exposure(
                request_id=answer.request_id,
                user_id=one.user_id,
                timestamp=now,
                model=answer.model,
                item_ids=[item.item_id for item in answer.items],
                positions=range(len(answer.items)),
                scores=[item.score for item in answer.items],
                # Nothing is drawn at random: the list is the only one that could have been shown.
                propensities=None,
                source=answer.source,
            )
            for one, answer in zip(asked, answers, strict=True)
        )

    def export_user(self, user_id: str) -> list[Shown]:
        """All lists of a user, oldest first; those that another server has not written yet are not found.

        Raises:
            StoreDownError: a part cannot be written.
            ArtifactError: one is damaged.
        """
        self._log.flush()
        found = read_exposures(self._folder).filter(pl.col("user_id") == user_id)
        return [Shown(**row) for row in found.select("request_id", "timestamp", "item_ids").iter_rows(named=True)]

    def delete_user(self, user_id: str) -> int:
        """Delete the lists of a user: how many there were.  Raises as `export_user` does."""
        return self._log.delete_user(user_id)

    def close(self) -> None:
        """Write what waits.  Raises StoreDownError where that fails."""
        self._log.close()
