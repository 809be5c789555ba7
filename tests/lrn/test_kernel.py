"""The kernel takes every shape, layout and type that it says it takes, and refuses the others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError
from alexnet_deploy.lrn.oracle import lrn_reference
from alexnet_deploy.specs import LrnSpec

pytest.importorskip("triton")

from alexnet_deploy.lrn.kernel import lrn_on_device
from alexnet_deploy.lrn.kernel_spec import KernelSpec, pooled_side

PAPER = LrnSpec(size=5, alpha=1e-2, beta=0.75, bias=2.0)
EVEN = LrnSpec(size=4, alpha=1e-2, beta=0.6, bias=1.0)
FORMS = [(pooled, channels_last) for pooled in (False, True) for channels_last in (False, True)]
forms = pytest.mark.parametrize(
    ("pooled", "channels_last"), FORMS, ids=["NCHW", "NHWC", "NCHW and pool", "NHWC and pool"]
)


def activations(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Nowhere zero, so that a tile that was not written cannot be right."""
    generator = torch.Generator().manual_seed(7)
    return (torch.rand(shape, generator=generator) * 20 + 1).to(dtype)


def by_definition(x: torch.Tensor, spec: KernelSpec) -> NDArray[np.float64]:
    normed = torch.from_numpy(lrn_reference(x.double().numpy(), spec.lrn))
    result: NDArray[np.float64] = (torch.max_pool2d(normed, 3, 2) if spec.pooled else normed).numpy()
    return result


def assert_normed(x: torch.Tensor, spec: KernelSpec) -> torch.Tensor:
    before = x.clone()
    y = lrn_on_device(x, spec)
    assert y.dtype == x.dtype and torch.equal(x, before)
    rtol = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}[x.dtype]
    np.testing.assert_allclose(y.double().numpy(), by_definition(x, spec), rtol=rtol, atol=0)
    return y


# The blocks are 16 channels by 32 pixels, and 32 by 16 in NHWC memory.
@forms
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 3, 3), (1, 16, 4, 8), (1, 17, 3, 11), (2, 33, 5, 7), (1, 2, 9, 13), (3, 3, 3, 3)],
    ids=lambda shape: "x".join(str(side) for side in shape),
)
def test_every_output_of_every_image_is_written(
    pooled: bool, channels_last: bool, shape: tuple[int, int, int, int]
) -> None:
    spec = KernelSpec(lrn=PAPER, pooled=pooled, channels_last=channels_last)
    y = assert_normed(activations(*shape), spec)
    assert tuple(y.shape) == spec.output_shape(shape)
    assert y.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@forms
def test_sixteen_bits_are_summed_in_fp32(pooled: bool, channels_last: bool, dtype: torch.dtype) -> None:
    """The squares of these overflow FP16."""
    spec = KernelSpec(lrn=PAPER, pooled=pooled, channels_last=channels_last)
    assert_normed(activations(1, 9, 5, 5, dtype=dtype) * 300, spec)


@forms
def test_an_even_window_reaches_one_channel_further_up(pooled: bool, channels_last: bool) -> None:
    assert_normed(activations(1, 9, 3, 5), KernelSpec(lrn=EVEN, pooled=pooled, channels_last=channels_last))
    x = torch.zeros(1, 9, 1, 1)
    x[:, 4] = 1000.0
    x[:, [3, 5, 2, 6]] = 1.0
    y = lrn_on_device(x, KernelSpec(lrn=EVEN, channels_last=channels_last))
    shrunk = [channel for channel in (2, 3, 5, 6) if float(y[0, channel, 0, 0]) < 0.5]
    assert shrunk == [2, 3, 5]


@pytest.mark.parametrize("pooled", [False, True])
def test_nhwc_memory_gives_what_nchw_gives(pooled: bool) -> None:
    x = activations(2, 35, 5, 7)
    rows = KernelSpec(lrn=PAPER, pooled=pooled, channels_last=True)
    assert torch.equal(lrn_on_device(x, rows), lrn_on_device(x, KernelSpec(lrn=PAPER, pooled=pooled)))


@forms
def test_strides_of_the_input_do_not_matter(pooled: bool, channels_last: bool) -> None:
    spec = KernelSpec(lrn=PAPER, pooled=pooled, channels_last=channels_last)
    whole = activations(2, 12, 10, 7)
    for view in (
        whole[:, ::2],
        whole[:, :, 1:8, ::2],
        whole.transpose(2, 3),
        whole.contiguous(memory_format=torch.channels_last),
        whole[:1].expand(3, -1, -1, -1),
    ):
        assert_normed(view, spec)


@forms
def test_an_image_does_not_depend_on_its_batch(pooled: bool, channels_last: bool) -> None:
    spec = KernelSpec(lrn=PAPER, pooled=pooled, channels_last=channels_last)
    x = activations(3, 18, 5, 7)
    together = lrn_on_device(x, spec)
    for image in range(3):
        assert torch.equal(lrn_on_device(x[image : image + 1], spec), together[image : image + 1])


@forms
@pytest.mark.parametrize("shape", [(0, 4, 5, 5), (2, 0, 5, 5)])
def test_nothing_in_gives_nothing_out(pooled: bool, channels_last: bool, shape: tuple[int, int, int, int]) -> None:
    spec = KernelSpec(lrn=PAPER, pooled=pooled, channels_last=channels_last)
    y = lrn_on_device(torch.empty(shape), spec)
    assert tuple(y.shape) == spec.output_shape(shape) and y.numel() == 0


@pytest.mark.parametrize("pooled", [False, True])
def test_a_nan_stays_in_its_window(pooled: bool) -> None:
    """Behind the pool, every window of pixels that holds it."""
    x = activations(1, 9, 5, 5)
    x[0, 4, 2, 2] = math.nan
    y = lrn_on_device(x, KernelSpec(lrn=PAPER, pooled=pooled))
    found = torch.isnan(y)[0]
    assert found.any(dim=(1, 2)).tolist() == [2 <= channel <= 6 for channel in range(9)]
    assert int(found[4].sum()) == (4 if pooled else 1)


@pytest.mark.parametrize(("side", "pooled"), [(3, 1), (4, 1), (5, 2), (6, 2), (13, 6), (27, 13), (55, 27)])
def test_the_pool_rounds_its_sides_down(side: int, pooled: int) -> None:
    assert pooled_side(side) == pooled
    assert pooled_side(side) == torch.max_pool2d(torch.zeros(1, 1, side, side), 3, 2).shape[2]


@pytest.mark.parametrize(
    ("pooled", "channels_last", "shape", "tiles"),
    [
        (False, False, (2, 17, 3, 11), 2 * 2 * 2),
        (False, False, (1, 16, 4, 8), 1),
        (False, True, (2, 17, 3, 11), 2 * 1 * 3),
        (False, True, (1, 33, 4, 4), 2),
        (True, False, (1, 96, 55, 55), 6 * 23),
        (True, True, (1, 96, 55, 55), 3 * 46),
        (True, False, (16, 256, 27, 27), 16 * 16 * 6),
        (False, False, (0, 8, 5, 5), 0),
    ],
)
def test_the_grid_has_a_tile_for_every_output(
    pooled: bool, channels_last: bool, shape: tuple[int, int, int, int], tiles: int
) -> None:
    assert KernelSpec(lrn=PAPER, pooled=pooled, channels_last=channels_last).grid(shape) == tiles


@given(size=st.integers(1, 40))
def test_the_window_has_its_size_and_is_onnxs(size: int) -> None:
    constants = KernelSpec(lrn=LrnSpec(size=size)).constants
    assert constants["BELOW"] + 1 + constants["ABOVE"] == size
    assert constants["ABOVE"] - constants["BELOW"] == (size + 1) % 2


@pytest.mark.parametrize(
    ("x", "pooled", "word"),
    [
        (torch.zeros(2, 3, 4), False, "(2, 3, 4)"),
        (torch.zeros(1, 2, 3, 4, 5), False, "(1, 2, 3, 4, 5)"),
        (torch.zeros(1, 2, 3, 4, dtype=torch.float64), False, "float64"),
        (torch.zeros(1, 2, 3, 4, dtype=torch.int8), False, "int8"),
        (torch.zeros(1, 2, 2, 9), True, "(1, 2, 2, 9)"),
        (torch.zeros(1, 2, 9, 2), True, "(1, 2, 9, 2)"),
    ],
    ids=["three sides", "five sides", "float64", "int8", "too low for the pool", "too narrow for the pool"],
)
def test_what_the_kernel_cannot_read_is_refused(x: torch.Tensor, pooled: bool, word: str) -> None:
    with pytest.raises(InputError, match="cannot read this tensor") as caught:
        lrn_on_device(x, KernelSpec(lrn=PAPER, pooled=pooled))
    assert word in str(caught.value.got)
    assert ("H and W of 3" in str(caught.value.expected)) == pooled


def test_what_is_too_small_for_the_pool_is_not_for_the_norm() -> None:
    assert_normed(activations(1, 5, 1, 2), KernelSpec(lrn=PAPER))
