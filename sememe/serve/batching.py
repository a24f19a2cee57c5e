"""Requests that wait are answered together: micro-batches that grow with the load, and nobody waits without an end.

A free worker takes at once what came together, up to so many; while all workers are busy, what comes waits, and the
next batch is larger.  Two lines: requests for which somebody waits, and rows of bulk requests, which come second.  Both
are bounded, and who finds them full is told so at once.  Everything but `answer` runs on the event loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from sememe.serve.metrics import Metrics
from sememe.serve.problems import too_many
from sememe.serve.settings import Batching

Asked = TypeVar("Asked")
Told = TypeVar("Told")


class OverBudgetError(Exception):
    """The answer did not come in time."""


@dataclass(frozen=True, eq=False)
class Waiting(Generic[Asked, Told]):
    """A request in line."""

    asked: Asked
    answer: "asyncio.Future[Told]"


class Batcher(Generic[Asked, Told]):
    """Collects requests and has them answered by `answer`, one call at a time in each of several threads."""

    def __init__(
        self, answer: Callable[[Sequence[Asked]], Sequence[Told | Exception]], *, settings: Batching, metrics: Metrics
    ) -> None:
        """answer: one answer or exception per request, in order; called from the workers' threads."""
        self._answer, self._settings, self._metrics = answer, settings, metrics
        self._lines: tuple[deque[Waiting[Asked, Told]], ...] = (deque(), deque())
        self._idle = [ThreadPoolExecutor(1, f"sememe-{number}") for number in range(settings.workers)]
        self._workers = tuple(self._idle)
        self._timer: asyncio.Handle | None = None
        self._seconds_each = 0.001
        """How long a request takes of a worker, as it was lately: what Retry-After is worked out from."""

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return sum(len(line) for line in self._lines)

    async def ask(self, asked: Asked, *, within: float) -> Told:
        """The answer to one request.

        within: seconds.

        Raises:
            HttpProblem: too many wait (429).
            OverBudgetError: it took too long.
        """
        (answer,) = self._put([asked], line=0, most=self._settings.queue)
        try:
            async with asyncio.timeout(within):
                return await answer
        except TimeoutError:
            raise OverBudgetError from None

    async def ask_all(self, asked: Sequence[Asked], *, within: float) -> list[Told | Exception]:
        """An answer to each of many requests, or the exception that came of it; OverBudgetError for those too late.

        Raises HttpProblem (429) where there is no room for all of them.
        """
        answers = self._put(asked, line=1, most=self._settings.bulk_queue)
        _, late = await asyncio.wait(answers, timeout=within)
        for answer in late:
            answer.cancel()
        outcomes: list[Told | Exception] = [_outcome(answer) for answer in answers]
        return outcomes

    def close(self) -> None:
        """Let the workers finish what they have, and end them."""
        for worker in self._workers:
            worker.shutdown(wait=True)

    def _put(self, asked: Sequence[Asked], *, line: int, most: int) -> "list[asyncio.Future[Told]]":
        waiting = self._lines[line]
        if len(waiting) + len(asked) > most:
            # Those whose callers left make no queue.
            for _ in range(len(waiting)):
                one = waiting.popleft()
                if not one.answer.done():
                    waiting.append(one)
        if len(waiting) + len(asked) > most:
            seconds = self._seconds_each * self.waiting / max(1, len(self._workers))
            raise too_many(f"{len(waiting)} requests wait already, and {most} may", retry_after=seconds)
        loop = asyncio.get_running_loop()
        added = [Waiting[Asked, Told](one, loop.create_future()) for one in asked]
        waiting.extend(added)
        self._serve(loop)
        return [one.answer for one in added]

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give idle workers what waits: when all that came with it is in line too, or later."""
        linger = self._settings.linger_ms / 1000
        if len(self._lines[0]) >= self._settings.most:
            self._hand_out(loop)
        elif self._timer is None:
            soon = loop.call_soon if self._lines[1] or not linger else partial(loop.call_later, linger)
            self._timer = soon(self._hand_out, loop)

    def _hand_out(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle:
            batch = self._next()
            if not batch:
                break
            worker = self._idle.pop()
            self._metrics.batch_size.observe(len(batch))
            started = time.perf_counter()
            job = worker.submit(self._answer, [one.asked for one in batch])
            job.add_done_callback(
                lambda job, worker=worker, batch=batch, started=started: loop.call_soon_threadsafe(  # type: ignore[misc]
                    self._finish, job, worker, batch, started
                )
            )
        self._metrics.queue_length.set(self.waiting)

    def _next(self) -> list[Waiting[Asked, Told]]:
        """Those who wait in one line, the first before the second, without those whose callers left."""
        batch: list[Waiting[Asked, Told]] = []
        for line in self._lines:
            while line and len(batch) < self._settings.most:
                one = line.popleft()
                if not one.answer.done():
                    batch.append(one)
            if batch:
                break
        return batch

    def _finish(
        self,
        job: "Future[Sequence[Told | Exception]]",
        worker: ThreadPoolExecutor,
        batch: list[Waiting[Asked, Told]],
        started: float,
    ) -> None:
        """Tell the callers, and let the worker go on."""
        self._seconds_each += 0.1 * ((time.perf_counter() - started) / len(batch) - self._seconds_each)
        self._idle.append(worker)
        failed = job.exception()
        answers = [failed] * len(batch) if failed is not None else job.result()
        for one, answer in zip(batch, answers, strict=True):
            if one.answer.done():
                continue
            if isinstance(answer, BaseException):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)
        self._hand_out(asyncio.get_running_loop())


def _outcome(answer: "asyncio.Future[Any]") -> Any:
    if answer.cancelled() or not answer.done():
        return OverBudgetError()
    failed = answer.exception()
    if isinstance(failed, Exception):
        return failed
    return answer.result()
