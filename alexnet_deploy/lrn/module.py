"""Local Response Normalization in torch, as fast as a CPU does it.

`torch.nn.LocalResponseNorm` builds a padded five-dimensional copy of the squares and pools over it. Here the
window sum is a product with a banded matrix, and forward and backward walk over blocks of pixels small enough
to stay in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from alexnet_deploy.specs import LrnSpec

# Pixels (rows of channels) in a block: 4096 rows of 96 channels in FP32 are 1.5 MB, so that the few
# temporaries of a block stay in a last-level cache; larger blocks spill, smaller ones pay calls.
BLOCK_ROWS = 4096


class LocalResponseNorm(nn.Module):
    """A drop-in for `torch.nn.LocalResponseNorm(size, alpha, beta, k)`.

    Forward and backward equal torch's to FP32 rounding. The banded form is used on the CPU in eager mode; on
    other devices, under `torch.compile` and under export it is torch's own function, which the exporter's
    decomposition and our recovery of the ONNX node rely on.

    A NaN in one channel spreads to every channel of its pixel in the banded form (0 * NaN is NaN in the matrix
    product); torch's own form keeps it within the window, and `contain_nan` asks for that form.
    """

    def __init__(self, spec: LrnSpec, *, contain_nan: bool = False) -> None:
        super().__init__()
        self.spec = spec
        self.contain_nan = contain_nan

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes `(N, C, H, W)` across C, in any floating type."""
        spec = self.spec
        as_torch = self.contain_nan or torch.compiler.is_compiling()
        if as_torch or x.device.type != "cpu" or x.dim() != 4:
            # Squares of FP16 above 255 overflow; under export the types are the exporter's affair.
            half = x.dtype in (torch.float16, torch.bfloat16) and not torch.compiler.is_compiling()
            wide = F.local_response_norm(x.float() if half else x, spec.size, spec.alpha, spec.beta, spec.bias)
            return wide.to(x.dtype) if half else wide
        y: Tensor = _BandedLrn.apply(x, spec)
        return y

    def extra_repr(self) -> str:
        """Shown by `print(module)`."""
        return f"size={self.spec.size}, alpha={self.spec.alpha}, beta={self.spec.beta}, bias={self.spec.bias}"


def band_matrix(channels: int, spec: LrnSpec) -> Tensor:
    """Returns `(C, C)` float32 with `alpha / size` where column i is in the window of row c.

    The window is torch's: `c - size // 2` to `c + (size - 1) // 2`, cut off at the first and last channel. For
    odd sizes it is ONNX's too.
    """
    index = torch.arange(channels)
    offset = index[None, :] - index[:, None]
    inside = (offset >= -(spec.size // 2)) & (offset <= (spec.size - 1) // 2)
    return inside.to(torch.float32) * (spec.alpha / spec.size)


def _rows(x: Tensor) -> Tensor:
    """`(N, C, H, W)` as `(N*H*W, C)`: a view for channels_last tensors, a copy for others."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _image(rows: Tensor, shape: torch.Size) -> Tensor:
    n, c, h, w = shape
    return rows.view(n, h, w, c).permute(0, 3, 1, 2)


def _power(sums: Tensor, beta: float) -> Tensor:
    """`sums ** -beta`; 0.75 by roots, which vectorize where pow does not.

    By reciprocal roots: `sqrt` is MKL's, whose first call in a process may give a thread's share to a kernel that is
    right to 2e-4 only, where two threads make it at once (https://github.com/pytorch/pytorch/issues/188792).
    """
    return sums.rsqrt().rsqrt_().div_(sums) if beta == 0.75 else sums.pow(-beta)


class _BandedLrn(torch.autograd.Function):
    """`y = x * s**-beta` with `s = bias + band @ x**2`; its gradient is

    `dx = g * s**-beta - 2 * beta * x * band.T @ (g * x * s**(-beta - 1))`, by the product and the chain rule.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, spec: LrnSpec) -> Tensor:
        rows = _rows(x)
        band = band_matrix(x.shape[1], spec)
        bias = torch.full((x.shape[1],), spec.bias)
        sums = torch.empty(rows.shape, dtype=torch.float32)
        y = torch.empty_like(rows)
        for start in range(0, rows.shape[0], BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS].float()
            s = sums[start : start + BLOCK_ROWS]
            torch.addmm(bias, block * block, band.T, out=s)
            y[start : start + BLOCK_ROWS] = _power(s, spec.beta).mul_(block)
        ctx.save_for_backward(rows, sums)
        ctx.band, ctx.spec, ctx.shape = band, spec, x.shape
        return _image(y, x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows, sums = ctx.saved_tensors
        beta = ctx.spec.beta
        grad_rows, dx = _rows(grad), torch.empty_like(rows)
        for start in range(0, rows.shape[0], BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            x, g, s = rows[part].float(), grad_rows[part].float(), sums[part]
            scale = _power(s, beta)
            inner = (g * x).mul_(scale).div_(s)
            outer = torch.mm(inner, ctx.band).mul_(x)
            dx[part] = g.mul(scale).sub_(outer, alpha=2 * beta)
        return _image(dx, ctx.shape), None
