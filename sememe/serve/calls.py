"""Calls that block, to stores mostly, off the event loop: a few threads, and a bound on how many may wait for them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sememe.serve.problems import too_many

Result = TypeVar("Result")


class Calls:
    """Used from one event loop."""

    def __init__(self, *, threads: int = 4, most: int) -> None:
        """most: calls that may be under way or wait."""
        self._pool = ThreadPoolExecutor(threads, "sememe-calls")
        self._most = most
        self._under_way = 0

    async def run(self, call: Callable[[], Result]) -> Result:
        """What `call` returns or raises; it is made even where nobody waits for it any more.

        Raises HttpProblem (429) where too many wait.
        """
        if self._under_way >= self._most:
            raise too_many(f"{self._under_way} calls are under way, and {self._most} may be", retry_after=1.0)
        self._under_way += 1
        job = asyncio.get_running_loop().run_in_executor(self._pool, call)
        job.add_done_callback(self._done)
        return await asyncio.shield(job)

    def close(self) -> None:
        """Let calls that began finish, and end the threads."""
        self._pool.shutdown(wait=True)

    def _done(self, job: "asyncio.Future[Result]") -> None:
        self._under_way -= 1
        # Looked at, so that a failure that nobody waits for is not told as forgotten.
        if not job.cancelled():
            job.exception()
