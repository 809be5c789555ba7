"""Work cut into chunks that do not depend on how many work on it, and answers put back in their order, once each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alexnet_deploy.errors import SessionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What a job says of a chunk: plain arrays by name, which travel as they are.
Arrays = dict[str, "NDArray[Any]"]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Positions `start` to `stop` of a job's indices; `number` counts chunks from zero."""

    number: int
    start: int
    stop: int

    def of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which images these are."""
        return indices[self.start : self.stop]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one chunk."""

    chunk: Chunk
    arrays: Arrays


def chunks_of(count: int, size: int, first: int = 0) -> list[Chunk]:
    """Cuts positions `first` to `count` into chunks of one size; the last one may be smaller."""
    starts = range(first, count, size)
    return [Chunk(number=n, start=start, stop=min(start + size, count)) for n, start in enumerate(starts)]


def in_order(answers: Iterable[Answer], chunks: list[Chunk]) -> Iterator[Answer]:
    """Every chunk's answer once, in the order of the chunks, whatever order they come in and how often.

    A chunk whose worker died runs again, and may be answered twice: its answer is a function of the chunk alone, so
    that the first one is as good as any.

    Raises:
        SessionError: A chunk has no answer.
    """
    waiting: dict[int, Answer] = {}
    following = 0
    for answer in answers:
        if answer.chunk.number >= following:
            waiting.setdefault(answer.chunk.number, answer)
        while following in waiting:
            yield waiting.pop(following)
            following += 1
    if following < len(chunks):
        missing = chunks[following]
        raise SessionError(
            "a part of the images has no answer",
            got=f"nothing for images {missing.start} to {missing.stop - 1}",
            expected=f"answers to {len(chunks)} chunks",
        )
