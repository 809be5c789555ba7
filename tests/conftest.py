"""Small real things that many tests need: a network, a checkpoint, images, a workspace."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from alexnet_deploy.data.catalog import FASHION_MNIST_CLASSES
from alexnet_deploy.data.sources import ArraySource
from alexnet_deploy.network import AlexNet, initialize
from alexnet_deploy.specs import Preprocessing, Resize
from alexnet_deploy.variants import NetworkSpec
from alexnet_deploy.weights import ModelInfo, save_checkpoint

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a script; the commands that are tested would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# The smallest input at which every variant still has a pixel after its last pool, and a fast one.
SMALL_SIDE = 99


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the clone."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def _torch_threads() -> Iterator[None]:
    """Results must not depend on the machine's number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def small_preprocessing(side: int = SMALL_SIDE) -> Preprocessing:
    """Fashion-MNIST's, at another size."""
    return Preprocessing(image_size=side, resize_size=side, resize=Resize.STRETCH, mean=(0.286,) * 3, std=(0.353,) * 3)


def small_network(variant: str = "paper", *, seed: int = 0, classes: int = 10) -> AlexNet:
    """A network of an eighth of the width with weights and biases that all matter."""
    network = AlexNet(NetworkSpec(variant=variant, classes=classes, width=0.125, image_size=SMALL_SIDE))
    initialize(network, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(0, 0.1, generator=generator)
        network.fc8.weight.normal_(0, 0.1, generator=generator)  # type: ignore[operator, union-attr]
    return network.eval()


def small_info(variant: str = "paper") -> ModelInfo:
    """Describes `small_network`."""
    spec = NetworkSpec(variant=variant, classes=10, width=0.125, image_size=SMALL_SIDE)
    return ModelInfo(name="small", network=spec, preprocessing=small_preprocessing(), labels=FASHION_MNIST_CLASSES)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small_network` on disk."""
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_checkpoint(small_network(), small_info(), path)
    return path


def random_images(count: int, *, side: int = 28, colour: bool = False, seed: int = 0) -> ArraySource:
    """Noise with labels, for what does not depend on what an image shows."""
    random = np.random.default_rng(seed)
    shape = (count, side, side, 3) if colour else (count, side, side)
    images = random.integers(0, 256, shape, dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % 10
    return ArraySource(images, labels, FASHION_MNIST_CLASSES, "noise")
