"""The AlexNet family as a table, and the arithmetic of every layer, without any framework.

The torch module (`network.py`), `alexnet-deploy inspect --variant` and the roofline all read the layers that
`layers_from_network` computes here, so that a shape is written down once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Self

from alexnet_deploy.errors import InputError
from alexnet_deploy.specs import LrnSpec

FC_FEATURES = 4096
DEFAULT_CLASSES = 1000
MAX_CLASSES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One member of the family.

    Attributes:
        image_size: Default height and width of the input; `image_sizes` are those it was published with.
        filters: Output channels of the five convolutions.
        grouped: Whether conv2, conv4 and conv5 see half of the channels each (two GPUs in 2012).
        pool_before_norm: CaffeNet's order.
        pool5_ceil: Whether the last pool rounds its output size up (Caffe's rule).
    """

    name: str
    summary: str
    image_size: int = 224
    image_sizes: tuple[int, ...] = (224,)
    filters: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256)
    grouped: bool = True
    conv1_padding: int = 0
    lrn: LrnSpec | None = field(default_factory=LrnSpec)
    pool_before_norm: bool = False
    pool5_ceil: bool = False


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(
            name="paper",
            summary="Krizhevsky 2012, as its arithmetic works out",
            conv1_padding=2,
            lrn=LrnSpec(bias=2.0),
        ),
        Variant(
            name="unpadded",
            summary="the common description: 96@54x54, fc6 from 6400",
            lrn=LrnSpec(bias=2.0),
        ),
        Variant(
            name="bvlc",
            summary="BVLC AlexNet and the ONNX zoo's bvlcalexnet",
            image_size=227,
            image_sizes=(227, 224),
            pool5_ceil=True,
        ),
        Variant(
            name="caffenet",
            summary="CaffeNet: pool before norm",
            image_size=227,
            image_sizes=(227, 224),
            pool_before_norm=True,
            pool5_ceil=True,
        ),
        Variant(
            name="owt",
            summary="torchvision's AlexNet (one weird trick), no LRN",
            filters=(64, 192, 384, 256, 256),
            grouped=False,
            conv1_padding=2,
            lrn=None,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Everything that fixes the shapes of a network.

    Attributes:
        width: Multiplier on every channel count but the input's and the classes, rounded to multiples of 8.
        softmax: Whether the network ends in a softmax; logits otherwise.
    """

    variant: str = "paper"
    classes: int = DEFAULT_CLASSES
    width: float = 1.0
    image_size: int = 0
    softmax: bool = False

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise InputError("no such variant", got=self.variant, expected=", ".join(VARIANTS))
        if not 1 <= self.classes <= MAX_CLASSES or not 0 < self.width <= 8:
            raise InputError(
                "a network of that size cannot be made",
                got=f"classes {self.classes}, width {self.width}",
                expected=f"1 to {MAX_CLASSES:,} classes and a width above 0 and up to 8",
            )
        if self.image_size == 0:
            object.__setattr__(self, "image_size", VARIANTS[self.variant].image_size)
        if not 63 <= self.image_size <= 1024:
            raise InputError(
                "the input is too small or too large for AlexNet's strides",
                got=f"image_size {self.image_size}",
                expected="63 to 1024",
            )

    @property
    def family(self) -> Variant:
        """The variant's row of the table."""
        return VARIANTS[self.variant]

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "variant": self.variant,
            "classes": self.classes,
            "width": self.width,
            "image_size": self.image_size,
            "softmax": self.softmax,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            InputError: A field is missing or of the wrong type.
        """
        try:
            return cls(
                variant=str(values["variant"]),
                classes=int(values["classes"]),
                width=float(values["width"]),
                image_size=int(values["image_size"]),
                softmax=bool(values["softmax"]),
            )
        except (TypeError, ValueError, KeyError, OverflowError) as exc:
            raise InputError("the network description cannot be read", got=repr(exc)) from exc


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer: what it is, and what it costs for one image.

    Attributes:
        op: conv, relu, lrn, pool, dropout, linear or softmax.
        input, output: `(channels, height, width)`, or `(features,)`.
        macs: Multiply-adds for one image.
        arithmetic: How the output size comes about, as a textbook writes it.
    """

    name: str
    op: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    kernel: int = 0
    stride: int = 0
    padding: int = 0
    groups: int = 1
    ceil: bool = False
    parameters: int = 0
    macs: int = 0
    arithmetic: str = ""

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight tensor, empty where there is none."""
        if self.op == "conv":
            return (self.output[0], self.input[0] // self.groups, self.kernel, self.kernel)
        return (self.output[0], self.input[0]) if self.op == "linear" else ()


def scaled(channels: int, width: float) -> int:
    """`channels * width`, to the nearest multiple of 8, at least 8; so that two groups divide."""
    return channels if width == 1.0 else max(8, round(channels * width / 8) * 8)


def layers_from_network(spec: NetworkSpec) -> tuple[Layer, ...]:
    """Computes every layer's shape, parameters and multiply-adds.

    Raises:
        InputError: The input is too small for the pools.
    """
    return tuple(_Layers(spec).build())


class _Layers:
    """Grows the list of layers; holds the shape reached so far."""

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec, self.shape, self.rows = spec, (3, spec.image_size, spec.image_size), list[Layer]()

    def build(self) -> list[Layer]:
        family, spec = self.spec.family, self.spec
        conv = [scaled(channels, spec.width) for channels in family.filters]
        halves = 2 if family.grouped else 1
        self._conv(1, conv[0], kernel=11, stride=4, padding=family.conv1_padding)
        self._norm_and_pool(1)
        self._conv(2, conv[1], kernel=5, padding=2, groups=halves)
        self._norm_and_pool(2)
        self._conv(3, conv[2], kernel=3, padding=1)
        self._conv(4, conv[3], kernel=3, padding=1, groups=halves)
        self._conv(5, conv[4], kernel=3, padding=1, groups=halves)
        self._pool("pool5", ceil=family.pool5_ceil)
        features = math.prod(self.shape)
        hidden = scaled(FC_FEATURES, spec.width)
        for name, inputs, outputs in (("6", features, hidden), ("7", hidden, hidden)):
            self._linear(f"fc{name}", inputs, outputs)
            self.rows.append(Layer(name=f"relu{name}", op="relu", input=(outputs,), output=(outputs,)))
            self.rows.append(Layer(name=f"drop{name}", op="dropout", input=(outputs,), output=(outputs,)))
        self._linear("fc8", hidden, spec.classes)
        if spec.softmax:
            self.rows.append(Layer(name="prob", op="softmax", input=(spec.classes,), output=(spec.classes,)))
        return self.rows

    def _conv(
        self, index: int, channels: int, *, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> None:
        side = _output_side(self.shape[1], kernel, stride, padding, ceil=False, name=f"conv{index}")
        weights = channels * (self.shape[0] // groups) * kernel * kernel
        layer = Layer(
            name=f"conv{index}",
            op="conv",
            input=self.shape,
            output=(channels, side, side),
            kernel=kernel,
            stride=stride,
            padding=padding,
            groups=groups,
            parameters=weights + channels,
            macs=weights * side * side,
            arithmetic=f"floor(({self.shape[1]} + 2*{padding} - {kernel}) / {stride}) + 1 = {side}",
        )
        self.shape = (channels, side, side)
        self.rows += [layer, Layer(name=f"relu{index}", op="relu", input=self.shape, output=self.shape)]

    def _norm_and_pool(self, index: int) -> None:
        if self.spec.family.pool_before_norm:
            self._pool(f"pool{index}")
            self._norm(index)
        else:
            self._norm(index)
            self._pool(f"pool{index}")

    def _norm(self, index: int) -> None:
        lrn = self.spec.family.lrn
        if lrn is None:
            return
        self.rows.append(
            Layer(
                name=f"norm{index}",
                op="lrn",
                input=self.shape,
                output=self.shape,
                kernel=lrn.size,
                arithmetic=f"x / ({lrn.bias:g} + {lrn.alpha:g}/{lrn.size} * sum of {lrn.size} squares)^{lrn.beta:g}",
            )
        )

    def _pool(self, name: str, *, ceil: bool = False) -> None:
        side = _output_side(self.shape[1], 3, 2, 0, ceil=ceil, name=name)
        output = (self.shape[0], side, side)
        rule = "ceil" if ceil else "floor"
        self.rows.append(
            Layer(
                name=name,
                op="pool",
                input=self.shape,
                output=output,
                kernel=3,
                stride=2,
                ceil=ceil,
                arithmetic=f"{rule}(({self.shape[1]} - 3) / 2) + 1 = {side}",
            )
        )
        self.shape = output

    def _linear(self, name: str, inputs: int, outputs: int) -> None:
        self.rows.append(
            Layer(
                name=name,
                op="linear",
                input=(inputs,),
                output=(outputs,),
                parameters=inputs * outputs + outputs,
                macs=inputs * outputs,
                arithmetic=f"{' * '.join(map(str, self.shape))} = {inputs} inputs" if name == "fc6" else "",
            )
        )


def _output_side(side: int, kernel: int, stride: int, padding: int, *, ceil: bool, name: str) -> int:
    steps = (side + 2 * padding - kernel) / stride
    if steps < 0:
        raise InputError(
            f"the input is too small for {name}",
            got=f"{side}x{side} before a {kernel}x{kernel} window",
            remedy="use a larger image size",
        )
    return (math.ceil(steps) if ceil else math.floor(steps)) + 1
