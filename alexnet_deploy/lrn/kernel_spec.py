"""What an instance of the LRN kernel computes, and over how many tiles. Standard library only, no compiler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alexnet_deploy.specs import LrnSpec

POOL_KERNEL, POOL_STRIDE = 3, 2


@dataclass(frozen=True, kw_only=True)
class KernelSpec:
    """What one instance of the kernel computes.

    Attributes:
        lrn: The window and the constants; all are compiled in.
        pooled: Whether the 3x3 stride-2 max pool behind the norm is part of it (no padding, sides rounded down).
        channels_last: NHWC instead of NCHW memory.
    """

    lrn: LrnSpec
    pooled: bool = False
    channels_last: bool = False

    @property
    def blocks(self) -> tuple[int, int]:
        """Channels and output pixels in a tile; the longer side lies along the memory."""
        return (32, 16) if self.channels_last else (16, 32)

    @property
    def constants(self) -> dict[str, Any]:
        """The kernel's compile-time arguments. The window is ONNX's: `(size - 1) // 2` below, `size // 2` above."""
        block_c, block_p = self.blocks
        return {
            "BELOW": (self.lrn.size - 1) // 2,
            "ABOVE": self.lrn.size // 2,
            "SCALE": self.lrn.alpha / self.lrn.size,
            "BETA": self.lrn.beta,
            "BIAS": self.lrn.bias,
            "SIDE": POOL_KERNEL if self.pooled else 1,
            "STRIDE": POOL_STRIDE if self.pooled else 1,
            "CHANNELS_LAST": self.channels_last,
            "BLOCK_C": block_c,
            "BLOCK_P": block_p,
        }

    def output_shape(self, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """`(N, C, H, W)` of the output."""
        n, c, h, w = shape
        return (n, c, pooled_side(h), pooled_side(w)) if self.pooled else shape

    def grid(self, shape: tuple[int, int, int, int]) -> int:
        """How many tiles an input of `(N, C, H, W)` takes."""
        (block_c, block_p), (n, c, h, w) = self.blocks, self.output_shape(shape)
        return n * -(-c // block_c) * -(-(h * w) // block_p)


def pooled_side(side: int) -> int:
    """Height or width behind the pool."""
    return (side - POOL_KERNEL) // POOL_STRIDE + 1
