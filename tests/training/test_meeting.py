"""The processes of one start find each other, whatever those before have left."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import DistStoreError, HashStore, Store  # type: ignore[attr-defined]

from alexnet_deploy.training.meeting import store_of_this_start


def met(store: Store, size: int, order: list[int]) -> list[Store]:
    """The stores of all ranks, which begin in that order."""
    with ThreadPoolExecutor(size) as pool:
        begun = {rank: pool.submit(store_of_this_start, store, rank, size, 30.0) for rank in order}
        return [begun[rank].result() for rank in range(size)]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_all_of_a_start_have_one_store_and_see_nothing_of_the_starts_before(order: list[int]) -> None:
    store = HashStore()
    # As many as before, fewer, and more.
    for number, size in enumerate((3, 3, 2, 3)):
        parts = met(store, size, [rank for rank in order if rank < size])
        assert not any(part.check(["address"]) for part in parts)
        parts[0].set("address", str(number))
        assert {part.get("address") for part in parts} == {str(number).encode()}


def test_a_question_that_was_left_is_no_process() -> None:
    store = HashStore()
    store.set("alexnet-deploy/asks/1", "gone")
    seconds = itertools.count().__next__
    with pytest.raises(DistStoreError, match="process 1 has not asked"):
        store_of_this_start(store, 0, 2, 5.0, clock=seconds, pause=lambda _seconds: None)


def test_a_process_whose_first_never_comes_ends() -> None:
    with pytest.raises(RuntimeError, match=r"(?i)time"):
        store_of_this_start(HashStore(), 1, 2, 0.05)


def test_one_alone_waits_for_nobody() -> None:
    store = store_of_this_start(HashStore(), 0, 1, 0.0, pause=lambda _seconds: pytest.fail("it waited"))
    store.set("a", "b")
    assert store.get("a") == b"b"
