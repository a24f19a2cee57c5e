"""From one model to the next without a dropped request: load beside the old one, compare, swap by one assignment.

Whatever is wrong with the new one, the old one goes on.  The pointer is moved when the new one is ready and before it
answers: a process that is killed anywhere leaves one of the two active, and each was found whole.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sememe.core.errors import ArtifactError, ConfigError, SememeError
from sememe.pipeline.opened import open_run, read_metrics
from sememe.serve.canary import compare
from sememe.serve.catalogue import CatalogueKeeper
from sememe.serve.memory import settle_memory
from sememe.serve.metrics import Metrics
from sememe.serve.models import ModelFolder, Pointer
from sememe.serve.served import Current, Served, headline
from sememe.serve.settings import Canary
from sememe.serve.wire_models import ActivateAnswer, CanaryAnswer, ModelEntry, ModelsAnswer

LOW_PRIORITY = 10
"""A tenth of a core where requests leave none, so that a model does take over then."""

_log = logging.getLogger(__name__)

Load = Callable[[Path], Served]
"""Opens a run directory as the server was told to."""


class Activator:
    """Says which model answers; one change at a time."""

    def __init__(
        self,
        folder: ModelFolder,
        current: Current,
        keeper: CatalogueKeeper,
        *,
        load: Load,
        canary: Canary,
        metrics: Metrics,
    ) -> None:
        """folder: whose active model `current` is."""
        self._folder, self._current, self._keeper = folder, current, keeper
        self._load, self._canary, self._metrics = load, canary, metrics
        self._name = folder.pointer().active
        self._refused: tuple[int, str] | None = None
        self._turn = threading.Lock()

    def list(self) -> ModelsAnswer:
        """The models there are.  Raises ArtifactError where the folder cannot be read."""
        pointer = self._folder.pointer()
        refused = self._refused if self._refused is not None and self._refused[0] == pointer.number else None
        return ModelsAnswer(
            active=pointer.active,
            previous=pointer.previous,
            models=[self._entry(name, pointer) for name in self._folder.names()],
            refused=None if refused is None else refused[1],
        )

    def activate(self, name: str) -> ActivateAnswer:
        """Have a model of the folder answer.

        Raises:
            UnknownModelError: there is none of this name.
            ArtifactError: it is damaged, of another version, or its stages do not belong together.
            ConfigError: it has not the row or the columns that the server was started for.
            CanaryError: it fails where the old one did not.
            SememeError: another change is under way.
        """
        self._folder.path_of(name)
        if not self._turn.acquire(blocking=False):
            raise ConfigError("another model is being activated", fix="wait until it is, and look at GET /v1/models")
        try:
            return self._take_over(name, point=lambda: self._folder.point_to(name))
        finally:
            self._turn.release()

    def roll_back(self) -> ActivateAnswer:
        """Have the model answer again that was active before.  Raises as `activate`, and ConfigError where none was."""
        return self.activate(previous_of(self._folder))

    def follow(self) -> None:
        """Take over what another replica, or a command, made active.  What is wrong with it is told by `list`."""
        pointer = self._folder.pointer()
        if pointer.active == self._name or (self._refused is not None and self._refused[0] == pointer.number):
            return
        if not self._turn.acquire(blocking=False):
            return
        try:
            self._take_over(pointer.active, point=lambda: pointer)
        except SememeError as error:
            self._refused = (pointer.number, error.problem)
            _log.warning("model %s is not taken over, and %s goes on: %s", pointer.active, self._name, error.problem)
        except Exception:
            # Not opened again with every look; what went wrong is written down by whoever looks.
            self._refused = (pointer.number, "it cannot be opened; the server's log says why")
            raise
        finally:
            self._turn.release()

    def _take_over(self, name: str, *, point: Callable[[], Pointer]) -> ActivateAnswer:
        started = time.monotonic()
        canary: CanaryAnswer | None = None
        if name == self._name:
            served, pointer = self._current.served, point()
        else:
            served = self._opened(name)
            canary = compare(self._current.served, served, self._canary)
            pointer = point()
            self._keeper.swap(served)
            self._name = name
            self._metrics.tell_model(version=served.version, row=served.row)
            settle_memory()
        return ActivateAnswer(
            active=pointer.active,
            previous=pointer.previous,
            model=served.version,
            canary=canary,
            seconds=round(time.monotonic() - started, 3),
        )

    def _opened(self, name: str) -> Served:
        try:
            return self._load(self._folder.path_of(name))
        except SememeError:
            raise
        except Exception as error:
            # Files that are whole, and of another version: any line that reads them may be the one that fails.
            _log.exception("model %s cannot be opened", name)
            raise ArtifactError(
                f"model {name} cannot be opened ({type(error).__name__}); the server's log says why",
                fix="if another version made it, run the recipe again with this one",
            ) from error

    def _entry(self, name: str, pointer: Pointer) -> ModelEntry:
        recipe = str(self._folder.describe(name)["models"][-1]["name"])
        return ModelEntry(
            name=name,
            active=name == pointer.active,
            answering=name == self._name,
            recipe=recipe,
            metrics=headline(read_metrics(self._folder.path_of(name)), recipe),
        )


def previous_of(folder: ModelFolder) -> str:
    """The model that was active before.  Raises ConfigError where none was."""
    previous = folder.pointer().previous
    if previous is None:
        raise ConfigError("no model was active before", fix="activate one by its name")
    return previous


def make_active(folder: ModelFolder, name: str) -> Pointer:
    """Point to a model that was found whole; servers of the folder take it over when they look.

    Raises UnknownModelError, and ArtifactError where it is damaged.
    """
    open_run(folder.path_of(name))
    return folder.point_to(name)


def step_back() -> None:
    """Have this thread leave the processor to those that answer; called once, by a thread that does nothing else."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW_PRIORITY)
