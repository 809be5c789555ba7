"""Dropout whose masks belong to the batch of a step, not to the process or the part that computes them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass
class Rows:
    """Which images of a step's batch a forward pass is of.

    Attributes:
        batch: Images in the batch, over all processes and parts.
        share: Those of this process.
        own: Positions in the share that the pass is of.
    """

    batch: int = 0
    share: slice = field(default_factory=lambda: slice(0))
    own: NDArray[np.int64] | None = None


class BatchDropout(nn.Dropout):
    """Draws the mask of the whole batch from torch's own generator and takes the rows that a pass is of.

    So a step's masks depend on the seed, the step and the image's place in the batch alone: any number of processes
    and parts drops the same activations. Where one process takes the whole batch at once, the numbers are those that
    `torch.nn.Dropout` draws on a CPU.

    Args:
        p: Probability of a zero.
        rows: Shared with whoever makes the passes, and set before each.
    """

    def __init__(self, p: float, rows: Rows) -> None:
        super().__init__(p)
        self._rows = rows
        self._noise: Tensor | None = None

    def begin(self) -> None:
        """A new step: the next pass draws."""
        self._noise = None

    def forward(self, x: Tensor) -> Tensor:
        """`(N, features)`, in which N are the rows of the pass."""
        if not self.training or self.p == 0:
            return x
        if self._noise is None:
            noise = torch.empty((self._rows.batch, *x.shape[1:]), dtype=x.dtype, device=x.device)
            self._noise = noise.bernoulli_(1 - self.p).div_(1 - self.p)[self._rows.share].clone()
        own = self._rows.own
        return x * (self._noise if own is None else self._noise[torch.from_numpy(own).to(x.device)])
