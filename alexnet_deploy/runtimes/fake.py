"""A runtime without a model, for tests of everything that measures: linear in the images, and as slow as told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.errors import SessionError
from alexnet_deploy.runtimes.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FakeSession(Session):
    """Gives for class c the mean of the image times c.

    Args:
        image_shape: `(3, S, S)`.
        classes: Columns of the output.
        tick: Called at every run; a test moves its clock here.
        fails_at: Raises at this run, counted from 0.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (3, 8, 8),
        classes: int = 10,
        *,
        tick: Callable[[], None] | None = None,
        fails_at: int | None = None,
    ) -> None:
        self.image_shape, self.classes = image_shape, classes
        self.runs, self.closed = 0, False
        self._tick, self._fails_at = tick, fails_at

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.runs == self._fails_at:
            raise SessionError("the fake runtime failed, as it was told to")
        self.runs += 1
        if self._tick:
            self._tick()
        means = images.mean(axis=(1, 2, 3), keepdims=False)
        return np.outer(means, np.arange(self.classes)).astype(np.float32)

    def close(self) -> None:
        self.closed = True
