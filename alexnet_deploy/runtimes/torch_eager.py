"""PyTorch on the CPU: eager, the reference that every other runtime is compared with, and compiled by Inductor."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alexnet_deploy.errors import RuntimeUnavailableError
from alexnet_deploy.runtimes.session import KernelTime, Session, SessionSpec
from alexnet_deploy.specs import Precision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_COMPILERS = ("g++", "clang++", "c++")


class TorchSession(Session):
    """FP32, or bf16 by autocast over weights that are bf16; channels_last, which is what oneDNN computes in.

    Raises:
        RuntimeUnavailableError: It is to be compiled and there is no C++ compiler.
    """

    def __init__(self, spec: SessionSpec) -> None:
        import torch

        from alexnet_deploy.weights import load_model

        compiled = spec.runtime == "torch-compile"
        if compiled and not os.environ.get("CXX") and not any(map(shutil.which, _COMPILERS)):
            raise RuntimeUnavailableError(
                f"torch.compile needs a C++ compiler: none of {', '.join(_COMPILERS)} is here"
            )
        torch.set_num_threads(spec.threads)
        network, _ = load_model(str(spec.path))
        self._network = network.to(memory_format=torch.channels_last)
        self._call: Any = torch.compile(self._network) if compiled else self._network
        self._autocast = spec.precision is Precision.BF16
        if self._autocast:
            # Autocast alone casts every weight in every run: 61 million of them, for one image too.
            for layer in network.modules():
                if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                    layer.to(torch.bfloat16)
        self._profiles = spec.profile and not compiled
        self.image_shape = (3, network.spec.image_size, network.spec.image_size)

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            batch = torch.from_numpy(images).to(memory_format=torch.channels_last)
            outputs: NDArray[np.float32] = self._call(batch).float().numpy()
        return outputs

    def layer_times(self, batches: Sequence[NDArray[np.float32]], runs: int) -> list[list[KernelTime]] | None:
        return [self._kernels(images, runs) for images in batches] if self._profiles else None

    def _kernels(self, images: NDArray[np.float32], runs: int) -> list[KernelTime]:
        import numpy as np

        self._run(images)
        starts: dict[str, float] = {}
        taken: dict[str, list[float]] = {}
        hooks = []
        for name, layer in self._network.named_modules():
            if name and not list(layer.children()):
                hooks.append(layer.register_forward_pre_hook(_starter(name, starts)))
                hooks.append(layer.register_forward_hook(_stopper(name, starts, taken)))
        for _ in range(runs):
            self._run(images)
        for hook in hooks:
            hook.remove()
        return [KernelTime(name=name, op="", milliseconds=float(np.median(ms))) for name, ms in taken.items()]


def _starter(name: str, starts: dict[str, float]) -> Any:
    def before(*_arguments: object) -> None:
        starts[name] = time.perf_counter()

    return before


def _stopper(name: str, starts: dict[str, float], taken: dict[str, list[float]]) -> Any:
    def after(*_arguments: object) -> None:
        taken.setdefault(name, []).append((time.perf_counter() - starts[name]) * 1e3)

    return after
