"""The smallest AlexNet there is, and what its files are made of."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from alexnet_deploy.network import AlexNet, initialize
from alexnet_deploy.specs import Preprocessing, Resize
from alexnet_deploy.variants import NetworkSpec
from alexnet_deploy.weights import ModelInfo

SPEC = NetworkSpec(variant="paper", classes=4, width=0.002, image_size=63)
PREPROCESSING = Preprocessing(image_size=63, resize_size=63, resize=Resize.STRETCH)
INFO = ModelInfo(name="tiny", network=SPEC, preprocessing=PREPROCESSING, labels=("a", "b", "c", "d"))


@cache
def tiny_network(image_size: int = SPEC.image_size) -> AlexNet:
    """Eight channels everywhere; read it, do not change it."""
    network = AlexNet(replace(SPEC, image_size=image_size))
    initialize(network, 0)
    with torch.no_grad():
        network.fc8.bias.copy_(torch.arange(4.0))  # type: ignore[operator, union-attr]
    return network.eval()
