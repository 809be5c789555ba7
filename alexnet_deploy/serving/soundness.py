"""Whether the session still computes: one that is broken for good would answer every request with an error."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from alexnet_deploy.errors import SessionError
from alexnet_deploy.serving.options import BROKEN_AFTER, TRY_SECONDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alexnet_deploy.serving.batching import Batcher


class Soundness:
    """What the last batches say of the session.

    Args:
        batcher: Runs the session.
        image: `(1, 3, S, S) float32`, to try the session with.
        hung_s: A run that takes longer is taken for one that does not end.
    """

    def __init__(self, batcher: Batcher, image: NDArray[np.float32], hung_s: float) -> None:
        self._batcher, self._image, self._hung_s = batcher, image, hung_s

    @property
    def problem(self) -> str | None:
        """Why no request should be sent; None where nothing is known against it."""
        since = self._batcher.running_since
        if since is not None and time.monotonic() - since > self._hung_s:
            return f"a batch has been computed for more than {self._hung_s:g} s"
        if self._batcher.failures >= BROKEN_AFTER:
            return f"the last {self._batcher.failures} batches failed"
        return None

    async def require(self) -> None:
        """Holds the session for sound, unless trying it shows that it is not.

        What failed may have hung on what was sent, or be over; and nothing else is sent while there is a problem.

        Raises:
            SessionError: It is not.
        """
        if self.problem is not None and self._batcher.running_since is None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(TRY_SECONDS):
                    await self._batcher.submit(self._image)
        if (problem := self.problem) is not None:
            raise SessionError("the session does not compute any more", got=problem)
