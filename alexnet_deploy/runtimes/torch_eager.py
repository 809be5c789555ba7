"""PyTorch, eager, on the CPU: the reference that every other runtime is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alexnet_deploy.runtimes.session import Session, SessionSpec
from alexnet_deploy.specs import Precision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TorchSession(Session):
    """FP32, or bf16 by autocast; channels_last, which is what oneDNN computes in."""

    def __init__(self, spec: SessionSpec) -> None:
        import torch

        from alexnet_deploy.weights import load_model

        torch.set_num_threads(spec.threads)
        network, _ = load_model(str(spec.path))
        self._network = network.to(memory_format=torch.channels_last)
        self._autocast = spec.precision is Precision.BF16
        self.image_shape = (3, network.spec.image_size, network.spec.image_size)

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            batch = torch.from_numpy(images).to(memory_format=torch.channels_last)
            outputs: NDArray[np.float32] = self._network(batch).float().numpy()
        return outputs
