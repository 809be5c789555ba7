"""The batcher: what waits goes together, in order, within bounds; nobody is forgotten."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.errors import RequestError, SessionError
from alexnet_deploy.serving.batching import Batcher


class Gate:
    """A session that waits until it is let go, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.entered, self.released = threading.Semaphore(0), threading.Semaphore(0)
        self.error: Exception | None = None

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.batches.append(images[:, 0, 0, 0].tolist())
        self.entered.release()
        self.released.acquire()
        if self.error is not None:
            raise self.error
        return images[:, 0, 0, :1] * 10

    def let_all_go(self) -> None:
        for _ in range(1000):
            self.released.release()


@pytest.fixture
def gate() -> Iterator[Gate]:
    found = Gate()
    yield found
    found.let_all_go()


def of(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32).reshape(-1, 1, 1, 1) * np.ones((1, 3, 2, 2), np.float32)


async def entered(gate: Gate) -> None:
    await asyncio.to_thread(gate.entered.acquire)


async def waiting(batcher: Batcher, count: int) -> None:
    # A test that waits for ever says nothing.
    async with asyncio.timeout(60):
        while batcher.waiting != count:
            await asyncio.sleep(0)


def test_what_comes_during_a_batch_is_the_next_one(gate: Gate) -> None:
    sizes: list[int] = []

    async def scenario() -> list[list[float]]:
        batcher = Batcher(gate.run, max_batch=4, max_queue=9, ran=lambda images, seconds: sizes.append(images))
        first = asyncio.create_task(batcher.submit(of(1)))
        await entered(gate)
        tasks = []
        for count, values in ((2, (2, 3)), (3, (4,)), (5, (5, 6)), (6, (7,))):
            tasks.append(asyncio.create_task(batcher.submit(of(*values))))
            await waiting(batcher, count)
        gate.let_all_go()
        rows = await asyncio.gather(first, *tasks)
        await asyncio.to_thread(batcher.close)
        return [row[:, 0].tolist() for row in rows]

    assert asyncio.run(scenario()) == [[10], [20, 30], [40], [50, 60], [70]]
    # In the order in which they came: a smaller one does not overtake one that does not fit any more.
    assert gate.batches == [[1], [2, 3, 4], [5, 6, 7]]
    assert sizes == [1, 3, 3]


def test_a_full_queue_refuses_and_goes_on(gate: Gate) -> None:
    async def scenario() -> None:
        batcher = Batcher(gate.run, max_batch=2, max_queue=3)
        first = asyncio.create_task(batcher.submit(of(1)))
        await entered(gate)
        second = asyncio.create_task(batcher.submit(of(2, 3)))
        await waiting(batcher, 2)
        with pytest.raises(RequestError, match="queue is full") as refused:
            await batcher.submit(of(4, 5))
        assert refused.value.status == 503 and refused.value.retry_after_s == 1
        third = asyncio.create_task(batcher.submit(of(6)))
        await waiting(batcher, 3)
        gate.let_all_go()
        await asyncio.gather(first, second, third)
        await asyncio.to_thread(batcher.close)

    asyncio.run(scenario())
    assert gate.batches == [[1], [2, 3], [6]]


def test_one_that_is_cancelled_is_not_computed(gate: Gate) -> None:
    async def scenario() -> None:
        batcher = Batcher(gate.run, max_batch=4, max_queue=9)
        first = asyncio.create_task(batcher.submit(of(1)))
        await entered(gate)
        second, third = (asyncio.create_task(batcher.submit(of(value))) for value in (2, 3))
        await waiting(batcher, 2)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.let_all_go()
        await asyncio.gather(first, third)
        assert batcher.waiting == 0
        await asyncio.to_thread(batcher.close)

    asyncio.run(scenario())
    assert gate.batches == [[1], [3]]


def test_an_error_reaches_everybody_in_the_batch_and_nobody_else(gate: Gate) -> None:
    async def scenario() -> None:
        batcher = Batcher(gate.run, max_batch=4, max_queue=9)
        first = asyncio.create_task(batcher.submit(of(1)))
        await entered(gate)
        others = [asyncio.create_task(batcher.submit(of(value))) for value in (2, 3)]
        await waiting(batcher, 2)
        gate.released.release()
        assert (await first).tolist() == [[10]]
        await entered(gate)
        gate.error = SessionError("it broke")
        gate.released.release()
        found = await asyncio.gather(*others, return_exceptions=True)
        assert [str(error) for error in found] == ["it broke"] * 2
        gate.error = None
        gate.let_all_go()
        assert (await batcher.submit(of(4))).tolist() == [[40]]
        await asyncio.to_thread(batcher.close)

    asyncio.run(scenario())


def test_closing_computes_what_waits_and_takes_no_more(gate: Gate) -> None:
    async def scenario() -> None:
        batcher = Batcher(gate.run, max_batch=1, max_queue=9)
        tasks = [asyncio.create_task(batcher.submit(of(value))) for value in (1, 2, 3)]
        await entered(gate)
        await waiting(batcher, 2)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        while True:
            try:
                async with asyncio.timeout(0.01):
                    await batcher.submit(of(9))
            except RequestError as refused:
                assert "shutting down" in refused.line
                break
            except TimeoutError:
                continue
        gate.let_all_go()
        await closing
        assert [row.tolist() for row in await asyncio.gather(*tasks)] == [[[10]], [[20]], [[30]]]

    asyncio.run(scenario())
    assert [value for batch in gate.batches for value in batch if value != 9] == [1, 2, 3]


def test_with_a_wait_a_batch_fills_up(gate: Gate) -> None:
    """The wait is far longer than the test: the batch goes because it is full."""
    gate.let_all_go()

    async def scenario() -> None:
        batcher = Batcher(gate.run, max_batch=3, max_queue=9, wait_s=600)
        await asyncio.gather(*(batcher.submit(of(value)) for value in (1, 2, 3)))
        await asyncio.to_thread(batcher.close)

    asyncio.run(scenario())
    assert gate.batches == [[1, 2, 3]]


def test_a_loop_that_has_ended_is_no_end_of_the_thread(gate: Gate) -> None:
    batcher = Batcher(gate.run, max_batch=4, max_queue=9)

    async def leaves() -> None:
        task = asyncio.create_task(batcher.submit(of(1)))
        await entered(gate)
        task.cancel()

    asyncio.run(leaves())
    gate.let_all_go()
    assert asyncio.run(batcher.submit(of(2))).tolist() == [[20]]
    batcher.close()
