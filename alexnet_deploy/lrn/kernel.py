"""Local Response Normalization for NVIDIA GPUs, written once in Triton: alone, and with the max pool behind it.

One kernel serves every type, layout and SM. On a GPU it is compiled just in time, `lrn/cubin.py` compiles it ahead
of time, and on a CPU Triton's interpreter runs it, which is how it is tested where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from alexnet_deploy.errors import InputError
from alexnet_deploy.lrn.kernel_spec import POOL_KERNEL, KernelSpec

if TYPE_CHECKING:
    import torch


def lrn_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    channels,
    height,
    width,
    out_height,
    out_width,
    y_ptr,
    BELOW: tl.constexpr,
    ABOVE: tl.constexpr,
    SCALE: tl.constexpr,
    BETA: tl.constexpr,
    BIAS: tl.constexpr,
    SIDE: tl.constexpr,
    STRIDE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """One tile of `BLOCK_C` channels by `BLOCK_P` output pixels; the grid is flat, pixels fastest, images slowest.

    The arguments are in the order that TensorRT's ahead-of-time plugins call with: input, integers, output.
    """
    out_pixels = out_height * out_width
    # Not tl.cdiv and tl.zeros: they are compiled functions, which the interpreter cannot call from here.
    pixel_blocks = (out_pixels + BLOCK_P - 1) // BLOCK_P
    channel_blocks = (channels + BLOCK_C - 1) // BLOCK_C
    program = tl.program_id(0)
    pixel = program % pixel_blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    program = program // pixel_blocks
    channel = program % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    # Offsets into a batch pass 2**31 before sizes do.
    image = (program // channel_blocks).to(tl.int64)
    row, column = pixel // out_width, pixel % out_width
    pixel_inside = (pixel < out_pixels)[None, :]
    if CHANNELS_LAST:
        channel_step, pixel_step = 1, channels
    else:
        channel_step, pixel_step = height * width, 1
    best = tl.full([BLOCK_C, BLOCK_P], float("-inf"), tl.float32)
    # Not unrolled: nine taps at once take more registers than a thread has.
    for tap in range(SIDE * SIDE):
        at = (row * STRIDE + tap // SIDE) * width + column * STRIDE + tap % SIDE
        here = image * channels * height * width + channel[:, None] * channel_step + at[None, :] * pixel_step
        squares = tl.full([BLOCK_C, BLOCK_P], 0.0, tl.float32)
        x = tl.full([BLOCK_C, BLOCK_P], 0.0, tl.float32)
        for shift in tl.static_range(-BELOW, ABOVE + 1):
            near = channel + shift
            inside = ((near >= 0) & (near < channels))[:, None] & pixel_inside
            value = tl.load(x_ptr + here + shift * channel_step, mask=inside, other=0.0).to(tl.float32)
            squares += value * value
            if shift == 0:
                x = value
        sums = BIAS + SCALE * squares
        if BETA == 0.75:
            root = tl.rsqrt(sums)
            y = x * (root * tl.sqrt(root))
        elif BETA == 0.5:
            y = x * tl.rsqrt(sums)
        elif BETA == 1.0:
            y = x / sums
        else:
            # sums = m * 2**e, 1 <= m < 2: the hardware's log2 and exp2 are exact to FP32 only near 1.
            bits = sums.to(tl.int32, bitcast=True)
            mantissa = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
            exponent = -BETA * ((bits >> 23) - 127).to(tl.float32)
            whole = tl.floor(exponent)
            power = tl.exp2(exponent - whole - BETA * tl.log2(mantissa)) * tl.exp2(whole)
            y = x * tl.where(sums < float("inf"), power, 1.0 / sums)
        best = y if SIDE == 1 else tl.maximum(best, y, propagate_nan=tl.PropagateNan.ALL)
    if CHANNELS_LAST:
        there = (image * out_pixels + pixel[None, :]) * channels + channel[:, None]
    else:
        there = (image * channels + channel[:, None]) * out_pixels + pixel[None, :]
    tl.store(y_ptr + there, best.to(y_ptr.dtype.element_ty), mask=(channel < channels)[:, None] & pixel_inside)


compiled_lrn: Any = JITFunction(lrn_kernel)
_interpreted_lrn: Any = InterpretedFunction(lrn_kernel)


def lrn_on_device(x: torch.Tensor, spec: KernelSpec) -> torch.Tensor:
    """Runs the kernel on a tensor: on its GPU, or under Triton's interpreter where it is on the CPU.

    Args:
        x: `(N, C, H, W)` in float32, float16 or bfloat16.
        spec: What to compute.

    Returns:
        `spec.output_shape` in the type and memory format of `x`.

    Raises:
        InputError: The tensor has other dimensions or another type, or is smaller than the pool.
    """
    import torch

    wrong = x.dtype not in (torch.float32, torch.float16, torch.bfloat16) or x.dim() != 4
    if wrong or (spec.pooled and min(x.shape[2:]) < POOL_KERNEL):
        raise InputError(
            "the LRN kernel cannot read this tensor",
            got=f"{x.dtype} of shape {tuple(x.shape)}",
            expected="float32, float16 or bfloat16 of (N, C, H, W)"
            + (", H and W of 3 at least" if spec.pooled else ""),
        )
    memory = torch.channels_last if spec.channels_last else torch.contiguous_format
    x = x.contiguous(memory_format=memory)
    shape = (x.shape[0], x.shape[1], x.shape[2], x.shape[3])
    out = spec.output_shape(shape)
    y = torch.empty(out, dtype=x.dtype, device=x.device, memory_format=memory)
    if y.numel():
        run: Callable[..., Any] = (compiled_lrn if x.is_cuda else _interpreted_lrn)[(spec.grid(shape),)]
        run(x, *shape[1:], *out[2:], y, **spec.constants)
    return y
