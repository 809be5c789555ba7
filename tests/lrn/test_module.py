"""Our Local Response Normalization is torch's, forward and backward, to the rounding of the type it computes in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from alexnet_deploy.lrn import module
from alexnet_deploy.lrn.module import LocalResponseNorm, band_matrix
from alexnet_deploy.specs import LrnSpec

# Shares of the largest value: a handful of FP32 roundings (6e-8 each), a few more after the chain rule.
FORWARD, BACKWARD = 2e-6, 1e-5
ALEXNET = LrnSpec(bias=2.0)


def images(shape: tuple[int, int, int, int] = (2, 12, 5, 7), *, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def torchs(spec: LrnSpec) -> nn.LocalResponseNorm:
    return nn.LocalResponseNorm(spec.size, alpha=spec.alpha, beta=spec.beta, k=spec.bias)


def forward_and_gradient(norm: nn.Module, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The output for x, and the gradient of the output's product with `weight`."""
    leaf = x.detach().clone().requires_grad_()
    y = norm(leaf)
    y.backward(weight.to(y.dtype))
    assert leaf.grad is not None
    return y.detach(), leaf.grad


def assert_is_torchs(x: Tensor, spec: LrnSpec) -> None:
    """Against torch's module in float64, so that the error is ours alone."""
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    y, gradient = forward_and_gradient(LocalResponseNorm(spec), x, weight)
    wanted_y, wanted_gradient = forward_and_gradient(torchs(spec), x.double(), weight.double())
    assert float((y.double() - wanted_y).abs().max()) <= FORWARD * float(wanted_y.abs().max())
    assert float((gradient.double() - wanted_gradient).abs().max()) <= BACKWARD * float(wanted_gradient.abs().max())
    assert y.dtype == x.dtype
    assert gradient.dtype == x.dtype


@pytest.mark.parametrize("size", [1, 3, 4, 5, 7, 9])
@pytest.mark.parametrize("beta", [0.3, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("bias", [1.0, 2.0])
@pytest.mark.parametrize("alpha", [1e-4, 1.0])
def test_forward_and_gradient_are_torchs(size: int, beta: float, bias: float, alpha: float) -> None:
    assert_is_torchs(images(), LrnSpec(size=size, alpha=alpha, beta=beta, bias=bias))


@pytest.mark.parametrize("size", [3, 4, 5, 9])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_window_wider_than_the_channels_is_cut_off_at_both_ends(size: int, channels: int) -> None:
    assert_is_torchs(images((3, channels, 4, 5)), LrnSpec(size=size, alpha=1.0))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_it_is_torchs_at_every_scale_of_the_input(scale: float) -> None:
    assert_is_torchs(images((2, 96, 3, 3), scale=scale), ALEXNET)


def test_a_channels_last_input_gives_the_same_and_stays_channels_last() -> None:
    x = images((2, 16, 5, 7)).to(memory_format=torch.channels_last)
    assert_is_torchs(x, ALEXNET)
    y = LocalResponseNorm(ALEXNET)(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, LocalResponseNorm(ALEXNET)(x.contiguous()))


def test_an_input_that_is_a_slice_gives_the_same() -> None:
    whole = images((4, 16, 9, 9))
    part = whole[::2, 2:14, 1:8, ::3]
    assert_is_torchs(part, ALEXNET)
    assert torch.equal(LocalResponseNorm(ALEXNET)(part), LocalResponseNorm(ALEXNET)(part.contiguous()))


@pytest.mark.parametrize("block", [1, 7, 34, 35, 69, 70, 71])
def test_blocks_that_do_not_divide_the_pixels_give_the_same(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", block)
    assert_is_torchs(images((2, 12, 5, 7)), LrnSpec(alpha=1.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_width_type_is_kept_and_rounded_once(dtype: torch.dtype) -> None:
    x, weight = images().to(dtype), images(seed=4)
    spec = LrnSpec(alpha=1.0)
    y, gradient = forward_and_gradient(LocalResponseNorm(spec), x, weight)
    wanted_y, wanted_gradient = forward_and_gradient(torchs(spec), x.double(), weight.to(dtype).double())
    assert y.dtype == gradient.dtype == dtype
    half_step = torch.finfo(dtype).eps
    assert torch.allclose(y.double(), wanted_y, rtol=half_step, atol=1e-6)
    largest = float(wanted_gradient.abs().max())
    assert torch.allclose(gradient.double(), wanted_gradient, rtol=half_step, atol=1e-6 * largest)


def test_a_float64_input_is_kept_in_float64() -> None:
    assert_is_torchs(images().double(), LrnSpec(alpha=1.0))


def test_the_gradient_is_the_slope_of_the_output() -> None:
    """Central differences of torch's forward in float64, which know nothing of anybody's backward."""
    spec = LrnSpec(size=3, alpha=1.0, beta=0.75)
    x, weight = images((1, 5, 1, 2), scale=1.0), images((1, 5, 1, 2), seed=8).double()
    _, gradient = forward_and_gradient(LocalResponseNorm(spec), x, weight.float())
    step = 1e-5
    for index in range(x.numel()):
        nudge = torch.zeros(x.numel(), dtype=torch.float64)
        nudge[index] = step
        up, down = (torchs(spec)(x.double() + sign * nudge.view(x.shape)) for sign in (1, -1))
        slope = float(((up - down) * weight).sum() / (2 * step))
        assert float(gradient.flatten()[index]) == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_under_autocast_it_still_computes_in_fp32() -> None:
    x = images()
    with torch.autocast("cpu", torch.bfloat16):
        y = LocalResponseNorm(LrnSpec(alpha=1.0))(x)
    assert torch.equal(y, LocalResponseNorm(LrnSpec(alpha=1.0))(x))


def test_a_nan_spreads_over_its_own_pixel_alone() -> None:
    x = images((2, 16, 3, 3))
    clean = LocalResponseNorm(ALEXNET)(x)
    x[1, 4, 2, 0] = torch.nan
    y = LocalResponseNorm(ALEXNET)(x)
    assert bool(y[1, :, 2, 0].isnan().all())
    assert int(y.isnan().sum()) == 16
    others = ~y.isnan()
    assert torch.equal(y[others], clean[others])


def test_an_input_that_is_no_batch_of_images_takes_torchs_form() -> None:
    rows = torch.randn(4, 12, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(LocalResponseNorm(ALEXNET)(rows), torchs(ALEXNET)(rows))


def test_under_export_it_is_torchs_own_decomposition() -> None:
    program = torch.export.export(LocalResponseNorm(ALEXNET), (images(),))
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("avg_pool" in target for target in targets)
    assert not any("addmm" in target or "mm.default" in target for target in targets)


def test_an_empty_batch_stays_empty() -> None:
    assert LocalResponseNorm(ALEXNET)(torch.zeros(0, 8, 3, 3)).shape == (0, 8, 3, 3)


def test_the_input_is_left_alone() -> None:
    x = images()
    before = x.clone()
    LocalResponseNorm(ALEXNET)(x)
    assert torch.equal(x, before)


def test_the_band_holds_the_window_of_every_channel() -> None:
    band = band_matrix(4, LrnSpec(size=3, alpha=3.0))
    assert band.tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]


def test_an_even_window_reaches_one_channel_further_down_as_torchs_does() -> None:
    band = band_matrix(4, LrnSpec(size=2, alpha=2.0))
    assert band.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_it_prints_its_constants() -> None:
    assert "size=5, alpha=0.0001, beta=0.75, bias=2.0" in repr(LocalResponseNorm(ALEXNET))
