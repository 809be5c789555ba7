"""The torch module computes what the table says, and what torchvision computes where both have the network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from alexnet_deploy.network import AlexNet, initialize
from alexnet_deploy.variants import VARIANTS, NetworkSpec, layers_from_network
from alexnet_deploy.weights import load_model
from tests.conftest import SMALL_SIDE, small_network

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


def images(count: int = 2, side: int = SMALL_SIDE, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_parameters_are_as_many_as_the_table_says(variant: str) -> None:
    spec = NetworkSpec(variant=variant)
    with torch.device("meta"):
        network = AlexNet(spec)
    assert sum(p.numel() for p in network.parameters()) == sum(row.parameters for row in layers_from_network(spec))


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_every_layer_has_the_output_shape_of_the_table(variant: str) -> None:
    network = small_network(variant)
    seen: dict[str, tuple[int, ...]] = {}
    for name, child in network.named_children():
        child.register_forward_hook(lambda _m, _x, y, name=name: seen.__setitem__(name, tuple(y.shape[1:])))
    with torch.no_grad():
        network(images(1))
    assert seen == {layer.name: layer.output for layer in network.layers}


@pytest.mark.parametrize("variant", sorted(VARIANTS))
@pytest.mark.parametrize("count", [1, 3])
def test_the_output_is_one_row_of_logits_an_image(variant: str, count: int) -> None:
    with torch.no_grad():
        logits = small_network(variant)(images(count))
    assert logits.shape == (count, 10)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_tensors_are_named_after_the_layers_of_the_paper(variant: str) -> None:
    assert set(small_network(variant).state_dict()) == {f"{n}.{kind}" for n in LAYERS for kind in ("weight", "bias")}


@pytest.mark.parametrize("variant", ["paper", "bvlc", "caffenet", "unpadded"])
def test_it_computes_what_plain_torch_modules_in_the_published_order_compute(variant: str) -> None:
    """Written out again by hand, with torch's own LRN, against the module that the table builds."""
    network, family = small_network(variant), VARIANTS[variant]
    assert family.lrn is not None
    lrn = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0 if variant in ("paper", "unpadded") else 1.0)
    pool = nn.MaxPool2d(3, 2)
    between = [pool, lrn] if variant == "caffenet" else [lrn, pool]
    w = {name: tensor.double() for name, tensor in network.state_dict().items()}

    def conv(x: torch.Tensor, index: int, **geometry: int) -> torch.Tensor:
        return torch.conv2d(x, w[f"conv{index}.weight"], w[f"conv{index}.bias"], **geometry).relu()

    x = images().double()
    y = conv(x, 1, stride=4, padding=2 if variant == "paper" else 0)
    for module in between:
        y = module(y)
    y = conv(y, 2, padding=2, groups=2)
    for module in between:
        y = module(y)
    y = conv(conv(conv(y, 3, padding=1), 4, padding=1, groups=2), 5, padding=1, groups=2)
    y = nn.MaxPool2d(3, 2, ceil_mode=variant in ("bvlc", "caffenet"))(y).flatten(1)
    y = (y @ w["fc6.weight"].T + w["fc6.bias"]).relu()
    y = (y @ w["fc7.weight"].T + w["fc7.bias"]).relu()
    expected = y @ w["fc8.weight"].T + w["fc8.bias"]
    with torch.no_grad():
        got = network(images()).double()
    assert float((got - expected).abs().max()) <= 3e-6 * float(expected.abs().max())


def test_owt_is_torchvisions_alexnet_weight_for_weight(tmp_path: Path) -> None:
    from torchvision.models import alexnet

    torch.manual_seed(3)
    theirs = alexnet(weights=None, num_classes=17).eval()
    path = tmp_path / "alexnet.pth"
    torch.save(theirs.state_dict(), path)
    ours, info = load_model(str(path))
    assert info.network == NetworkSpec(variant="owt", classes=17)
    x = images(2, side=224)
    with torch.no_grad():
        expected, got = theirs(x), ours(x)
    assert float((got - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


def test_the_head_of_the_features_is_the_whole_network() -> None:
    network = small_network()
    with torch.no_grad():
        features = network.features(images())
        assert features.shape == (2, network.state_dict()["fc6.weight"].shape[1])
        assert torch.equal(network.head(features), network(images()))


def test_with_softmax_every_row_sums_to_one() -> None:
    logits_network = small_network()
    spec = NetworkSpec(classes=10, width=0.125, image_size=SMALL_SIDE, softmax=True)
    network = AlexNet(spec)
    network.load_state_dict(logits_network.state_dict())
    network.eval()
    with torch.no_grad():
        probabilities, logits = network(images(4)), logits_network(images(4))
    assert torch.allclose(probabilities.sum(1), torch.ones(4), rtol=0, atol=1e-6)
    assert torch.allclose(probabilities, logits.softmax(1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("side", [71, 80, 131])
def test_any_size_takes_images_of_another_size(side: int) -> None:
    network = small_network()
    network.any_size = True
    with torch.no_grad():
        logits = network(images(2, side=side))
        features = network.features(images(2, side=side))
    assert logits.shape == (2, 10)
    assert features.shape[1] == network.state_dict()["fc6.weight"].shape[1]
    assert bool(torch.isfinite(logits).all())


def test_any_size_changes_nothing_at_the_networks_own_size() -> None:
    network = small_network()
    with torch.no_grad():
        before = network(images())
        network.any_size = True
        assert torch.equal(network(images()), before)


def test_without_any_size_an_image_of_another_size_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), torch.no_grad():
        small_network()(images(1, side=131))


def test_dropout_acts_in_training_alone() -> None:
    network = small_network()
    with torch.no_grad():
        calm = [network(images()) for _ in range(2)]
        network.train()
        torch.manual_seed(0)
        wild = [network(images()) for _ in range(2)]
    assert torch.equal(*calm)
    assert not torch.equal(*wild)


def test_initialize_draws_the_same_weights_from_the_same_seed() -> None:
    networks = [AlexNet(NetworkSpec(width=0.125, classes=10, image_size=SMALL_SIDE)) for _ in range(3)]
    for network, seed in zip(networks, (5, 5, 6), strict=True):
        initialize(network, seed)
    first, same, other = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_initialize_draws_hes_deviation_and_no_biases() -> None:
    network = AlexNet(NetworkSpec(width=0.25, classes=100, image_size=SMALL_SIDE))
    initialize(network, 0)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            wanted = 0.01 if name == "fc8" else (2 / module.weight[0].numel()) ** 0.5
            # The deviation of n draws is off by about 1 / sqrt(2 n) of itself.
            slack = 5 / (2 * module.weight.numel()) ** 0.5
            assert float(module.weight.detach().std()) == pytest.approx(wanted, rel=slack)
            assert module.bias is not None
            assert not bool(module.bias.any())
