"""TensorRT and TensorRT-RTX engines.

This version builds engines and proves their precision; it does not execute them. The session says so, and why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alexnet_deploy.errors import RuntimeUnavailableError
from alexnet_deploy.machine import count_gpus
from alexnet_deploy.runtimes.session import Session, SessionSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NOT_RUN = "built, not run: "


class EngineSession(Session):
    """Always unavailable for now.

    Raises:
        RuntimeUnavailableError: The reason, as a bench row shows it.
    """

    def __init__(self, spec: SessionSpec) -> None:
        if count_gpus() == 0:
            raise RuntimeUnavailableError(f"{NOT_RUN}no CUDA device")
        raise RuntimeUnavailableError(f"{NOT_RUN}executing engines is not in this version")

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        raise AssertionError("an engine session cannot be opened")
