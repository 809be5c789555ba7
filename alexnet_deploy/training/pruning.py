"""Magnitude pruning of the fully connected layers, a little more at every few steps.

The density follows M. Zhu and S. Gupta, To prune, or not to prune (2017): it falls with the cube of the time
left, so that most weights go while there is time to make up for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from alexnet_deploy.network import AlexNet

# fc6 and fc7 hold 96 % of the weights; fc8 is small and every one of its rows is a class.
PRUNED_LAYERS = ("fc6", "fc7")
# Pruning is done by the middle of the run; the second half fine-tunes with fixed masks.
_RAMP_SHARE = 0.5
_STEPS_BETWEEN_CUTS = 25


class Pruner:
    """Keeps the masks of the pruned layers and holds their weights at zero.

    Args:
        network: Its `fc6` and `fc7` are pruned in place.
        density: Share of nonzero weights at the end.
        total_steps: Length of the run.
    """

    def __init__(self, network: AlexNet, density: float, total_steps: int) -> None:
        self._weights: list[Tensor] = [getattr(network, name).weight for name in PRUNED_LAYERS]
        self._density, self._total_steps = density, total_steps
        self._masks: list[Tensor] = []
        if density < 1:
            # A network that was pruned before keeps its zeros.
            self._masks = [weight.detach() != 0 for weight in self._weights]

    def density_at(self, step: int) -> float:
        """Share of nonzero weights wanted after `step`."""
        if step >= self._total_steps - 1:
            return self._density
        left = max(0.0, 1 - step / max(1, _RAMP_SHARE * self._total_steps))
        return self._density + (1 - self._density) * left**3

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Cuts the smallest weights where it is time to, and zeroes what the optimizer revived."""
        if not self._masks:
            return
        ramp_ends = round(_RAMP_SHARE * self._total_steps)
        if (step <= ramp_ends and step % _STEPS_BETWEEN_CUTS == 0) or step in (ramp_ends, self._total_steps - 1):
            self._masks = [
                _largest(weight * mask, self.density_at(step)) & mask
                for weight, mask in zip(self._weights, self._masks, strict=True)
            ]
        for weight, mask in zip(self._weights, self._masks, strict=True):
            weight.mul_(mask)


def _largest(weight: Tensor, density: float) -> Tensor:
    keep = round(weight.numel() * density)
    size = weight.abs().flatten()
    threshold = size.kthvalue(size.numel() - keep).values if keep < size.numel() else size.new_tensor(-1.0)
    return weight.abs() > threshold
