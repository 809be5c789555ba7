"""Where the processes of one start meet, and none that has ended.

torchrun (torch 2.14) keeps one store for as long as it lives. When it starts processes again, the addresses of those
before are still in it, and whoever reads one before it is written anew speaks to nobody.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import timedelta

from torch.distributed import DistStoreError, PrefixStore, Store  # type: ignore[attr-defined]

_SECONDS_BETWEEN_LOOKS = 0.02
_KEY = "alexnet-deploy"


def store_of_this_start(
    store: Store,
    rank: int,
    size: int,
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Store:
    """The part of a store that the processes of this start have to themselves.

    The first process draws its name. Each of the others asks under a name that it draws itself, so that no answer of
    another start is taken for its own, and says that it has heard.

    Args:
        store: Which all of them reach, with whatever was left in it.
        rank, size: Number of this process, and how many there are.
        timeout_s: How long to wait for the others.
        clock, pause: Of the waiting.

    Raises:
        DistStoreError: The others did not come.
    """
    own = secrets.token_hex(16)
    if rank == 0:
        _answer(store, own, size, clock() + timeout_s, clock, pause)
        return PrefixStore(f"{_KEY}/{own}", store)
    answer = f"{_KEY}/answer/{own}"
    store.set(f"{_KEY}/asks/{rank}", own)
    store.wait([answer], timedelta(seconds=timeout_s))
    name = store.get(answer).decode()
    store.set(f"{_KEY}/heard/{name}/{rank}", own)
    return PrefixStore(f"{_KEY}/{name}", store)


def _answer(
    store: Store,
    name: str,
    size: int,
    deadline: float,
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> None:
    waiting = set(range(1, size))
    while True:
        waiting -= {rank for rank in waiting if store.check([f"{_KEY}/heard/{name}/{rank}"])}
        if not waiting:
            return
        if clock() > deadline:
            raise DistStoreError(f"wait timeout: process {min(waiting)} has not asked for the store of this start")
        for rank in waiting:
            asks = f"{_KEY}/asks/{rank}"
            if store.check([asks]):
                # Perhaps of a process that has ended, which nobody reads.
                store.set(f"{_KEY}/answer/{store.get(asks).decode()}", name)
        pause(_SECONDS_BETWEEN_LOOKS)
