"""Before a model takes over: the same histories to the old one and the new one, and what differs.

Shape legend: k items of a list.
"""

import contextlib
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from sememe.core.errors import DataError, SememeError
from sememe.core.seeding import generator
from sememe.pipeline.engine import Answer, Request
from sememe.serve.served import Served
from sememe.serve.settings import Canary
from sememe.serve.wire_models import CanaryAnswer

READ = 50
"""Items of a history."""
FAILURES = (SememeError, RuntimeError, ArithmeticError, LookupError)
"""What a model may do wrong."""


class CanaryError(SememeError):
    """A model is not fit to take over."""


@dataclass
class _Tally:
    overlaps: list[float] = field(default_factory=list)
    old_seconds: list[float] = field(default_factory=list)
    new_seconds: list[float] = field(default_factory=list)
    unreadable: int = 0
    failures: list[str] = field(default_factory=list)


def compare(old: Served, new: Served, plan: Canary) -> CanaryAnswer:
    """Ask both for lists.

    Raises CanaryError where the new one fails, knows too few of the items, or is too slow by the limits of `plan`.
    """
    tally = _Tally()
    for history in drawn_histories(old, count=plan.requests):
        request = Request(history=history, k=plan.k)
        started = time.perf_counter()
        try:
            (after,) = new.engine.recommend([request])
        except DataError:
            tally.unreadable += 1
            continue
        except FAILURES as error:
            tally.failures.append(f"{type(error).__name__}: {error}")
            continue
        tally.new_seconds.append(time.perf_counter() - started)
        if not after.items or not all(math.isfinite(score) for score in after.scores):
            tally.failures.append("a list is empty, or a score is no number")
            continue
        started = time.perf_counter()
        # One that is out of order must not keep another from taking its place.
        with contextlib.suppress(*FAILURES):
            (before,) = old.engine.recommend([request])
            tally.old_seconds.append(time.perf_counter() - started)
            tally.overlaps.append(_overlap(before, after))
    found = _answer(tally, requests=plan.requests)
    _judge(tally, found, plan)
    return found


def drawn_histories(served: Served, *, count: int) -> list[list[str]]:
    """The newest items of users of the run, drawn by a fixed seed."""
    serving = served.engine.serving
    log = serving.run.world.interactions
    lengths = log.lengths()
    users = (lengths > 0).nonzero()[0]
    chosen = generator(0, "canary").permutation(users)[:count]
    return [[str(name) for name in serving.items.names(log.history(int(user))[-READ:])] for user in chosen]


def _overlap(before: Answer, after: Answer) -> float:
    shared = {str(item) for item in before.items} & {str(item) for item in after.items}
    return len(shared) / max(1, len(before.items))


def _answer(tally: _Tally, *, requests: int) -> CanaryAnswer:
    return CanaryAnswer(
        requests=requests,
        unreadable=tally.unreadable,
        failures=len(tally.failures),
        overlap=statistics.fmean(tally.overlaps) if tally.overlaps else 0.0,
        old_ms=1000 * _median(tally.old_seconds),
        new_ms=1000 * _median(tally.new_seconds),
    )


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


def _judge(tally: _Tally, found: CanaryAnswer, plan: Canary) -> None:
    fix = "look at the model, or change the limits: --set canary.most_slower=10"
    if tally.failures:
        raise CanaryError(
            f"the new model failed on {found.failures} of {found.requests} histories: {tally.failures[0]}", fix=fix
        )
    if found.unreadable > plan.most_unreadable * found.requests:
        raise CanaryError(
            f"the new model knows no item of {found.unreadable} of {found.requests} histories: it is of another "
            "catalogue",
            fix="activate a model of the same items",
        )
    if not tally.overlaps:  # the old one answers nothing, and says nothing of the new one
        return
    if found.overlap < plan.least_overlap:
        raise CanaryError(
            f"lists of the new model share {found.overlap:.2f} of the old ones' items, below canary.least_overlap",
            fix=fix,
        )
    if found.new_ms > max(plan.most_slower * found.old_ms, plan.slow_ms):
        raise CanaryError(
            f"the new model takes {found.new_ms:.1f} ms for a list, and the old one {found.old_ms:.1f} ms", fix=fix
        )
