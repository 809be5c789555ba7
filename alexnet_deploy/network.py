"""The AlexNet family as one torch module, built from the rows of `variants.py`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet_deploy.lrn.module import LocalResponseNorm
from alexnet_deploy.specs import LrnSpec
from alexnet_deploy.variants import Layer, NetworkSpec, layers_from_network

DROPOUT = 0.5


class AlexNet(nn.Module):
    """Any variant at any width: `(N, 3, S, S) float32` to `(N, classes) float32`.

    The children are named as the papers name the layers (`conv1`, `norm1`, `fc6` …), and so are the tensors of
    the state dict.

    Args:
        spec: Variant, classes, width, input size, softmax.
        dropout: Probability before `fc7` and `fc8` while training.
    """

    def __init__(self, spec: NetworkSpec, *, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.spec = spec
        self.layers = layers_from_network(spec)
        for layer in self.layers:
            self.add_module(layer.name, _module_from_layer(layer, spec.family.lrn, dropout))
        names = [layer.name for layer in self.layers]
        split = names.index("fc6")
        self._feature_names, self._head_names = names[:split], names[split:]
        self.feature_shape = self.layers[split - 1].output
        self.any_size = False

    def features(self, x: Tensor) -> Tensor:
        """The convolutional trunk: `(N, 3, S, S)` to `(N, C * side * side)`.

        With `any_size` set (progressive resizing), images of another size than the network's own are taken:
        the last feature map is then repeated up to the size that `fc6` reads.
        """
        for name in self._feature_names:
            x = getattr(self, name)(x)
        if self.any_size and x.shape[1:] != self.feature_shape:
            x = F.interpolate(x, size=self.feature_shape[1:], mode="nearest")
        return x.flatten(1)

    def head(self, x: Tensor) -> Tensor:
        """The fully connected layers: flat features to logits, or to probabilities where the spec says so."""
        for name in self._head_names:
            x = getattr(self, name)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(N, classes)` logits, or probabilities where the spec says so."""
        return self.head(self.features(x))


def _module_from_layer(layer: Layer, lrn: LrnSpec | None, dropout: float) -> nn.Module:
    match layer.op:
        case "conv":
            return nn.Conv2d(
                layer.input[0],
                layer.output[0],
                layer.kernel,
                stride=layer.stride,
                padding=layer.padding,
                groups=layer.groups,
            )
        case "linear":
            return nn.Linear(layer.input[0], layer.output[0])
        case "relu":
            return nn.ReLU(inplace=True)
        case "lrn":
            assert lrn is not None
            return LocalResponseNorm(lrn)
        case "pool":
            return nn.MaxPool2d(layer.kernel, layer.stride, ceil_mode=layer.ceil)
        case "dropout":
            return nn.Dropout(dropout)
        case "softmax":
            return nn.Softmax(dim=1)
    raise AssertionError(f"layer {layer.name} has the unknown op {layer.op}")


def initialize(network: AlexNet, seed: int) -> None:
    """Draws every weight anew: He et al. 2015, N(0, 2 / fan_in), and N(0, 0.01**2) for the last layer.

    The paper's N(0, 0.01**2) everywhere needs dozens of epochs to leave its plateau.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            deviation = 0.01 if name == "fc8" else (2.0 / fan_in) ** 0.5
            with torch.no_grad():
                module.weight.normal_(0.0, deviation, generator=generator)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
