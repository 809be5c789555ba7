"""What the inputs of a layer look like to its weights: means and second moments over calibration images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alexnet_deploy.data.batches import batches
from alexnet_deploy.data.sources import ImageSource
from alexnet_deploy.graph import WeightedNode
from alexnet_deploy.progress import SILENT, Voice
from alexnet_deploy.specs import Preprocessing

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    import torch
    from numpy.typing import NDArray

_BATCH = 16
# Of an image that a filter sees in more places than these, they are as many as the filters of 13 x 13 maps have.
_PLACES = 169


@dataclass(frozen=True, kw_only=True)
class InputMoments:
    """Over the places where a filter is applied; a fully connected layer has one place an image.

    Attributes:
        mean: `(groups, inputs)`.
        second: `(groups, inputs, inputs)`, the mean of `x x^T`; only its diagonal, `(groups, inputs)`, where no more
            was asked for.
    """

    mean: NDArray[np.float64]
    second: NDArray[np.float32]


def moments_from_images(
    model: ir.Model,
    source: ImageSource,
    preprocessing: Preprocessing,
    layers: list[WeightedNode],
    *,
    full: bool,
    voice: Voice = SILENT,
) -> dict[str, InputMoments]:
    """One pass of the FP32 graph over the images.

    Args:
        model: The FP32 graph.
        source: Calibration images.
        preprocessing: That of the model.
        layers: Of the graph.
        full: Second moments between all inputs, and not only each input's own; memory grows with the square of a
            layer's inputs, 340 MB for AlexNet's fc6.
        voice: Shows progress.
    """
    import torch

    from alexnet_deploy.precision.calibrate import ObservingSession

    names = list(dict.fromkeys(str(layer.activation.name) for layer in layers))
    session = ObservingSession(model, names)
    sums = {layer.name: _Sums() for layer in layers}
    with voice.track("moments", len(source)) as track:
        for batch in batches(source, _BATCH, preprocessing):
            arrays = dict(zip(names, session.run(batch.images), strict=True))
            for layer in layers:
                seen = columns(layer, torch.from_numpy(arrays[str(layer.activation.name)]))
                sums[layer.name].add(_fewer(seen, len(batch.indices) * _PLACES), full=full)
            track.advance(len(batch.indices))
    return {name: found.moments() for name, found in sums.items()}


class _Sums:
    def __init__(self) -> None:
        self.places = 0
        self.sums: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, seen: torch.Tensor, *, full: bool) -> None:
        import torch

        self.places += seen.shape[2]
        mean = seen.sum(dim=2).double()
        second = torch.bmm(seen, seen.transpose(1, 2)) if full else (seen * seen).sum(dim=2)
        if self.sums is None:
            self.sums = mean, second
        else:
            self.sums[0].add_(mean)
            self.sums[1].add_(second)

    def moments(self) -> InputMoments:
        assert self.sums is not None
        mean, second = (total.div_(self.places).numpy() for total in self.sums)
        return InputMoments(mean=mean, second=second)


def _fewer(seen: torch.Tensor, limit: int) -> torch.Tensor:
    """Evenly spread places, `limit` at most."""
    import torch

    places = seen.shape[2]
    return seen if places <= limit else seen[:, :, torch.arange(limit) * places // limit]


def columns(layer: WeightedNode, x: torch.Tensor) -> torch.Tensor:
    """What each filter sees at each place: `(groups, inputs of a filter, places)`.

    Args:
        layer: A convolution, or a fully connected layer.
        x: `(N, C, H, W)`, or `(N, C)`.
    """
    import torch

    if layer.node.op_type != "Conv":
        return x.reshape(-1, layer.weight.shape[1]).T.unsqueeze(0)
    attributes = layer.node.attributes
    kernel = layer.weight.shape[2:]
    groups = attributes.get_int("group", 1)
    top, left, bottom, right = attributes.get_ints("pads", (0, 0, 0, 0))
    padded = torch.nn.functional.pad(x, (left, right, top, bottom))
    unfolded = torch.nn.functional.unfold(
        padded,
        kernel,
        dilation=tuple(attributes.get_ints("dilations", (1, 1))),
        stride=tuple(attributes.get_ints("strides", (1, 1))),
    )
    images, inputs, places = unfolded.shape
    return unfolded.reshape(images, groups, inputs // groups, places).permute(1, 2, 0, 3).flatten(2)
