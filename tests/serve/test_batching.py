"""Requests that wait are answered together, in bounded lines, and nobody is left without an answer."""

import asyncio
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import pytest

from sememe.serve.batching import Batcher, OverBudgetError
from sememe.serve.metrics import Metrics
from sememe.serve.problems import HttpProblem
from sememe.serve.settings import Batching


class Doubling:
    """Doubles numbers, once it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()

    def __call__(self, asked: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(asked))
        self.threads.add(threading.current_thread().name)
        assert self.may.wait(5)
        if 13 in asked:
            raise RuntimeError("13")
        return [ValueError("7") if number == 7 else 2 * number for number in asked]


def batcher(answer: Any, **settings: Any) -> Batcher[int, int]:
    return Batcher(answer, settings=Batching(**settings), metrics=Metrics())


def test_what_waits_is_answered_together_and_bulk_comes_second() -> None:
    answer = Doubling()

    async def run() -> tuple[list[int], list[int | Exception]]:
        line = batcher(answer, workers=1, most=4)
        first = asyncio.create_task(line.ask(0, within=5))
        await asyncio.sleep(0)
        bulk = asyncio.create_task(line.ask_all([10, 11, 12], within=5))
        single = [asyncio.create_task(line.ask(number, within=5)) for number in range(1, 7)]
        await asyncio.sleep(0.01)
        assert line.waiting == 9
        answer.may.set()
        told = [await first, *(await asyncio.gather(*single))], await bulk
        line.close()
        return told

    ones, bulk = asyncio.run(run())
    assert ones == [0, 2, 4, 6, 8, 10, 12] and bulk == [20, 22, 24]
    assert answer.batches == [[0], [1, 2, 3, 4], [5, 6], [10, 11, 12]]


def test_two_workers_answer_at_the_same_time() -> None:
    answer = Doubling()

    async def run() -> list[int]:
        line = batcher(answer, workers=2)
        tasks = []
        for number in range(4):
            tasks.append(asyncio.create_task(line.ask(number, within=5)))
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        assert answer.batches == [[0], [1]]
        answer.may.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [0, 2, 4, 6]
    assert len(answer.threads) == 2


def test_lingering_gathers_a_batch() -> None:
    answer = Doubling()
    answer.may.set()

    async def run() -> None:
        line = batcher(answer, workers=2, most=3, linger_ms=20.0)
        started = time.perf_counter()
        assert await asyncio.gather(*(line.ask(number, within=5) for number in range(3))) == [0, 2, 4]
        assert time.perf_counter() - started < 0.02
        assert await asyncio.gather(*(line.ask(number, within=5) for number in range(2))) == [0, 2]
        assert time.perf_counter() - started >= 0.02

    asyncio.run(run())
    assert answer.batches == [[0, 1, 2], [0, 1]]


def test_a_full_line_is_told_at_once_and_who_left_makes_room() -> None:
    answer = Doubling()

    async def run() -> None:
        line = batcher(answer, workers=1, queue=2, bulk_queue=3)
        under_way = asyncio.create_task(line.ask(0, within=5))
        await asyncio.sleep(0)
        late = [asyncio.create_task(line.ask(number, within=0.01)) for number in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(HttpProblem, match="2 requests wait already") as refused:
            await line.ask(3, within=5)
        assert refused.value.status == HTTPStatus.TOO_MANY_REQUESTS and refused.value.headers["retry-after"] == "1"
        for task in late:
            with pytest.raises(OverBudgetError):
                await task
        again = asyncio.create_task(line.ask(4, within=5))
        await asyncio.sleep(0)
        with pytest.raises(HttpProblem):
            await line.ask_all([1, 2, 3, 4], within=5)
        answer.may.set()
        assert await under_way == 0 and await again == 8

    asyncio.run(run())
    assert answer.batches == [[0], [4]]


def test_a_failure_is_told_to_those_whom_it_concerns_and_the_worker_goes_on() -> None:
    answer = Doubling()
    answer.may.set()

    async def run() -> None:
        line = batcher(answer, workers=1, linger_ms=5.0)
        found = await asyncio.gather(*(line.ask(number, within=5) for number in (6, 7, 8)), return_exceptions=True)
        assert found[0] == 12 and isinstance(found[1], ValueError) and found[2] == 16
        found = await asyncio.gather(*(line.ask(number, within=5) for number in (13, 1)), return_exceptions=True)
        assert all(isinstance(one, RuntimeError) for one in found)
        bulk = await line.ask_all([7, 3], within=5)
        assert isinstance(bulk[0], ValueError) and bulk[1] == 6

    asyncio.run(run())
    assert answer.batches[-1] == [7, 3]


def test_bulk_rows_that_come_too_late_are_told_apart() -> None:
    answer = Doubling()

    async def run() -> list[int | Exception]:
        line = batcher(answer, workers=1, most=2)
        asyncio.get_running_loop().call_later(0.1, answer.may.set)
        found = await line.ask_all([1, 2, 3], within=0.02)
        await asyncio.sleep(0.2)
        return found

    assert all(isinstance(one, OverBudgetError) for one in asyncio.run(run()))
    # The third row, for which nobody waits any more, is not searched.
    assert answer.batches == [[1, 2]]
