"""Pruning leaves the share of weights that was asked for, the largest ones, and what is zero stays zero."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from alexnet_deploy.network import AlexNet, initialize
from alexnet_deploy.training.pruning import PRUNED_LAYERS, Pruner
from alexnet_deploy.variants import NetworkSpec
from tests.conftest import SMALL_SIDE


def narrow_network() -> AlexNet:
    """Its fc6 and fc7 have a few thousand weights, none of them zero."""
    network = AlexNet(NetworkSpec(classes=10, width=0.02, image_size=SMALL_SIDE))
    initialize(network, 0)
    return network


def pruned_network(density: float) -> AlexNet:
    network = narrow_network()
    pruner = Pruner(network, density, 2)
    for step in range(2):
        pruner.after_step(step)
    return network


def weights_of(network: AlexNet) -> list[Tensor]:
    state = network.state_dict()
    return [state[f"{name}.weight"] for name in PRUNED_LAYERS]


def density_of(weight: Tensor) -> float:
    return float(weight.count_nonzero()) / weight.numel()


def disturb(network: AlexNet, step: int) -> None:
    """What an optimizer does: every weight moves, the zeros too."""
    generator = torch.Generator().manual_seed(step)
    for weight in weights_of(network):
        weight.add_(torch.randn(weight.shape, generator=generator), alpha=1e-3)


@pytest.mark.parametrize("density", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("total", [1, 2, 7, 60, 120])
def test_the_density_asked_for_is_reached_to_the_weight(density: float, total: int) -> None:
    network = narrow_network()
    pruner = Pruner(network, density, total)
    for step in range(total):
        disturb(network, step)
        pruner.after_step(step)
    for weight in weights_of(network):
        assert int(weight.count_nonzero()) == round(density * weight.numel())


def test_the_largest_weights_are_those_that_stay() -> None:
    before = weights_of(narrow_network())
    for weight, old in zip(weights_of(pruned_network(0.2)), before, strict=True):
        kept = weight != 0
        assert torch.equal(weight[kept], old[kept])
        assert float(old[kept].abs().min()) >= float(old[~kept].abs().max())


def test_once_the_ramp_is_over_the_zeros_stay_where_they_are() -> None:
    network, total = narrow_network(), 120
    pruner = Pruner(network, 0.2, total)
    zeros: list[list[Tensor]] = []
    for step in range(total - 1):
        disturb(network, step)
        pruner.after_step(step)
        if step >= total // 2:
            zeros.append([weight == 0 for weight in weights_of(network)])
    for earlier, later in itertools.pairwise(zeros):
        assert all(torch.equal(a, b) for a, b in zip(earlier, later, strict=True))


def test_a_weight_that_was_cut_never_comes_back() -> None:
    network, total = narrow_network(), 100
    pruner = Pruner(network, 0.3, total)
    gone = [torch.zeros_like(weight, dtype=torch.bool) for weight in weights_of(network)]
    for step in range(total):
        disturb(network, step)
        pruner.after_step(step)
        for weight, dead in zip(weights_of(network), gone, strict=True):
            assert not bool(weight[dead].any())
            dead |= weight == 0


def test_the_density_falls_with_the_cube_of_the_time_left() -> None:
    pruner = Pruner(narrow_network(), 0.2, 100)
    assert pruner.density_at(0) == 1.0
    assert pruner.density_at(25) == pytest.approx(0.2 + 0.8 * 0.5**3)
    assert pruner.density_at(50) == pruner.density_at(99) == pytest.approx(0.2)
    found = [pruner.density_at(step) for step in range(100)]
    assert all(a >= b for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("density", [0.5, 0.99])
@pytest.mark.parametrize("total", [1, 60, 200])
def test_a_network_that_was_pruned_before_keeps_its_zeros(density: float, total: int) -> None:
    network = pruned_network(0.1)
    zeros = [weight == 0 for weight in weights_of(network)]
    assert all(bool(dead.any()) for dead in zeros)
    pruner = Pruner(network, density, total)
    for step in range(min(total, 60)):
        disturb(network, step)
        pruner.after_step(step)
        for weight, dead in zip(weights_of(network), zeros, strict=True):
            assert not bool(weight[dead].any()), step


def test_at_a_density_of_one_nothing_is_cut_or_held() -> None:
    network = pruned_network(0.1)
    pruner = Pruner(network, 1.0, 10)
    for step in range(10):
        disturb(network, step)
        pruner.after_step(step)
    assert all(density_of(weight) == 1.0 for weight in weights_of(network))


def test_other_layers_are_left_alone() -> None:
    before, after = narrow_network().state_dict(), pruned_network(0.1).state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{name}.weight" for name in PRUNED_LAYERS}
